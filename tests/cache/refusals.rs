//! What a cache refuses, with what it needed and found. On wgpu's noop device: nothing runs.

use wgtq::Error;
use wgtq::cache::{Config, Io, KvCache, LayerConfig, LayerIo, Misuse, Output, Snapshot};
use wgtq::contract::Caps;
use wgtq::wgpu;

use crate::rig::{layer, ring};

struct Noop {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

fn noop() -> Noop {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    Noop { device, queue }
}

impl Noop {
    fn cache(&self, config: &Config) -> Result<KvCache, Error> {
        KvCache::new(&self.device, &Caps::of(&self.device), config)
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// Buffers with room for `tokens` tokens of 512 bytes.
    fn bind(&self, cache: &KvCache, layer: usize, tokens: u64) -> Result<LayerIo, Error> {
        let [q, k, v, out] =
            [(); 4].map(|()| self.buffer(tokens * 512, wgpu::BufferUsages::STORAGE));
        let io = Io {
            q: q.as_entire_buffer_binding(),
            k: k.as_entire_buffer_binding(),
            v: v.as_entire_buffer_binding(),
            out: out.as_entire_buffer_binding(),
        };
        cache.bind(&self.device, layer, io)
    }

    /// Records with `f`.
    fn pass<T>(&self, f: impl FnOnce(&mut wgpu::ComputePass<'_>) -> T) -> T {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let value = f(&mut encoder.begin_compute_pass(&Default::default()));
        self.queue.submit([encoder.finish()]);
        value
    }
}

fn two_layers() -> Config {
    Config::new(vec![layer("k8v4", 10), ring("k4v4", 12, 5)], 4)
}

#[test]
fn a_config_that_cannot_work_is_refused_before_anything_is_made() {
    let noop = noop();
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = two_layers();
        change(&mut config);
        noop.cache(&config).unwrap_err().to_string()
    };
    let layer = |change: &dyn Fn(&mut LayerConfig)| refused(&|c| change(&mut c.layers[1]));
    for (message, want) in [
        (refused(&|c| c.layers.clear()), "layers: need at least 1, found 0"),
        (refused(&|c| c.max_step_tokens = 0), "max_step_tokens: need at least 1, found 0"),
        (refused(&|c| c.steps_per_submit = 0), "steps_per_submit: need at least 1, found 0"),
        (
            refused(&|c| c.max_step_tokens = 9),
            "capacity: need at least 13 for a ring: sliding_window + max_step_tokens - 1, found 12",
        ),
        (layer(&|l| l.sliding_window = 0), "sliding_window: need at least 1 for a ring, found 0"),
        (
            layer(&|l| (l.num_heads, l.num_kv_heads) = (3, 2)),
            "num_heads: need a positive multiple of num_kv_heads 2, found 3",
        ),
        (layer(&|l| l.scale = 0.0), "scale: need a finite number above 0, found 0"),
        (layer(&|l| l.capacity = 0), "kv_capacity: need 1 to 2147483648, found 0"),
    ] {
        assert_eq!(message, want);
    }
    let large = layer(&|l| l.capacity = 1 << 30);
    assert!(large.starts_with("KvCache: needs max_"), "{large}");
    let slots = refused(&|c| c.steps_per_submit = u32::MAX);
    assert!(slots.starts_with("steps_per_submit: need parameters under 2^32 bytes"), "{slots}");
}

#[test]
fn calls_in_any_other_order_are_refused() {
    let noop = noop();
    let mut cache = noop.cache(&two_layers()).unwrap();
    let ios: Vec<LayerIo> = (0..2).map(|l| noop.bind(&cache, l, 4).unwrap()).collect();
    let misuse = |result: Result<(), Error>| match result {
        Err(Error::Cache(misuse)) => misuse,
        other => panic!("{other:?}"),
    };
    noop.pass(|pass| {
        assert_eq!(misuse(cache.append(pass, &ios[0])), Misuse::NoStep);
        assert_eq!(misuse(cache.attend(pass, &ios[0])), Misuse::NoStep);
        assert_eq!(misuse(cache.end_step()), Misuse::NoStep);
        for tokens in [0, 5] {
            let found = misuse(cache.begin_step(&noop.queue, tokens));
            assert_eq!(found, Misuse::Tokens { most: 4, found: tokens });
        }
        let windowed = misuse(cache.begin_read(&noop.queue, 1));
        assert_eq!(windowed, Misuse::WindowedRead { layer: 1, window: 5 });

        cache.begin_step(&noop.queue, 4).unwrap();
        assert_eq!(misuse(cache.begin_step(&noop.queue, 1)), Misuse::StepOpen { tokens: 4 });
        assert_eq!(misuse(cache.truncate(0)), Misuse::StepOpen { tokens: 4 });
        assert_eq!(misuse(cache.submitted()), Misuse::StepOpen { tokens: 4 });
        assert_eq!(misuse(cache.attend(pass, &ios[0])), Misuse::NotAppended { layer: 0 });
        cache.append(pass, &ios[0]).unwrap();
        assert_eq!(misuse(cache.append(pass, &ios[0])), Misuse::AppendedTwice { layer: 0 });
        cache.attend(pass, &ios[0]).unwrap();
        assert_eq!(misuse(cache.attend(pass, &ios[0])), Misuse::AttendedTwice { layer: 0 });
        assert_eq!(misuse(cache.end_step()), Misuse::NotAppended { layer: 1 });
        cache.append(pass, &ios[1]).unwrap();
        cache.end_step().unwrap();
        assert_eq!(misuse(cache.begin_step(&noop.queue, 1)), Misuse::NotSubmitted { most: 1 });
    });
    cache.submitted().unwrap();
    assert_eq!(misuse(cache.truncate(5)), Misuse::Longer { len: 4, found: 5 });
}

#[test]
fn a_step_that_does_not_fit_is_refused_and_nothing_changes() {
    let noop = noop();
    let mut cache = noop.cache(&two_layers()).unwrap();
    let ios: Vec<LayerIo> = (0..2).map(|l| noop.bind(&cache, l, 4).unwrap()).collect();
    let step = |cache: &mut KvCache, tokens| -> Result<(), Error> {
        cache.begin_step(&noop.queue, tokens)?;
        noop.pass(|pass| ios.iter().try_for_each(|io| cache.append(pass, io)))?;
        cache.end_step()?;
        cache.submitted()
    };
    step(&mut cache, 4).unwrap();
    step(&mut cache, 4).unwrap();
    let full = step(&mut cache, 3).unwrap_err();
    assert_eq!(full, Error::Cache(Misuse::NoRoom { layer: 0, needed: 11, found: 10 }));
    assert_eq!(full.to_string(), "KvCache: layer 0: need room for 11 positions, found 10");
    step(&mut cache, 2).unwrap();
    assert_eq!(cache.len(), 10);

    // The ring alone: 20 positions in 12 slots, of which a window of 5 must be whole.
    let mut cache = noop.cache(&Config::new(vec![ring("k4v4", 12, 5)], 4)).unwrap();
    let io = noop.bind(&cache, 0, 4).unwrap();
    for _ in 0..5 {
        cache.begin_step(&noop.queue, 4).unwrap();
        noop.pass(|pass| cache.append(pass, &io)).unwrap();
        cache.end_step().unwrap();
        cache.submitted().unwrap();
    }
    let refused = cache.truncate(11).unwrap_err();
    let want = Misuse::Overwritten { layer: 0, needed: 12, found: 11 };
    assert_eq!(refused, Error::Cache(want));
    cache.truncate(12).unwrap();
    assert_eq!(cache.len(), 12);
    cache.clear().unwrap();
    assert!(cache.is_empty());
}

#[test]
fn buffers_are_checked_when_they_are_bound_and_for_the_tokens_of_a_step() {
    let noop = noop();
    let mut cache = noop.cache(&two_layers()).unwrap();
    let other = noop.cache(&two_layers()).unwrap();
    let found = noop.bind(&cache, 2, 4).unwrap_err();
    assert_eq!(found, Error::Cache(Misuse::NoLayer { layers: 2, found: 2 }));

    let storage = |size| noop.buffer(size, wgpu::BufferUsages::STORAGE);
    let (q, kv, small) = (storage(512), storage(256), storage(128));
    let bind = |q: &wgpu::Buffer, k: &wgpu::Buffer, out: &wgpu::Buffer| {
        let io = Io {
            q: q.as_entire_buffer_binding(),
            k: k.as_entire_buffer_binding(),
            v: kv.as_entire_buffer_binding(),
            out: out.as_entire_buffer_binding(),
        };
        cache.bind(&noop.device, 0, io).unwrap_err().to_string()
    };
    assert_eq!(bind(&small, &kv, &q), "KvCache: buffer `q` needs 512 bytes, found 128");
    assert_eq!(bind(&q, &small, &kv), "KvCache: buffer `out` needs 512 bytes, found 256");
    assert_eq!(bind(&q, &small, &storage(512)), "KvCache: buffer `k` needs 256 bytes, found 128");
    let one = "KvCache: layer 0: need q and out in different buffers, found one";
    assert_eq!(bind(&q, &kv, &q), one);
    let uniform = noop.buffer(512, wgpu::BufferUsages::UNIFORM);
    let usage = bind(&q, &kv, &uniform);
    assert!(usage.starts_with("fwht: buffer `data` needs usage STORAGE"), "{usage}");

    let (io, foreign) = (noop.bind(&cache, 0, 2).unwrap(), noop.bind(&other, 0, 4).unwrap());
    cache.begin_step(&noop.queue, 3).unwrap();
    noop.pass(|pass| {
        let found = cache.append(pass, &foreign).unwrap_err();
        assert_eq!(found, Error::Cache(Misuse::Foreign { layer: 0 }));
        cache.append(pass, &io).unwrap();
        let found = cache.attend(pass, &io).unwrap_err().to_string();
        assert_eq!(found, "KvCache: buffer `q` needs 1536 bytes, found 1024");
    });
}

#[test]
fn a_reading_step_cannot_append() {
    let noop = noop();
    let config = Config { output: Output::Partials, ..Config::new(vec![layer("k4v4", 8)], 1) };
    let mut cache = noop.cache(&config).unwrap();
    let io = noop.bind(&cache, 0, 8).unwrap();
    cache.begin_read(&noop.queue, 1).unwrap();
    let found = noop.pass(|pass| cache.append(pass, &io)).unwrap_err();
    assert_eq!(found, Error::Cache(Misuse::ReadOnly { layer: 0 }));
    noop.pass(|pass| cache.attend(pass, &io)).unwrap();
    cache.end_step().unwrap();
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_snapshot_of_another_cache_is_refused_and_nothing_changes() {
    let noop = noop();
    let mut cache = noop.cache(&two_layers()).unwrap();
    let io: Vec<LayerIo> = (0..2).map(|l| noop.bind(&cache, l, 4).unwrap()).collect();
    cache.begin_step(&noop.queue, 3).unwrap();
    noop.pass(|pass| io.iter().try_for_each(|io| cache.append(pass, io))).unwrap();
    cache.end_step().unwrap();

    let bytes = cache.snapshot_bytes().unwrap();
    assert_eq!(bytes, 3 * (64 + 4 + 32 + 4 + 32 + 4 + 32 + 4));
    let mut encoder = noop.device.create_command_encoder(&Default::default());
    let small = noop.buffer(bytes - 4, wgpu::BufferUsages::COPY_DST);
    let found = cache.snapshot(&mut encoder, &small).unwrap_err().to_string();
    assert_eq!(
        found,
        format!("KvCache: buffer `readback` needs {bytes} bytes, found {}", bytes - 4)
    );
    let usage = noop.buffer(bytes, wgpu::BufferUsages::STORAGE);
    let found = cache.snapshot(&mut encoder, &usage).unwrap_err().to_string();
    assert!(found.starts_with("KvCache: buffer `readback` needs usage COPY_DST"), "{found}");
    let readback = noop.buffer(bytes, wgpu::BufferUsages::COPY_DST);
    let header = cache.snapshot(&mut encoder, &readback).unwrap();
    let saved = header.encode(&vec![0; bytes as usize]).unwrap();
    let snapshot = Snapshot::parse(&saved).unwrap();

    let refused = |layers: Vec<LayerConfig>| {
        let mut other = noop.cache(&Config::new(layers, 4)).unwrap();
        let error = other.restore(&noop.queue, &snapshot).unwrap_err().to_string();
        assert!(other.is_empty());
        error
    };
    let own = two_layers().layers;
    assert_eq!(refused(own[..1].to_vec()), "snapshot: layers: need 1, found 2");
    let bits = refused(vec![layer("k6v4", 10), own[1]]);
    assert_eq!(bits, "snapshot: layer 0, K bits: need 6, found 8");
    let floats = refused(vec![layer("kf16v4", 10), own[1]]);
    assert_eq!(floats, "snapshot: layer 0, K bits: need 16, found 8");
    let norms = LayerConfig { norm_correction: true, ..own[0] };
    let norms = refused(vec![norms, own[1]]);
    assert_eq!(norms, "snapshot: layer 0, norm_correction: need 1, found 0");
    let window = refused(vec![own[0], ring("k4v4", 12, 6)]);
    assert_eq!(window, "snapshot: layer 1, sliding_window: need 6, found 5");
    let room = refused(vec![layer("k8v4", 2), own[1]]);
    assert_eq!(room, "snapshot: layer 0, stored: need at most 2, found 3");

    let unsubmitted = cache.restore(&noop.queue, &snapshot).unwrap_err();
    assert_eq!(unsubmitted, Error::Cache(Misuse::NotSubmitted { most: 1 }));
    cache.submitted().unwrap();
    cache.clear().unwrap();
    cache.restore(&noop.queue, &snapshot).unwrap();
    assert_eq!(cache.len(), 3);
}

#[test]
fn every_byte_is_accounted_for() {
    let noop = noop();
    let mut config = two_layers();
    config.layers.push(layer("k8v4", 10));
    let bytes = noop.cache(&config).unwrap().bytes();
    assert_eq!(bytes.layers, [10 * 104, 12 * 72, 10 * 104]);
    assert_eq!(bytes.per_token, 104 + 72 + 104);
    // Two kinds of layer, six blocks each, and a block table; 256 bytes a slot.
    assert_eq!((bytes.parameters, bytes.partials), (13 * 256, 0));
    assert_eq!(bytes.total(), 2944 + 13 * 256);

    // K as floats has no norms.
    let dense = Config::new(vec![layer("kf16v4", 10), layer("kf32v4", 10)], 4);
    let dense = noop.cache(&dense).unwrap().bytes();
    assert_eq!((dense.layers, dense.per_token), (vec![10 * 164, 10 * 292], 164 + 292));

    config.layers[0].capacity = 1000;
    config.steps_per_submit = 3;
    let bytes = noop.cache(&config).unwrap().bytes();
    // 1000 positions in eight splits, of up to four tokens of two heads; now three kinds.
    assert_eq!((bytes.partials, bytes.parameters), (8 * 8 * 66 * 4, (3 * 18 + 1) * 256));
}
