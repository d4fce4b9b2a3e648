//! The pieces together on a model made in the test; and the real model, where it is there.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use candle_core::{Device, Tensor};
use wgtq::cache::Snapshot;
use wgtq::codec::{KeyFormat, Ring};
use wgtq::gpu::device::{self, Selection};
use wgtq::legs::{LegName, WgpuLeg};
use wgtq::parity::ATTENTION_NRMSE;
use wgtq::replay::manifest::{Input, Unquantised};
use wgtq::replay::report::Status;
use wgtq::replay::singlestep::{Request, Singlestep};

use crate::attention::{Attention, BitPair, Coding, Gpu, Kind, Shape, Stored};
use crate::capture::Step;
use crate::fixture::Gguf;
use crate::measure::Measurement;
use crate::model::Model;

mod real;

fn bits(text: &str) -> BitPair {
    text.parse().unwrap()
}

fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

/// Logits after every token, the tokens given in the parts named.
fn logits(model: &Model, attention: &mut dyn Attention, parts: &[&[u32]]) -> Vec<f32> {
    let mut position = 0;
    let mut all = Vec::new();
    for part in parts {
        let hidden = model.forward(part, position, attention).unwrap();
        let logits = model.logits(&hidden).unwrap().flatten_all().unwrap();
        all.extend(logits.to_vec1::<f32>().unwrap());
        position += part.len();
    }
    all
}

fn nrmse(got: &[f32], want: &[f32]) -> f64 {
    let want: Vec<f64> = want.iter().map(|&x| x.into()).collect();
    wgtq::metrics::compare(got, &want, got.len()).unwrap().nrmse
}

#[test]
fn a_file_that_is_not_this_architectures_is_refused_by_name() {
    let refused = |change: fn(&mut Gguf)| {
        let mut gguf = Gguf::new();
        change(&mut gguf);
        gguf.model().unwrap_err().to_string()
    };
    let missing = refused(|g| drop(g.tensors.remove("blk.1.ffn_up.weight")));
    assert_eq!(missing, "GGUF: blk.1.ffn_up.weight: need a tensor [96, 128], found none");
    let shape = refused(|g| drop(g.tensors.insert("blk.0.attn_k.weight".into(), vec![128, 128])));
    assert_eq!(shape, "GGUF: blk.0.attn_k.weight: need a tensor [64, 128], found [128, 128]");
    let key = refused(|g| drop(g.metadata.remove("llama.rope.freq_base")));
    assert_eq!(key, "GGUF: llama.rope.freq_base: need a value, found none");
    let text = |g: &mut Gguf| {
        drop(g.metadata.insert("llama.block_count", Value::String("two".into())));
    };
    assert_eq!(refused(text), "GGUF: llama.block_count: need a u32, found String(\"two\")");
    let heads = refused(|g| drop(g.metadata.insert("llama.attention.head_count", Value::U32(0))));
    assert!(heads.starts_with("num_heads: need"), "{heads}");
    let pre = refused(|g| drop(g.metadata.insert("tokenizer.ggml.pre", Value::String("x".into()))));
    assert_eq!(pre, "GGUF: tokenizer.ggml.pre: need smollm, found x");
}

#[test]
fn text_survives_the_tokenizer() {
    let vocabulary = Gguf::new().model().unwrap().vocabulary;
    let text = "  The 42nd tale:\n\n\tna\u{ef}ve \u{65e5}\u{672c} \u{1f600}";
    let tokens = vocabulary.encode(text).unwrap();
    assert_eq!(vocabulary.tokenizer.decode(&tokens, true).unwrap(), text);
    // No leading token, every digit by itself, merges, and names of special tokens.
    assert_eq!(vocabulary.encode("427").unwrap().len(), 3);
    assert_eq!(vocabulary.encode("he the").unwrap().len(), 3);
    assert_eq!(vocabulary.encode("<|im_end|>").unwrap(), [vocabulary.end]);
    let too_many = vocabulary.encode_first("427", 4).unwrap_err().to_string();
    assert_eq!(too_many, "--tokens: need 1 to the text's 3, found 4");
}

#[test]
fn one_token_at_a_time_is_the_whole_text_at_once() {
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the 3 heats").unwrap();
    for kind in [Kind::Exact, Kind::Oracle] {
        let cache = || kind.open(model.shape, bits("4/4"), tokens.len()).unwrap();
        let whole = logits(&model, cache().as_mut(), &[&tokens]);
        let parts: Vec<&[u32]> =
            std::iter::once(&tokens[..4]).chain(tokens[4..].chunks(1)).collect();
        let steps = logits(&model, cache().as_mut(), &parts);
        assert!(nrmse(&steps, &whole) < 1e-5, "{kind:?}: {:e}", nrmse(&steps, &whole));
    }
}

/// And where rounding turns codes, f64 leaves them alone: steps and the whole text agree to the last
/// digits of the logits' f32.
#[test]
fn the_model_in_f64_is_the_model_in_f32_without_its_rounding() {
    let model = Gguf::new().model().unwrap();
    let wide = model.in_f64().unwrap();
    let tokens = model.vocabulary.encode("the 3 heats").unwrap();
    let run = |model: &Model, kind: Kind, parts: &[&[u32]]| {
        let mut cache = kind.open(model.shape, bits("4/4"), tokens.len()).unwrap();
        logits(model, cache.as_mut(), parts)
    };
    let (narrow, exact) =
        (run(&model, Kind::Exact, &[&tokens]), run(&wide, Kind::Exact, &[&tokens]));
    let error = nrmse(&narrow, &exact);
    assert!(error > 1e-9 && error < 1e-5, "{error:e}");
    let whole = run(&wide, Kind::Oracle, &[&tokens]);
    let steps = run(&wide, Kind::Oracle, &tokens.chunks(1).collect::<Vec<_>>());
    assert!(nrmse(&steps, &whole) < 1e-7, "{:e}", nrmse(&steps, &whole));
    assert!(nrmse(&whole, &exact) > 1e-3, "{:e}", nrmse(&whole, &exact));
}

/// Also that the codec is in the way at all: 4 bits must be seen, and more bits must be closer.
#[test]
fn wider_codes_come_closer_to_the_unquantised_cache() {
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the other one").unwrap();
    let run = |kind: Kind, pair| {
        let mut cache = kind.open(model.shape, bits(pair), tokens.len()).unwrap();
        logits(&model, cache.as_mut(), &[&tokens])
    };
    let exact = run(Kind::Exact, "4/4");
    let [four, mixed, six] =
        ["4/4", "6/4", "6/6"].map(|pair| nrmse(&run(Kind::Oracle, pair), &exact));
    assert!(six > 1e-4 && six < mixed && mixed < four && four < 0.5, "{four} {mixed} {six}");
    // K as floats leaves V's error.
    let float = nrmse(&run(Kind::Oracle, "f16/4"), &exact);
    assert!(float > 1e-4 && float < four, "{float} {four}");
}

#[test]
fn repeats_differ_by_rounding_and_show_their_spread() {
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the other one").unwrap();
    let row = |repeats| {
        let measurement = Measurement::new(&model, &tokens, repeats).unwrap();
        measurement.row(Kind::Oracle, bits("8/8")).unwrap()
    };
    let (once, thrice) = (row(1), row(3));
    assert_eq!(once.ratio_sd, None);
    assert!(thrice.ratio_sd.is_some_and(|sd| sd > 0.0 && sd < 1e-3), "{thrice:?}");
    assert!((once.ratio - thrice.ratio).abs() < 1e-3, "{once:?} {thrice:?}");
}

/// What a model asks of its attention: q, k and v of each layer, `[tokens, heads, D]`.
struct Asked<'a> {
    shape: Shape,
    layers: Vec<[Tensor; 3]>,
    inner: &'a mut dyn Attention,
}

impl<'a> Asked<'a> {
    fn of(shape: Shape, inner: &'a mut dyn Attention) -> Self {
        Self { shape, layers: Vec::new(), inner }
    }
}

impl Attention for Asked<'_> {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> crate::error::Result<Tensor> {
        match self.layers.get_mut(layer) {
            Some(all) => {
                for (all, new) in all.iter_mut().zip([q, k, v]) {
                    *all = Tensor::cat(&[&*all, new], 0)?;
                }
            }
            None => self.layers.push([q.clone(), k.clone(), v.clone()]),
        }
        self.inner.append_and_attend(layer, q, k, v)
    }

    fn bytes_per_token(&self) -> u64 {
        self.inner.bytes_per_token()
    }
}

/// A run on a GPU, and what it stored.
struct GpuRun<'a> {
    model: &'a Model,
    coding: Coding,
    tokens: Vec<u32>,
    layers: Vec<[Tensor; 3]>,
    logits: Vec<f32>,
    snapshot: Vec<u8>,
}

impl<'a> GpuRun<'a> {
    fn new(model: &'a Model, coding: Coding, parts: &[&[u32]]) -> Self {
        let tokens = parts.concat();
        let (capacity, selection) = (tokens.len() as u32, Selection::default());
        let mut gpu = Gpu::open(model.shape, coding, capacity, &selection).unwrap();
        let mut asked = Asked::of(model.shape, &mut gpu);
        let logits = logits(model, &mut asked, parts);
        let layers = asked.layers;
        let snapshot = gpu.snapshot().unwrap();
        Self { model, coding, tokens, layers, logits, snapshot }
    }

    fn stored(&self) -> Stored {
        let snapshot = Snapshot::parse(&self.snapshot).unwrap();
        Stored::new(self.model.shape, self.coding, &snapshot)
    }

    /// How many codes rounding has turned; or a row that is not what the k or v it was made of gives.
    fn codes(&self) -> Result<usize, String> {
        let stored = self.stored();
        let layers = self.layers.iter().enumerate();
        layers.map(|(layer, [_, k, v])| stored.judge(layer, k, v)).sum()
    }

    /// NRMSE of the logits from those of the whole text over the very rows that were stored.
    fn error(&self) -> f64 {
        nrmse(&self.logits, &logits(self.model, &mut self.stored(), &[&self.tokens]))
    }
}

fn run_kind(model: &Model, kind: Kind, pair: &str, tokens: &[u32]) -> Vec<f32> {
    let mut cache = kind.open(model.shape, bits(pair), tokens.len()).unwrap();
    logits(model, cache.as_mut(), &[&tokens[..4], &tokens[4..]])
}

/// Rounding may turn a code that lies on a boundary, and one code is worth more than all other
/// rounding. So the codes are judged by themselves, and the logits against the GPU's own codes: each
/// attention is within its bound, and there are two layers.
#[test]
fn the_gpu_attends_as_the_oracle() {
    if without_gpu() {
        return;
    }
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the 42 heaters").unwrap();
    let parts: &[&[u32]] = &[&tokens[..6], &tokens[6..7], &tokens[7..]];
    let bound = 2.0 * ATTENTION_NRMSE;
    let run = |pair, norm_correction| {
        GpuRun::new(&model, Coding { bits: bits(pair), norm_correction }, parts)
    };
    for (pair, norm_correction) in [("4/4", false), ("3/5", false), ("8/4", false), ("8/4", true)] {
        let run = run(pair, norm_correction);
        let turned = run.codes().unwrap_or_else(|e| panic!("{}: {e}", run.coding));
        eprintln!("{}: {turned} codes turned, logits {:e}", run.coding, run.error());
        assert!(run.error() < bound, "{}: {:e}", run.coding, run.error());
    }
    // One bit of one code is seen by both: the lowest of the newest V row's last in the last layer.
    let mut damaged = run("4/4", false);
    let at = damaged.snapshot.len() - 4 * tokens.len() - 1;
    damaged.snapshot[at] ^= 0x10;
    let row = damaged.codes().unwrap_err();
    assert!(row.starts_with(&format!("layer 1 V: row {}", tokens.len() - 1)), "{row}");
    assert!(damaged.error() > bound, "{:e}", damaged.error());

    let float = nrmse(
        &run_kind(&model, Kind::Gpu, "f16/8", &tokens),
        &run_kind(&model, Kind::Oracle, "f16/8", &tokens),
    );
    assert!(float < 1e-3, "K as floats: {float:e}");

    let mut oracle = Kind::Oracle.open(model.shape, bits("8/4"), 0).unwrap();
    let swapped = logits(&model, oracle.as_mut(), &[&tokens]);
    let other = nrmse(&run("4/8", false).logits, &swapped);
    assert!(other > 1e-2, "K and V widths changed places: {other:e}");
}

#[test]
fn the_gpu_counts_its_bytes_and_refuses_what_does_not_fit() {
    if without_gpu() {
        return;
    }
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the heaters").unwrap();
    for pair in ["4/4", "8/4", "f16/4", "f32/2"] {
        let bytes = |kind: Kind| kind.open(model.shape, bits(pair), 9).unwrap().bytes_per_token();
        assert_eq!(bytes(Kind::Gpu), bytes(Kind::Oracle), "{pair}");
    }
    let mut small = Kind::Gpu.open(model.shape, bits("4/4"), 3).unwrap();
    let long = model.forward(&tokens, 0, small.as_mut()).unwrap_err().to_string();
    let want = format!("KvCache: tokens of a step: need 1 to 3, found {}", tokens.len());
    assert_eq!(long, want);
    model.forward(&tokens[..3], 0, small.as_mut()).unwrap();
    let full = model.forward(&tokens[..1], 3, small.as_mut()).unwrap_err().to_string();
    assert_eq!(full, "KvCache: layer 0: need room for 4 positions, found 3");
}

#[test]
fn a_capture_is_a_manifest_with_the_full_unquantised_cache() {
    let model = Gguf::new().model().unwrap();
    let tokens = model.vocabulary.encode("the heath").unwrap();
    let step = Step::record(&model, &tokens, 1).unwrap();
    let stored = tokens.len() as u32;
    let folder = tempfile::tempdir().unwrap();
    step.write(folder.path(), Ring::new(16, 13, stored).unwrap(), bits("4/4")).unwrap();

    let input = Input::load(&folder.path().join("manifest.json")).unwrap();
    assert_eq!((input.params.kv_seq_len, input.params.ring_start), (stored, 13));
    assert_eq!(input.q, step.q);
    let Unquantised::Full { k, .. } = &input.unquantised else {
        panic!("{:?}", input.unquantised);
    };
    assert_eq!(*k, step.k.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for (i, row) in k.chunks_exact(64).enumerate() {
        let slot = (13 + i) % 16;
        let difference = norm(row) - f64::from(input.k.norms[slot]);
        assert!(difference.abs() < 1e-5, "token {i} in slot {slot}: norm off by {difference}");
    }

    for pair in ["8/3", "2/6", "5/4"] {
        step.write(folder.path(), Ring::new(16, 13, stored).unwrap(), bits(pair)).unwrap();
        replays(&Input::load(&folder.path().join("manifest.json")).unwrap(), pair);
    }

    let ring = Ring::new(16, 13, stored).unwrap();
    let float = step.write(folder.path(), ring, bits("f16/4")).unwrap_err().to_string();
    assert!(float.starts_with("--bits: need K of 2, 3, 4"), "{float}");
    let layer = Step::record(&model, &tokens, 2).unwrap_err().to_string();
    assert_eq!(layer, "--layer: need less than 2, found 2");
}

/// A capture of tests/data.
struct Capture {
    folder: PathBuf,
    layer: usize,
    input: Input,
    /// Its q, K and V.
    step: Step,
}

/// The captures of tests/data by name.
fn committed_captures() -> Vec<(String, Capture)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let capture = |layer: usize, tokens: usize| {
        let name = format!("smollm2-l{layer:02}-n{tokens}");
        let folder = data.join(&name);
        let input = Input::load(&folder.join("manifest.json")).unwrap();
        let step = stored_step(&input);
        (name, Capture { folder, layer, input, step })
    };
    [96, 400].into_iter().flat_map(|n| [2, 15, 28].map(|layer| capture(layer, n))).collect()
}

/// q and the unquantised K and V of a manifest.
fn stored_step(input: &Input) -> Step {
    let Unquantised::Full { k, v } = &input.unquantised else {
        panic!("{:?}", input.unquantised);
    };
    let p = &input.params;
    let [n, heads, d] = [p.kv_seq_len, p.n_kv_heads, p.head_dim].map(|x| x as usize);
    let [k, v] = [k, v].map(|rows| {
        let by_head = Tensor::from_slice(rows, (heads, n, d), &Device::Cpu).unwrap();
        by_head.transpose(0, 1).unwrap().contiguous().unwrap()
    });
    let (num_heads, num_kv_heads) = (p.n_heads, p.n_kv_heads);
    let shape = Shape { layers: 30, num_heads, num_kv_heads, head_dim: input.head_dim };
    Step { shape, q: input.q.clone(), k, v }
}

impl Capture {
    /// Checks that `step`, written, is this capture's files bit for bit.
    fn is_written_by(&self, step: &Step) {
        let folder = tempfile::tempdir().unwrap();
        step.write(folder.path(), self.input.ring().unwrap(), bits("4/4")).unwrap();
        let mut written = 0;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let [got, want] = [folder.path(), &self.folder]
                .map(|folder| std::fs::read(folder.join(&name)).unwrap());
            assert!(got == want, "{}: {name:?} is not what was captured", self.folder.display());
            written += 1;
        }
        assert_eq!(written, 8);
    }
}

/// Given q, K and V, a capture is the codec's alone: the same bytes on every machine.
#[test]
fn committed_captures_are_written_again_bit_for_bit() {
    for (_, capture) in committed_captures() {
        capture.is_written_by(&capture.step);
    }
}

#[test]
#[should_panic(expected = "is not what was captured")]
fn a_capture_with_one_other_bit_is_seen() {
    let (_, mut capture) = committed_captures().remove(0);
    let mut k = capture.step.k.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    k[77] = k[77].next_up();
    capture.step.k = Tensor::from_vec(k, capture.step.k.shape(), &Device::Cpu).unwrap();
    capture.is_written_by(&capture.step);
}

/// The captured step through the kernels, at the widths that it was captured with.
fn replays(input: &Input, pair: &str) {
    let k = KeyFormat::Tq(input.codec.k_bits);
    assert_eq!(BitPair { k, v: input.codec.v_bits }.to_string(), pair);
    if without_gpu() {
        return;
    }
    let mut leg = WgpuLeg::on(LegName::Wgsl, device::Gpu::open(&Selection::default()).unwrap());
    let replayed = Singlestep::new(input, Request::default()).unwrap().run(&mut leg).unwrap();
    assert_eq!(replayed.entry.status, Status::Pass, "{pair}: {}", replayed.entry.reason);
}
