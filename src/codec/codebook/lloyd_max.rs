//! Lloyd-Max solved afresh: for N(0, 1), the proof of `tables.rs`; and for a coordinate of a unit vector
//! of each head dim, what the one codebook is held against.
//!
//! A table is optimal when every boundary is the midpoint of its neighbours and every centroid the
//! mean of its cell. With the first condition put into the second this is one tridiagonal system,
//! which Newton's method solves in five steps from the companding quantiles. N(0, 1) is
//! log-concave, so the solution is the only one.

use libm::{erfc, exp, expm1, sqrt};

use super::tables::*;
use super::{Bits, boundaries, levels};
use crate::codec::{Codec, HeadDim, Rotation};

/// Decimals of the frozen tables: 0.5e-10 is far under the step of f32, far over the solver's
/// rounding (about 1e-13 at 8 bits).
const DECIMALS: usize = 10;
/// Largest distance of a frozen centroid from the mean of its cell.
const RESIDUAL: f64 = 1e-9;
/// The same of the f32 tables and of the 4-bit one, which is published to seven decimals.
const ROUNDED_RESIDUAL: f64 = 2.5e-7;

/// Probability that N(0, 1) exceeds `z`.
fn tail(z: f64) -> f64 {
    0.5 * erfc(z / sqrt(2.0))
}

fn density(z: f64) -> f64 {
    exp(-0.5 * z * z) / sqrt(2.0 * std::f64::consts::PI)
}

/// What is quantised: symmetric, with a variance of 1.
#[derive(Clone, Copy)]
enum Source {
    /// N(0, 1).
    Gaussian,
    /// A coordinate of a random unit vector in d dimensions, times sqrt(d).
    Sphere(f64),
}

/// A source between two edges, `0 <= low < high`.
struct Cell {
    mass: f64,
    mean: f64,
    /// Derivatives of the mean by the edges.
    by_low: f64,
    by_high: f64,
}

impl Source {
    fn cell(self, low: f64, high: f64) -> Cell {
        match self {
            Self::Gaussian => {
                let mass = tail(low) - tail(high);
                // 1 - exp(-x) without cancellation; 1 at an infinite edge.
                let first = density(low) * -expm1(0.5 * (low - high) * (low + high));
                Cell::new([low, high], density, mass, first)
            }
            Self::Sphere(d) => {
                let height = sphere_height(d);
                let density = |z: f64| (1.0 - z * z / d).max(0.0).powf(0.5 * (d - 3.0)) / height;
                let end = high.min(sqrt(d));
                let mass = simpson(low, end, density);
                let first = simpson(low, end, |z| z * density(z));
                Cell::new([low, high], density, mass, first)
            }
        }
    }
}

impl Cell {
    /// From the density and its first two moments between the edges.
    fn new([low, high]: [f64; 2], density: impl Fn(f64) -> f64, mass: f64, first: f64) -> Self {
        let mean = first / mass;
        let by_low = density(low) * (mean - low) / mass;
        let by_high = if high.is_finite() { density(high) * (high - mean) / mass } else { 0.0 };
        Self { mass, mean, by_low, by_high }
    }
}

/// Integral of `(1 - z^2 / d)^((d - 3) / 2)`.
fn sphere_height(d: f64) -> f64 {
    2.0 * simpson(0.0, sqrt(d), |z| (1.0 - z * z / d).max(0.0).powf(0.5 * (d - 3.0)))
}

fn simpson(low: f64, high: f64, f: impl Fn(f64) -> f64) -> f64 {
    const INTERVALS: u32 = 256;
    let step = (high - low) / f64::from(INTERVALS);
    let weight = |i: u32| match i {
        0 | INTERVALS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=INTERVALS).map(|i| weight(i) * f(low + f64::from(i) * step)).sum::<f64>() * step / 3.0
}

/// The cells of a positive half: edges are 0, the midpoints, infinity.
fn cells(source: Source, half: &[f64]) -> Vec<Cell> {
    let mid = |i: usize| 0.5 * (half[i - 1] + half[i]);
    let low = |i: usize| if i == 0 { 0.0 } else { mid(i) };
    let high = |i: usize| if i + 1 == half.len() { f64::INFINITY } else { mid(i + 1) };
    (0..half.len()).map(|i| source.cell(low(i), high(i))).collect()
}

/// Largest distance of a centroid from the mean of its cell.
fn residual(half: &[f64]) -> f64 {
    cells(Source::Gaussian, half)
        .iter()
        .zip(half)
        .map(|(cell, c)| (c - cell.mean).abs())
        .fold(0.0, f64::max)
}

/// Mean squared error of a positive half and its mirror image on N(0, 1).
fn mse(half: &[f64]) -> f64 {
    mse_on(Source::Gaussian, half)
}

fn mse_on(source: Source, half: &[f64]) -> f64 {
    let gain = |(cell, c): (Cell, &f64)| 2.0 * cell.mass * c * (2.0 * cell.mean - c);
    1.0 - cells(source, half).into_iter().zip(half).map(gain).sum::<f64>()
}

/// Quantile of the companding density, N(0, 3), above its median, by bisection.
fn start(probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 16.0);
    for _ in 0..60 {
        let z = 0.5 * (low + high);
        if tail(z / sqrt(3.0)) > 1.0 - probability { low = z } else { high = z }
    }
    low
}

/// The positive half of the optimal table of `2 * half` levels for N(0, 1).
fn solve(half: usize) -> Vec<f64> {
    let c: Vec<f64> =
        (0..half).map(|i| start(0.5 + (i as f64 + 0.5) / (2 * half) as f64)).collect();
    improve(Source::Gaussian, c)
}

fn improve(source: Source, mut c: Vec<f64>) -> Vec<f64> {
    for _ in 0..8 {
        let step = newton_step(source, &c);
        c.iter_mut().zip(step).for_each(|(c, step)| *c -= step);
    }
    c
}

/// `J^-1 F` with `F_i = c_i - mean_i`, by elimination: J is tridiagonal and diagonally dominant.
fn newton_step(source: Source, c: &[f64]) -> Vec<f64> {
    let cells = cells(source, c);
    let by_low = |i: usize| if i == 0 { 0.0 } else { 0.5 * cells[i].by_low };
    let by_high = |i: usize| 0.5 * cells[i].by_high;
    let mut x: Vec<f64> = c.iter().zip(&cells).map(|(c, cell)| c - cell.mean).collect();
    let mut pivot: Vec<f64> = (0..c.len()).map(|i| 1.0 - by_low(i) - by_high(i)).collect();
    for i in 1..c.len() {
        let factor = by_low(i) / pivot[i - 1];
        pivot[i] -= factor * by_high(i - 1);
        x[i] += factor * x[i - 1];
    }
    for i in (0..c.len()).rev() {
        let above = if i + 1 < c.len() { by_high(i) * x[i + 1] } else { 0.0 };
        x[i] = (x[i] + above) / pivot[i];
    }
    x
}

/// The text of `tables.rs`.
fn tables_text() -> String {
    let mut text = "//! Positive halves of the Lloyd-Max tables for N(0, 1), ascending.\n\
        //!\n\
        //! This file is the output of the solver in `lloyd_max.rs`, word for word; its test holds\n\
        //! one to the other. The 4-bit table is not here: it is published, to seven decimals.\n"
        .to_owned();
    for bits in Bits::ALL.into_iter().filter(|&bits| bits != Bits::B4) {
        let half = bits.levels() / 2;
        text += &format!("\n#[rustfmt::skip]\npub(super) const HALF_{bits}: [f64; {half}] = [\n");
        for line in solve(half).chunks(6) {
            let words: Vec<_> = line.iter().map(|c| format!("{c:.DECIMALS$},")).collect();
            text += &format!("    {}\n", words.join(" "));
        }
        text += "];\n";
    }
    text
}

/// Each width with its frozen half, the optimum that is known independently (Max 1960, table I,
/// and its continuation to more levels) and half a unit of that number's last digit.
fn known() -> [(Bits, &'static [f64], f64, f64); 6] {
    [
        (Bits::B2, &HALF_2, 0.117_48, 5e-6),
        (Bits::B3, &HALF_3, 0.034_548, 5e-7),
        (Bits::B4, &super::HALF_4, 0.009_501, 5e-7),
        (Bits::B5, &HALF_5, 0.002_505, 5e-7),
        (Bits::B6, &HALF_6, 0.000_644, 5e-7),
        (Bits::B8, &HALF_8, 0.000_041_2, 5e-8),
    ]
}

fn is_optimal(half: &[f64], residual_bound: f64) -> bool {
    residual(half) < residual_bound
}

fn has_error(half: &[f64], optimum: f64, digit: f64) -> bool {
    (mse(half) - optimum).abs() <= digit
}

#[test]
fn frozen_tables_are_the_solvers_output() {
    let want = tables_text();
    assert!(include_str!("tables.rs") == want, "tables.rs should be:\n{want}");
}

#[test]
fn every_frozen_centroid_is_the_mean_of_its_cell() {
    for (bits, half, ..) in known() {
        let bound = if bits == Bits::B4 { ROUNDED_RESIDUAL } else { RESIDUAL };
        assert!(is_optimal(half, bound), "{bits} bits: residual {:e}", residual(half));
    }
}

#[test]
fn errors_are_the_known_optima_and_under_the_papers_bound() {
    for (bits, half, optimum, digit) in known() {
        let found = mse(half);
        assert!(has_error(half, optimum, digit), "{bits} bits: {found:e}, want {optimum:e}");
        let bound = 3f64.sqrt() * std::f64::consts::FRAC_PI_2 * 0.25f64.powi(bits.get() as i32);
        assert!(found < bound, "{bits} bits: {found:e}, bound {bound:e}");
    }
}

/// What the codec and the shaders use: the same tables in f32.
#[test]
fn f32_tables_meet_the_same_conditions_to_their_rounding() {
    for (bits, _, optimum, digit) in known() {
        let half: Vec<f64> =
            levels(bits)[bits.levels() / 2..].iter().map(|&c| f64::from(c)).collect();
        assert!(is_optimal(&half, ROUNDED_RESIDUAL), "{bits} bits: {:e}", residual(&half));
        assert!(has_error(&half, optimum, digit), "{bits} bits: {:e}", mse(&half));
        for (edge, pair) in boundaries(bits).iter().zip(levels(bits).windows(2)) {
            let midpoint = 0.5 * (f64::from(pair[0]) + f64::from(pair[1]));
            assert!((f64::from(*edge) - midpoint).abs() < ROUNDED_RESIDUAL, "{bits} bits: {edge}");
        }
    }
}

/// A codebook of its own for each head dim would be no more than 1 % better up to 5 bits, or from a
/// head dim of 128 on: at 64 the tail that such a codebook leaves out is worth 1.3 % at 8 bits.
#[test]
fn the_one_codebook_is_near_the_optimum_of_every_head_dim() {
    for bits in Bits::ALL {
        for head_dim in HeadDim::ALL {
            let source = Source::Sphere(head_dim.norm_block().into());
            let optimum = mse_on(source, &improve(source, solve(bits.levels() / 2)));
            let found = Codec::new(head_dim, bits, Rotation::Plain).expected_mse();
            let excess = found / optimum - 1.0;
            let small = head_dim == HeadDim::ALL[0] && bits > Bits::B5;
            let bound = if small { 0.013 } else { 0.01 };
            assert!((0.0..bound).contains(&excess), "{bits} bits, D {head_dim}: {excess:.4}");
        }
    }
}

/// The optima that are known independently, D = 64, 128, 256.
#[test]
fn the_optimum_of_a_head_dim_is_the_known_one() {
    for (bits, known) in [
        (Bits::B2, [0.114_53, 0.116_00, 0.116_74]),
        (Bits::B3, [0.033_39, 0.033_97, 0.034_26]),
        (Bits::B4, [0.009_13, 0.009_32, 0.009_41]),
        (Bits::B5, [0.002_40, 0.002_45, 0.002_48]),
    ] {
        for (d, known) in [64.0, 128.0, 256.0].into_iter().zip(known) {
            let source = Source::Sphere(d);
            let found = mse_on(source, &improve(source, solve(bits.levels() / 2)));
            assert!((found - known).abs() < 1e-5, "{bits} bits, D {d}: {found}, want {known}");
        }
    }
}

/// Seven decimals of the optimum are the published 2-, 3- and 4-bit constants.
#[test]
fn published_constants_are_the_optimum_to_seven_decimals() {
    let published: [&[f64]; 3] =
        [&[0.4527800, 1.5104176], &[0.2450942, 0.7560053, 1.3439093, 2.1519457], &super::HALF_4];
    for half in published {
        for (c, want) in solve(half.len()).iter().zip(half) {
            assert_eq!(format!("{c:.7}"), format!("{want:.7}"));
        }
    }
}

#[test]
fn a_centroid_off_by_a_hundred_millionth_is_noticed() {
    for (bits, half, ..) in known().into_iter().filter(|k| k.0 != Bits::B4) {
        for i in 0..half.len() {
            let mut wrong = half.to_vec();
            wrong[i] += 1e-8;
            assert!(!is_optimal(&wrong, RESIDUAL), "{bits} bits, level {i}");
        }
    }
}

/// A repeated entry and a table that ends early, as copied tables have had them.
#[test]
fn wrong_tables_have_the_wrong_error() {
    for (bits, half, optimum, digit) in known() {
        let mut repeated = half.to_vec();
        repeated[0] = repeated[1] - 1e-12;
        assert!(!has_error(&repeated, optimum, digit), "{bits} bits: {:e}", mse(&repeated));
        let short = &half[..half.len() - half.len().div_ceil(16)];
        assert!(!has_error(short, optimum, digit), "{bits} bits: {:e}", mse(short));
    }
}
