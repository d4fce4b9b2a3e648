//! Cases of `flash_attn_tile`.

use super::attention::attention_tolerance;
use super::pages::PagedRows;
use super::{CaseResult, Outcome, Prepared, floats, judge, judge_pair};
use crate::codec::{Bits, HeadDim, KeyFormat};
use crate::contract::{Caps, Language, Launch, Plan};
use crate::driver::DriverError;
use crate::kernels::flash_attn_tile::Problem;
use crate::legs::{BufferId, POISON, Tape};
use crate::oracle::flash_attn_tile::{Inputs, flash_attn_tile, max_abs_score};
use crate::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use crate::params::{FlashAttnTileParams, FlashAttnVecReduceParams, TileSequence};
use crate::rng::Gaussian;

/// A sequence: its query tokens and its part of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Query tokens.
    pub query_tokens: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slots.
    pub kv_capacity: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
    /// Position of the first query token; none: the newest positions are those of the query
    /// tokens.
    pub position: Option<u32>,
}

/// Attention of a few tokens of a few sequences, and its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// How K is stored.
    pub k: KeyFormat,
    /// How V is stored.
    pub v: KeyFormat,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// The sequences.
    pub sequences: Vec<Sequence>,
    /// Slots of a page; none: a page for each sequence, as large as the largest needs.
    pub page_size: Option<u32>,
    /// 0 none, 1 causal, 2 sliding.
    pub mask_type: u32,
    /// Window of mask 2.
    pub sliding_window: u32,
    /// Softcap; 0 is off.
    pub softcap: f32,
    /// Slots of the partials.
    pub nwg: u32,
    /// First slot of the dispatch.
    pub split_base: u32,
    /// Slots of the dispatch.
    pub splits: u32,
    /// Standard deviation of the scores before the softcap.
    pub score_sigma: f32,
    /// Seed of the data.
    pub seed: u64,
}

impl Case {
    fn page_size(&self) -> u32 {
        let largest = self.sequences.iter().map(|s| s.kv_capacity).max();
        self.page_size.or(largest).unwrap_or(1)
    }

    /// The records: sequences after each other in q and in the block table.
    pub fn records(&self) -> Vec<TileSequence> {
        let (mut first_token, mut first_block) = (0, 0);
        let record = |s: &Sequence| {
            let record = TileSequence {
                first_token,
                query_tokens: s.query_tokens,
                position: s.position.unwrap_or(s.kv_seq_len.saturating_sub(s.query_tokens)),
                kv_seq_len: s.kv_seq_len,
                ring_start: s.ring_start,
                kv_capacity: s.kv_capacity,
                first_block,
            };
            first_token += s.query_tokens;
            first_block += s.kv_capacity.div_ceil(self.page_size());
            record
        };
        self.sequences.iter().map(record).collect()
    }

    /// The block table: every page but two is of some block, in an order that the seed shuffles.
    fn block_table(&self) -> Vec<u32> {
        let blocks = |s: &Sequence| s.kv_capacity.div_ceil(self.page_size());
        let blocks: u32 = self.sequences.iter().map(blocks).sum();
        let mut pages: Vec<u32> = (0..blocks + 2).collect();
        let mut rng = Gaussian::new(self.seed ^ 0xb10c);
        for i in (1..pages.len()).rev() {
            pages.swap(i, rng.bits() as usize % (i + 1));
        }
        pages.truncate(blocks as usize);
        pages
    }

    /// Parameters of the case.
    pub fn params(&self) -> FlashAttnTileParams {
        let (d, num_blocks) = (self.head_dim.get(), self.block_table().len() as u32);
        FlashAttnTileParams {
            n_heads: self.num_heads,
            n_kv_heads: self.num_kv_heads,
            head_dim: d,
            num_tokens: self.sequences.iter().map(|s| s.query_tokens).sum(),
            num_sequences: self.sequences.len() as u32,
            max_query_tokens: self.sequences.iter().map(|s| s.query_tokens).max().unwrap_or(0),
            page_size: self.page_size(),
            num_pages: num_blocks + 2,
            num_blocks,
            // q and k are N(0, 1): their product has standard deviation sqrt(D).
            scale: self.score_sigma / (d as f32).sqrt(),
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            nwg: self.nwg,
            split_base: self.split_base,
            splits: self.splits,
            scale_factor_d512: 1.0,
        }
    }

    /// The shape in few characters, unique among [`cases`].
    pub(super) fn name(&self) -> String {
        let mut name = format!(
            "d{} k{}v{} heads{}/{}",
            self.head_dim, self.k, self.v, self.num_heads, self.num_kv_heads
        );
        for s in &self.sequences {
            let Sequence { query_tokens, kv_seq_len, kv_capacity, ring_start, position } = s;
            name += &format!(" q{query_tokens} n{kv_seq_len}/{kv_capacity} at {ring_start}");
            if let Some(position) = position {
                name += &format!(" from {position}");
            }
        }
        if let Some(page_size) = self.page_size {
            name += &format!(" pages{page_size}");
        }
        match self.mask_type {
            0 => name += " unmasked",
            2 => name += &format!(" window{}", self.sliding_window),
            _ => {}
        }
        if self.softcap > 0.0 {
            name += &format!(" softcap{}", self.softcap);
        }
        if self.nwg > 1 {
            name += &format!(" splits{}+{} of {}", self.split_base, self.splits, self.nwg);
        }
        if self.score_sigma != 1.0 {
            name += &format!(" sigma{}", self.score_sigma);
        }
        name
    }

    pub(super) fn problem(&self) -> Problem {
        Problem {
            head_dim: self.head_dim,
            k: self.k,
            v: self.v,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
        }
    }

    /// K or V of every sequence, in its pages.
    fn rows(&self, format: KeyFormat, table: &[u32], seed: u64) -> Result<PagedRows, DriverError> {
        let (params, d) = (self.params(), self.head_dim.as_usize());
        let rows = params.num_pages * params.n_kv_heads * params.page_size;
        let mut cache = PagedRows::empty(format, self.head_dim, rows as usize, seed);
        let mut rng = Gaussian::new(seed);
        for record in self.records() {
            let (ring, table) = (record.ring()?, &table[record.first_block as usize..]);
            for kv_head in 0..self.num_kv_heads {
                for i in 0..record.kv_seq_len {
                    let (page, slot) = params.locate(ring, table, i);
                    let at = (page * params.n_kv_heads + kv_head) * params.page_size + slot;
                    cache.put(at as usize, &rng.normals(d));
                }
            }
        }
        Ok(cache)
    }
}

/// `q` query tokens, `n` stored positions in `cap` slots, the oldest at `start`.
pub fn sequence(q: u32, n: u32, cap: u32, start: u32) -> Sequence {
    Sequence { query_tokens: q, kv_seq_len: n, kv_capacity: cap, ring_start: start, position: None }
}

/// A shape in the middle of everything; others vary one thing at a time from it.
pub fn base(head_dim: HeadDim) -> Case {
    Case {
        head_dim,
        k: KeyFormat::Tq(Bits::B4),
        v: KeyFormat::Tq(Bits::B4),
        num_heads: 4,
        num_kv_heads: 2,
        sequences: vec![sequence(9, 50, 64, 40)],
        page_size: None,
        mask_type: 1,
        sliding_window: 0,
        softcap: 0.0,
        nwg: 1,
        split_base: 0,
        splits: 1,
        score_sigma: 1.0,
        seed: 21,
    }
}

/// A batch with everything in it: a long and a short context, no query token, no stored position,
/// one token, and a prompt from its start; rings that wrap and capacities that pages do not divide.
fn batch() -> Vec<Sequence> {
    vec![
        sequence(5, 33, 41, 30),
        sequence(0, 20, 32, 7),
        sequence(3, 0, 16, 0),
        sequence(1, 70, 80, 65),
        sequence(12, 12, 12, 3),
    ]
}

/// Every edge at each head dim: one token, several tiles, a batch of pages, a window, splits.
fn edges(head_dim: HeadDim) -> Vec<Case> {
    let base = base(head_dim);
    vec![
        Case { sequences: vec![sequence(1, 50, 64, 40)], ..base.clone() },
        Case { sequences: vec![sequence(37, 37, 40, 0)], ..base.clone() },
        Case { sequences: batch(), page_size: Some(16), ..base.clone() },
        Case {
            sequences: vec![sequence(20, 60, 64, 10)],
            mask_type: 2,
            sliding_window: 7,
            softcap: 30.0,
            score_sigma: 4.0,
            ..base.clone()
        },
        Case { nwg: 3, splits: 3, ..base.clone() },
        base,
    ]
}

/// Masks, softcaps, pages, rings, splits and positions, at the smallest head dim.
fn shapes() -> Vec<Case> {
    let base = base(HeadDim::ALL[0]);
    let one = |s: Sequence| Case { sequences: vec![s], ..base.clone() };
    let window =
        |sliding_window| Case { mask_type: 2, sliding_window, nwg: 3, splits: 3, ..base.clone() };
    let capped = |softcap, score_sigma| Case { softcap, score_sigma, ..base.clone() };
    let at = |position, s: Sequence| one(Sequence { position: Some(position), ..s });
    let mut shapes = vec![
        Case { mask_type: 0, ..base.clone() },
        Case { mask_type: 0, sequences: batch(), page_size: Some(17), ..base.clone() },
        Case { sequences: batch(), mask_type: 2, sliding_window: 6, ..base.clone() },
        Case {
            sequences: vec![sequence(3, 200, 256, 100), sequence(40, 130, 384, 380)],
            page_size: Some(128),
            ..base.clone()
        },
        Case {
            sequences: (1..6).map(|n| sequence(1, 30 * n, 150, 17 * n)).collect(),
            ..base.clone()
        },
        Case {
            sequences: batch(),
            page_size: Some(16),
            nwg: 5,
            split_base: 2,
            splits: 2,
            ..base.clone()
        },
        Case { nwg: 256, split_base: 255, ..base.clone() },
        one(sequence(1, 1, 1, 0)),
        one(sequence(4, 33, 33, 32)),
        one(sequence(2, 0, 4, 1)),
        at(50, sequence(9, 50, 64, 40)),
        at(3, sequence(9, 50, 64, 40)),
        at(0, sequence(70, 50, 50, 49)),
        capped(2.0, 4.0),
        capped(1000.0, 4.0),
        capped(0.0, 16.0),
    ];
    shapes.extend([0, 1, 50, 60].map(window));
    shapes
}

/// Every kind of ratio of query heads to KV heads.
fn ratios() -> Vec<Case> {
    let ratio = |g: u32| Case { num_heads: 2 * g, ..base(HeadDim::ALL[1]) };
    [1, 3, 7, 8, 11].map(ratio).into()
}

/// Formats of K and V: every width on either side, dense K with packed V and the reverse, dense
/// both; at the largest head dim, where a row has two norms, one of each kind.
fn formats() -> Vec<Case> {
    let with = |d: usize, format: (KeyFormat, KeyFormat)| Case {
        k: format.0,
        v: format.1,
        sequences: vec![sequence(9, 50, 64, 40), sequence(2, 10, 48, 40)],
        page_size: Some(16),
        ..base(HeadDim::ALL[d])
    };
    let tq = KeyFormat::Tq;
    let (f32, f16) = (KeyFormat::F32, KeyFormat::F16);
    let widths = Bits::ALL.into_iter().zip(Bits::ALL.into_iter().cycle().skip(1));
    let mut cases: Vec<Case> = widths.map(|(k, v)| with(0, (tq(k), tq(v)))).collect();
    let (b3, b4, b8) = (tq(Bits::B3), tq(Bits::B4), tq(Bits::B8));
    let small = [(b8, b8), (b8, b4), (f16, b4), (f32, b3), (b4, f16), (b3, f32)];
    cases.extend(small.map(|format| with(0, format)));
    cases.extend([(f32, f32), (f16, f16), (f32, f16)].map(|format| with(0, format)));
    cases.extend([(b8, b3), (f16, b4), (b4, f32)].map(|format| with(3, format)));
    cases
}

/// The cases of the kernel.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = HeadDim::ALL.into_iter().flat_map(edges).collect();
    cases.extend(shapes());
    cases.extend(ratios());
    cases.extend(formats());
    cases
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_tile"
    }

    fn id(&self) -> String {
        self.name()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        Ok(Box::new(self.data()?))
    }
}

impl Case {
    /// Inputs and reference, with the tolerance of f32.
    pub(super) fn data(&self) -> Result<Data, DriverError> {
        let (params, records, table) = (self.params(), self.records(), self.block_table());
        let k = self.rows(self.k, &table, self.seed)?;
        let v = self.rows(self.v, &table, self.seed + 1)?;
        let queries = params.num_tokens * params.n_heads;
        let q = Gaussian::new(self.seed + 2).normals(queries as usize * self.head_dim.as_usize());
        let inputs = Inputs {
            sequences: &records,
            block_table: &table,
            q: &q,
            k: k.pages(params.page_size),
            v: v.pages(params.page_size),
        };
        let whole = FlashAttnTileParams { nwg: 1, split_base: 0, splits: 1, ..params };
        let want = flash_attn_tile(&whole, &inputs)?;
        let parts = if self.nwg > 1 { flash_attn_tile(&params, &inputs)? } else { Vec::new() };
        let max_score = max_abs_score(&params, &inputs)?;
        let tolerance = attention_tolerance(max_score);
        let reference = Reference { params, want, parts, tolerance };
        Ok(Data { case: self.clone(), records, table, q, k, v, max_score, reference })
    }
}

/// The output that is wanted, and for partials the oracle's.
pub(super) struct Reference {
    params: FlashAttnTileParams,
    want: Vec<f64>,
    parts: Vec<f64>,
    pub(super) tolerance: f64,
}

impl Reference {
    fn rows(&self) -> usize {
        (self.params.num_tokens * self.params.n_heads) as usize
    }

    /// Slot of the partials that float `i` is in.
    fn slot(&self, i: usize) -> u32 {
        let pairs = self.rows() * (self.params.head_dim * self.params.nwg) as usize;
        let quads = if i < pairs { i / 4 } else { (i - pairs) / 2 };
        quads as u32 % self.params.nwg
    }

    fn written(&self, slot: u32) -> bool {
        let first = self.params.split_base;
        (first..first + self.params.splits).contains(&slot)
    }

    /// Partials before the dispatch: poison where it must write, and elsewhere slots that saw
    /// nothing.
    fn before(&self) -> Vec<u32> {
        let word = |i| if self.written(self.slot(i)) { POISON } else { 0 };
        (0..self.params.dst_floats() as usize).map(word).collect()
    }

    /// The output itself. Partials are merged by the reduce oracle, after it has been checked that
    /// only the dispatch's slots were written, these in full, and that a sum is 0 exactly where
    /// the query sees nothing of the split.
    fn output(&self, dst: Vec<f32>) -> Result<Vec<f32>, String> {
        let (rows, p) = (self.rows(), &self.params);
        if p.nwg == 1 {
            return Ok(dst);
        }
        for (i, (x, before)) in dst.iter().zip(self.before()).enumerate() {
            let written = self.written(self.slot(i));
            if (x.to_bits() == before) == written {
                return Err(format!("float {i} of the partials was written: {}", !written));
            }
        }
        let pairs = rows * (p.head_dim * p.nwg) as usize;
        for (i, (x, want)) in dst.iter().zip(&self.parts).enumerate().skip(pairs).step_by(2) {
            if (*x == 0.0) != (*want == 0.0) {
                return Err(format!("S in float {i} of the partials is {x}, want {want}"));
            }
        }
        let reduce = FlashAttnVecReduceParams { nrows: rows as u32, nwg: p.nwg };
        let merged = flash_attn_vec_reduce(&reduce, p.head_dim, &dst).map_err(|e| e.to_string())?;
        Ok(merged.iter().map(|&x| x as f32).collect())
    }
}

/// A case with its inputs and its reference.
pub(super) struct Data {
    pub(super) case: Case,
    records: Vec<TileSequence>,
    table: Vec<u32>,
    q: Vec<f32>,
    k: PagedRows,
    v: PagedRows,
    /// Largest absolute score.
    pub(super) max_score: f64,
    pub(super) reference: Reference,
}

impl Data {
    /// What a launch is checked by.
    pub(super) fn call(&self) -> (&FlashAttnTileParams, &[TileSequence], &[u32]) {
        (&self.reference.params, &self.records, &self.table)
    }

    /// The step of a kernel with the buffers of `flash_attn_tile`, and what it writes.
    pub(super) fn step(&self, plan: Plan, launch: Launch) -> (Tape<'_>, Vec<BufferId>) {
        let params = &self.reference.params;
        let mut tape = Tape::default();
        let mut buffers = vec![
            tape.input("q", bytemuck::cast_slice(&self.q)),
            tape.input("sequences", bytemuck::cast_slice(&self.records)),
            tape.input("block_table", bytemuck::cast_slice(&self.table)),
            tape.input("k", self.k.bytes()),
            tape.input("k_norms", self.k.norm_bytes()),
            tape.input("v", self.v.bytes()),
            tape.input("v_norms", self.v.norm_bytes()),
        ];
        let dst = if params.nwg == 1 {
            tape.output("dst", params.dst_floats() * 4)
        } else {
            tape.in_out("dst", bytemuck::cast_slice(&self.reference.before()).to_vec())
        };
        buffers.push(dst);
        tape.step(plan, launch, &buffers);
        (tape, vec![dst])
    }
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = self.case.problem();
        let (params, records, table) = self.call();
        let launch = problem.launch(params, records, table, caps)?;
        Ok(self.step(problem.plan(caps, language)?, launch))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let (d, r) = (self.case.head_dim.as_usize(), &self.reference);
        Ok(match r.output(floats(outputs[0])) {
            Ok(got) => judge(&got, &r.want, d, r.tolerance),
            Err(detail) => Outcome::broken(detail, r.tolerance),
        })
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let r = &self.reference;
        Ok(match (r.output(floats(left[0])), r.output(floats(right[0]))) {
            (Ok(left), Ok(right)) => judge_pair(&left, &right, &r.want, r.tolerance),
            (Err(detail), _) | (_, Err(detail)) => Outcome::broken(detail, r.tolerance),
        })
    }
}
