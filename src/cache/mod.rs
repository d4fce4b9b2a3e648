//! [`KvCache`]: a packed cache for every layer of a model, one `append` and one `attend` a layer.
//!
//! # Order of calls
//!
//! 1. Once: [`KvCache::new`], then [`KvCache::bind`] for each layer, with the buffers that hold
//!    the engine's q, k, v and output.
//! 2. Each step: [`begin_step`](KvCache::begin_step); for each layer
//!    [`append`](KvCache::append) and [`attend`](KvCache::attend) into the engine's own pass;
//!    [`end_step`](KvCache::end_step).
//! 3. After the engine's submit: [`submitted`](KvCache::submitted).
//!
//! Any other order is a [`Misuse`] error, and nothing is recorded.
//!
//! # Why in this order
//!
//! A write through a queue lands before all of the next submit, not where it stands between two
//! dispatches. So what changes from step to step (lengths, slots, splits) must be in place before
//! the first dispatch, and dispatches of one submit cannot take turns with one parameter block.
//! `begin_step` therefore writes the parameters of all layers at once into slots of the step's own;
//! equal layers share theirs, and a recording only names the slot, by a dynamic offset.
//! The slots are as many as [`Config::steps_per_submit`] needs. The cache cannot see a submit, so
//! the engine says when one was made: a step whose slots might still be waiting is refused.
//!
//! Bind groups over the engine's buffers are made in `bind`. After that nothing allocates on the
//! device, copies or submits; the one use of the queue is the write that `begin_step` is given it
//! for.
//!
//! q is rotated in place, the output as well: neither needs a buffer of the cache's. Afterwards the
//! q buffer holds rotated queries, which is why a layer attends once a step.
//!
//! A step of one token attends by `flash_attn_vec_tq`, one of several by `flash_attn_tile`, which
//! decodes a row once for a whole tile of queries; long contexts are split and merged by
//! `flash_attn_vec_reduce` either way.
//!
//! # One dispatch
//!
//! Where [`Caps::storage_fence`](crate::contract::Caps::storage_fence) is set and the output is
//! [`Output::Rows`], a step of one token over packed K is a single `flash_attn_decode_tq` in place of
//! these four. q is not rotated in place then. The counters in its scratch are zero when it is made and
//! left so. Open the device with `wgpu::Features::MEMORY_DECORATION_COHERENT` where the adapter has it:
//! without the feature, steps of one token take the four dispatches.
//!
//! # Dense K
//!
//! A format such as `kf16v4` stores K as it is, in f16 or f32, and V as codes: for models whose K
//! quantises badly. `append` is then two dispatches, `store_kv` and `quantize_kv`; q is not
//! rotated; and steps of one token attend by `flash_attn_tile` as well, since `flash_attn_vec_tq`
//! reads codes only. The output is in the basis of V either way and is rotated back. In f16, values
//! beyond 65504 become what the device makes of them.
//!
//! # Lengths
//!
//! All layers have seen the same tokens. Position p lies at slot `p % capacity`; a ring keeps the
//! newest `capacity` positions. [`truncate`](KvCache::truncate) forgets the newest ones, as far as
//! no ring has overwritten what an earlier token would see.

mod append;
mod bytes;
mod config;
mod history;
mod io;
mod kind;
mod kv_cache;
mod make;
mod misuse;
pub mod snapshot;
mod transfer;

pub use crate::oracle::flash_attn_vec_reduce::{Partials, merge};
pub use bytes::Bytes;
pub use config::{Config, LayerConfig, Output, Storage};
pub use io::{Io, LayerIo};
pub use kv_cache::{KvCache, PartialsLayout};
pub use misuse::Misuse;
pub use snapshot::{Snapshot, SnapshotHeader};
