//! On a device.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use wgtq::cache::snapshot::{LayerHeader, LayerRows};
use wgtq::cache::{Config, LayerConfig, Output, Partials, Snapshot, merge};
use wgtq::codec::{Direction, HeadDim, KeyFormat, Rotation};
use wgtq::gpu::device::{Backend, Gpu, Selection};
use wgtq::metrics::compare;
use wgtq::oracle::fwht::rotate_rows;
use wgtq::parity::ATTENTION_NRMSE;
use wgtq::parity::quantize_kv::CORRECTED_NORM_ULPS;

use crate::rig::{Rig, engine, gpu, layer, ring, text, without_gpu};

/// Boundary layers with more bits, two that are equal, a window without a ring, a ring with
/// corrected norms, and K as floats, also in a ring.
fn mixed() -> Config {
    let wide = LayerConfig {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: HeadDim::ALL[1],
        scale: 0.088,
        softcap: 20.0,
        ..layer("k6v5", 64)
    };
    let plain = LayerConfig { rotation: Rotation::Plain, sliding_window: 9, ..layer("k3v2", 64) };
    let layers = vec![
        layer("k8v8", 64),
        layer("k4v4", 64),
        wide,
        LayerConfig { norm_correction: true, ..ring("k8v4", 17, 10) },
        plain,
        layer("k4v4", 64),
        LayerConfig { format: "kf16v4".parse().unwrap(), ..wide },
        LayerConfig { norm_correction: true, ..ring("kf32v3", 17, 10) },
    ];
    Config::new(layers, 8)
}

fn nrmse(got: &[f32], want: &[f32]) -> f64 {
    let want: Vec<f64> = want.iter().map(|&x| x.into()).collect();
    compare(got, &want, got.len()).unwrap().nrmse
}

#[test]
fn every_step_equals_the_oracle_at_every_layers_bits_and_past_the_wrap() {
    if without_gpu() {
        return;
    }
    let mut rig = Rig::new(&mixed());
    let text = text(&mixed(), 1, 0..40);
    let mut at = 0;
    for tokens in [5, 1, 1, 8, 3, 1, 8, 1, 4, 8] {
        let outputs = rig.step(&text[at..at + tokens]);
        at += tokens;
        rig.judge(&text[..at], &outputs).unwrap();
    }
    assert_eq!((rig.cache.len(), at), (40, 40));

    // The judges see what is wrong by one token, one layer, or one value.
    let outputs = rig.step(&text[..1]);
    let seen = |last: usize| [&text[..40], &text[last..=last]].concat();
    rig.judge(&seen(0), &outputs).unwrap();
    let other = rig.judge_rows(&seen(1)).unwrap_err();
    assert!(other.starts_with("layer 0 K: row 40 "), "{other}");
    let query = rig.judge_outputs(&seen(1), &outputs).unwrap_err();
    assert!(query.starts_with("layer 0, token 0: "), "{query}");
    let mut swapped = outputs.clone();
    swapped.swap(1, 5);
    assert!(rig.judge_outputs(&seen(0), &swapped).is_err());
    let mut nudged = outputs.clone();
    nudged[3][70] *= 1.001;
    let nudged = rig.judge_outputs(&seen(0), &nudged).unwrap_err();
    assert!(nudged.starts_with("layer 3, token 0: "), "{nudged}");
}

/// Where a layer asks for it: the same rows without it are another length. A decoded row is as far
/// from its length as the stored norm from the exact one.
#[test]
fn corrected_norms_give_decoded_rows_the_length_that_they_had() {
    if without_gpu() {
        return;
    }
    let corrected = |layer| LayerConfig { norm_correction: true, ..layer };
    let wide = LayerConfig { head_dim: HeadDim::ALL[3], ..layer("k2v6", 9) };
    let narrow = layer("k4v3", 9);
    let config = Config::new(vec![corrected(narrow), narrow, wide, corrected(wide)], 4);
    let text = text(&config, 11, 0..5);
    let mut rig = Rig::new(&config);
    rig.step(&text[..4]);
    let outputs = rig.step(&text[4..]);
    rig.judge(&text, &outputs).unwrap();
    let errors = rig.length_errors(&text);
    let exact = f64::from(CORRECTED_NORM_ULPS) * f64::from(f32::EPSILON);
    for layer in [0, 3] {
        assert!(errors[layer].iter().all(|e| *e <= exact), "{errors:?}");
    }
    for layer in [1, 2] {
        assert!(errors[layer].iter().all(|e| *e > 1e-4), "{errors:?}");
    }
}

/// By two kernels, each within its bound of the oracle.
#[test]
fn a_prompt_in_one_step_is_the_same_prompt_token_by_token() {
    if without_gpu() {
        return;
    }
    let mut config = mixed();
    config.max_step_tokens = 8;
    let text = text(&config, 2, 0..24);
    let (mut chunks, mut single) = (Rig::new(&config), Rig::new(&config));
    let mut last = Vec::new();
    for part in text.chunks(8) {
        last = chunks.step(part);
    }
    single.steps(&text[..16]);
    let want = single.steps(&text[16..]);
    assert_eq!(chunks.snapshot(), single.snapshot());
    for (layer, (got, want)) in last.iter().zip(&want).enumerate() {
        let error = nrmse(got, want);
        assert!(error <= 2.0 * ATTENTION_NRMSE, "layer {layer}: {error:e}");
    }
    // The last token's output is not every token's.
    assert!(nrmse(&last[0][..128], &want[0][128..256]) > 0.1);
}

/// Steps of one token in one dispatch and in four, on layers that share a scratch: both right, and q is
/// left alone by the former only.
#[test]
fn one_dispatch_and_four_both_equal_the_oracle() {
    if without_gpu() {
        return;
    }
    let wide = LayerConfig { num_heads: 6, ..layer("k3v6", 300) };
    let layers = vec![layer("k8v4", 300), wide, layer("k8v4", 300), ring("k4v4", 300, 200)];
    let config = Config::new(layers, 50);
    let tokens = text(&config, 5, 0..252);
    for fence in [true, false] {
        let mut gpu = gpu(&Selection::default());
        if fence && !gpu.caps.storage_fence {
            continue;
        }
        gpu.caps.storage_fence = fence;
        let mut rig = Rig::on(gpu, &config);
        assert_eq!(rig.cache.bytes().scratch > 0, fence);
        for part in tokens[..250].chunks(50) {
            rig.step(part);
        }
        for end in [251, 252] {
            let outputs = rig.step(&tokens[end - 1..end]);
            rig.judge(&tokens[..end], &outputs).unwrap();
            for (index, [q, ..]) in tokens[end - 1].iter().enumerate() {
                assert_eq!(rig.q(index)[..q.len()] == q[..], fence, "layer {index}");
            }
        }
    }
}

/// Long enough for several splits, which the cache's own partials take.
#[test]
fn a_split_context_equals_the_oracle() {
    if without_gpu() {
        return;
    }
    let layers = vec![layer("k8v4", 700), ring("k4v4", 700, 400), layer("kf16v4", 700)];
    let config = Config::new(layers, 150);
    let text = text(&config, 3, 0..450);
    let mut rig = Rig::new(&config);
    assert!(rig.cache.bytes().partials > 0);
    for part in text.chunks(150) {
        rig.step(part);
    }
    let again = crate::rig::text(&config, 4, 0..1);
    let outputs = rig.step(&again);
    let seen = [&text[..], &again].concat();
    rig.judge(&seen, &outputs).unwrap();
    // One token less in the context is seen.
    assert!(rig.judge_outputs(&[&seen[1..450], &again].concat(), &outputs).is_ok());
    assert!(rig.judge_rows(&[&seen[1..450], &again].concat()).is_err());
}

/// A cache that went back is the cache that never went there, bit for bit.
#[test]
fn rejected_drafts_leave_no_trace() {
    if without_gpu() {
        return;
    }
    let mut config = mixed();
    // Room to go back four tokens on a full ring.
    config.layers[3].capacity = 21;
    config.layers[7].capacity = 21;
    let text = text(&config, 5, 0..30);
    let drafts = crate::rig::text(&config, 6, 0..33);
    let (mut drafted, mut straight) = (Rig::new(&config), Rig::new(&config));
    let mut want = Vec::new();
    for (index, token) in text.chunks(1).enumerate() {
        let at = drafted.cache.len();
        drafted.step(&drafts[index..index + 4]);
        drafted.cache.truncate(at).unwrap();
        let got = drafted.step(token);
        want = straight.step(token);
        assert_eq!(got, want, "token {index}");
    }
    let rows = |rig: &Rig| {
        let bytes = rig.snapshot();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let rows: Vec<_> = snapshot.layers().map(|l| (l.k.to_vec(), l.v_norms.to_vec())).collect();
        (snapshot.header.layers[3], rows)
    };
    let ((drafted_ring, drafted_rows), (ring, rows)) = (rows(&drafted), rows(&straight));
    assert_eq!(drafted_rows[0], rows[0]);
    // The ring has lost what the last drafts overwrote, outside of every window.
    assert_eq!((ring.oldest, drafted_ring.oldest), (9, 12));

    drafted.cache.clear().unwrap();
    assert!(drafted.cache.is_empty());
    let again = drafted.steps(&text);
    let newest = |all: &[f32], one: &[f32]| all[all.len() - one.len()..].to_vec();
    for (layer, (again, want)) in again.iter().zip(&want).enumerate() {
        assert_eq!(newest(again, want), *want, "layer {layer} after clear");
    }
    assert_ne!(newest(&again[0], &want[1]), want[1]);
}

/// Rows that a cancelled step has written do not count.
#[test]
fn a_cancelled_step_counts_for_nothing() {
    if without_gpu() {
        return;
    }
    let config = mixed();
    let text = text(&config, 7, 0..12);
    let mut rig = Rig::new(&config);
    rig.step(&text[..8]);
    let before = rig.snapshot();
    rig.cache.begin_step(&rig.gpu.queue, 4).unwrap();
    rig.cache.cancel_step();
    rig.cache.submitted().unwrap();
    assert_eq!(rig.snapshot(), before);
    let outputs = rig.step(&text[8..]);
    rig.judge(&text, &outputs).unwrap();
}

/// One submit: each step finds its own parameters.
#[test]
fn two_steps_of_one_submit_are_two_submits() {
    if without_gpu() {
        return;
    }
    let mut config = mixed();
    config.steps_per_submit = 2;
    let text = text(&config, 8, 0..4);
    let (mut together, mut apart) = (Rig::new(&config), Rig::new(&config));
    let second = engine(&together.gpu, &together.cache);
    together.upload(&together.engine, &text[..3]);
    together.upload(&second, &text[3..]);
    let mut encoder = together.gpu.device.create_command_encoder(&Default::default());
    let Rig { gpu, cache, engine } = &mut together;
    Rig::record(cache, &gpu.queue, &mut encoder, engine, 3);
    Rig::record(cache, &gpu.queue, &mut encoder, &second, 1);
    gpu.queue.submit([encoder.finish()]);
    cache.submitted().unwrap();
    let got = [together.outputs(&together.engine, 3), together.outputs(&second, 1)];
    let want = [apart.step(&text[..3]), apart.step(&text[3..])];
    assert_eq!(got, want);
    assert_ne!(got[0][0][..128], got[1][0][..]);
    assert_eq!(together.snapshot(), apart.snapshot());
}

/// Any other adapter: OpenGL beside Vulkan where it is there, else a second device.
fn other_device(first: &Gpu) -> Gpu {
    let selection = |backend| Selection { backend: Some(backend), adapter: None };
    let others = [Backend::Gl, Backend::Vulkan].map(selection);
    let other = others.iter().find_map(|selection| {
        Gpu::open(selection).ok().filter(|gpu| gpu.report.backend != first.report.backend)
    });
    other.unwrap_or_else(|| gpu(&Selection::default()))
}

#[test]
fn a_snapshot_goes_on_elsewhere_with_the_same_codes() {
    if without_gpu() {
        return;
    }
    let config = mixed();
    let text = text(&config, 9, 0..30);
    let mut here = Rig::new(&config);
    for part in text[..29].chunks(4) {
        here.step(part);
    }
    let saved = here.snapshot();

    // Larger there, so that slots differ.
    let mut larger = config.clone();
    larger.layers.iter_mut().for_each(|layer| layer.capacity += 5);
    let mut there = Rig::on(other_device(&here.gpu), &larger);
    eprintln!("restored on: {}", there.gpu.report.line());
    there.cache.restore(&there.gpu.queue, &Snapshot::parse(&saved).unwrap()).unwrap();
    assert_eq!(there.cache.len(), 29);
    assert_eq!(codes(&there.snapshot(), 29), codes(&saved, 29));

    let (out_here, out_there) = (here.step(&text[29..]), there.step(&text[29..]));
    here.judge(&text, &out_here).unwrap();
    there.judge_outputs(&text, &out_there).unwrap();
    let (after_here, after_there) = (here.snapshot(), there.snapshot());
    // Of the restored rows and of the new one. A ring has dropped its oldest here only.
    assert_eq!(codes(&after_there, 17), codes(&after_here, 17));
    assert_eq!(codes(&after_here, 17).len(), 2 * config.layers.len() - 2);
    // Something else is seen: one bit of the snapshot.
    let mut flipped = saved.clone();
    *flipped.last_mut().unwrap() ^= 1;
    there.cache.restore(&there.gpu.queue, &Snapshot::parse(&flipped).unwrap()).unwrap();
    assert_ne!(there.snapshot()[saved.len() - 4..], saved[saved.len() - 4..]);
}

/// The codes of K and V of each layer, head by head: the newest positions, as many as `newest`.
/// Floats are not codes, and f16 may be rounded another way elsewhere.
fn codes(snapshot: &[u8], newest: usize) -> Vec<Vec<Vec<u8>>> {
    let snapshot = Snapshot::parse(snapshot).unwrap();
    let layers = snapshot.header.layers.iter().zip(snapshot.layers());
    let of_layer = |(header, rows): (&LayerHeader, LayerRows<'_>)| -> Vec<Vec<Vec<u8>>> {
        let k = matches!(header.k, KeyFormat::Tq(_)).then_some(rows.k);
        let of_side = |rows: &[u8]| -> Vec<Vec<u8>> {
            let (heads, stored) = (header.num_kv_heads as usize, header.stored as usize);
            let row = rows.len() / heads / stored;
            let skip = stored.saturating_sub(newest) * row;
            rows.chunks_exact(stored * row).map(|head| head[skip..].to_vec()).collect()
        };
        k.into_iter().chain([rows.v_packed]).map(of_side).collect()
    };
    layers.flat_map(of_layer).collect()
}

/// The newest token belongs to the second half; the first half only reads.
#[test]
fn halves_of_a_context_attended_apart_merge_to_the_whole() {
    if without_gpu() {
        return;
    }
    let whole = Config::new(vec![layer("k8v4", 64), layer("kf16v8", 64)], 32);
    let halves = Config { output: Output::Partials, ..whole.clone() };
    let text = text(&whole, 10, 0..50);
    let mut rig = Rig::new(&whole);
    for part in [&text[..20], &text[20..48]] {
        rig.step(part);
    }
    let want = rig.step(&text[48..]);

    let (mut first, mut second) = (Rig::new(&halves), Rig::new(&halves));
    first.step(&text[..20]);
    second.step(&text[20..48]);
    let of_second = second.step(&text[48..]);
    let of_first = read_only(&mut first, &text[48..]);
    for (index, want) in want.iter().enumerate() {
        let layout = first.cache.partials(index, 2).unwrap();
        let of = |all: &[Vec<f32>]| all[index][..layout.bytes as usize / 4].to_vec();
        let merged = |parts: [&[Vec<f32>]; 2]| -> Vec<f32> {
            let parts = parts.map(of);
            let parts = [0, 1].map(|i| Partials { values: &parts[i], nwg: layout.nwg });
            let rotated = merge(layout.nrows, 64, &parts).unwrap();
            let rotated: Vec<f32> = rotated.iter().map(|&x| x as f32).collect();
            let rows = rotate_rows(Rotation::Srht, Direction::Inverse, 64, &rotated);
            rows.iter().map(|&x| x as f32).collect()
        };
        let error = nrmse(&merged([&of_first, &of_second]), want);
        assert!(error <= 2.0 * ATTENTION_NRMSE, "layer {index}: {error:e}");
        // Not what one half alone sees.
        assert!(nrmse(&merged([&of_first, &of_first]), want) > 1e-2);
        assert!(nrmse(&merged([&of_second, &of_second]), want) > 1e-2);
    }
}

fn read_only(rig: &mut Rig, tokens: &[crate::rig::Token]) -> Vec<Vec<f32>> {
    rig.upload(&rig.engine, tokens);
    let mut encoder = rig.gpu.device.create_command_encoder(&Default::default());
    rig.cache.begin_read(&rig.gpu.queue, tokens.len() as u32).unwrap();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for layer in &rig.engine {
        rig.cache.attend(&mut pass, &layer.io).unwrap();
    }
    drop(pass);
    rig.cache.end_step().unwrap();
    rig.gpu.queue.submit([encoder.finish()]);
    rig.cache.submitted().unwrap();
    rig.outputs(&rig.engine, tokens.len())
}
