//! Which cases run: all, or a part of each kernel at each head dim.

use crate::parity::Case;
use crate::parity::suite;

/// Every `every`-th case of each kernel at each head dim, the first of each always.
pub(super) fn select(every: u32) -> Vec<Box<dyn Case>> {
    let mut seen: Vec<((&str, String), u32)> = Vec::new();
    let mut wanted = |case: &Box<dyn Case>| {
        let group = (case.kernel(), head_dim(&case.id()));
        let at = seen.iter().position(|(known, _)| *known == group).unwrap_or_else(|| {
            seen.push((group, 0));
            seen.len() - 1
        });
        let number = seen[at].1;
        seen[at].1 += 1;
        number.is_multiple_of(every.max(1))
    };
    suite::cases().into_iter().filter(|case| wanted(case)).collect()
}

/// The word of a case's name that tells its head dim, such as `d128`.
pub(super) fn head_dim(id: &str) -> String {
    let is_head_dim =
        |word: &&str| word.strip_prefix('d').is_some_and(|digits| digits.parse::<u32>().is_ok());
    id.split_whitespace().find(is_head_dim).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::HeadDim;
    use crate::kernels;

    #[test]
    fn the_smallest_part_has_every_kernel_at_every_head_dim() {
        let part = select(u32::MAX);
        for contract in kernels::ALL {
            for head_dim in HeadDim::ALL {
                let word = format!("d{}", head_dim.get());
                let has = part
                    .iter()
                    .any(|c| c.kernel() == contract.stem && super::head_dim(&c.id()) == word);
                assert!(has, "{} {word}", contract.stem);
            }
        }
    }

    #[test]
    fn without_a_step_all_cases_run() {
        assert_eq!(select(1).len(), suite::cases().len());
        assert_eq!(select(0).len(), suite::cases().len());
    }
}
