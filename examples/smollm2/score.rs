//! How far one run's predictions are from another's, position by position.

use rayon::prelude::*;

/// Log-probabilities `[positions, vocabulary]` in nats.
#[derive(Debug)]
pub struct LogProbs {
    values: Vec<f32>,
    vocabulary: usize,
}

impl LogProbs {
    /// From logits `[positions, vocabulary]`.
    pub fn from_logits(mut values: Vec<f32>, vocabulary: usize) -> Self {
        values.par_chunks_exact_mut(vocabulary).for_each(|row| {
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            let log = max + sum.ln();
            row.iter_mut().for_each(|x| *x = (f64::from(*x) - log) as f32);
        });
        Self { values, vocabulary }
    }

    fn rows(&self) -> rayon::slice::ChunksExact<'_, f32> {
        self.values.par_chunks_exact(self.vocabulary)
    }

    /// Perplexity: exp of the mean negative log-probability of `targets`, one a position.
    pub fn perplexity(&self, targets: &[u32]) -> f64 {
        let sum: f64 =
            self.rows().zip(targets).map(|(row, &target)| -f64::from(row[target as usize])).sum();
        (sum / targets.len() as f64).exp()
    }

    /// Mean Kullback-Leibler divergence of `other` from this, in nats.
    pub fn mean_kl(&self, other: &Self) -> f64 {
        let divergence = |p: &[f32], q: &[f32]| -> f64 {
            p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * (f64::from(p) - f64::from(q))).sum()
        };
        self.mean(other, divergence)
    }

    /// Share of positions whose likeliest token is the same.
    pub fn top1_agreement(&self, other: &Self) -> f64 {
        let top =
            |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|t| t.0);
        self.mean(other, |p, q| f64::from(u8::from(top(p) == top(q))))
    }

    fn mean(&self, other: &Self, of: impl Fn(&[f32], &[f32]) -> f64 + Sync) -> f64 {
        let sum: f64 = self.rows().zip(other.rows()).map(|(p, q)| of(p, q)).sum();
        sum / (self.values.len() / self.vocabulary) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_have_the_vocabulary_as_perplexity() {
        let flat = LogProbs::from_logits(vec![7.0; 3 * 50], 50);
        assert!((flat.perplexity(&[0, 49, 7]) - 50.0).abs() < 1e-4);
    }

    #[test]
    fn a_run_agrees_with_itself_whatever_is_added_to_its_logits() {
        let logits: Vec<f32> = (0..200).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let shifted = logits.iter().map(|x| x + 3.0).collect();
        let (a, b) = (LogProbs::from_logits(logits, 50), LogProbs::from_logits(shifted, 50));
        assert!(a.mean_kl(&b).abs() < 1e-6);
        assert_eq!(a.top1_agreement(&b), 1.0);
    }

    #[test]
    fn a_changed_prediction_shows_in_every_figure() {
        let odds = |a: f32, b: f32| [a.ln(), b.ln(), 0.5f32.ln(), 0.5f32.ln()].to_vec();
        let (p, q) = (
            LogProbs::from_logits(odds(0.75, 0.25), 2),
            LogProbs::from_logits(odds(0.25, 0.75), 2),
        );
        // 0.75 ln 3 - 0.25 ln 3 at the first of two positions.
        assert!((p.mean_kl(&q) - 0.25 * 3f64.ln()).abs() < 1e-6, "{}", p.mean_kl(&q));
        assert_eq!(p.top1_agreement(&q), 0.5);
        assert!((p.perplexity(&[0, 0]) - (1.0 / (0.75 * 0.5f64)).sqrt()).abs() < 1e-6);
        assert!((q.perplexity(&[0, 0]) - (1.0 / (0.25 * 0.5f64)).sqrt()).abs() < 1e-6);
    }
}
