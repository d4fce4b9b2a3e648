//! A part of a list of cases, the same for every driver, so that reports of parts compare.

use std::collections::{BTreeMap, BTreeSet};

use super::Case;

/// Every `every`-th of `cases` of each kernel at each head dim, one of each at least. The first
/// cases of a kernel are its smallest and show the least: a part starts in the middle of its step.
pub fn select(cases: Vec<Box<dyn Case>>, every: u32) -> Vec<Box<dyn Case>> {
    let every = usize::try_from(every.max(1)).unwrap_or(usize::MAX);
    let mut groups: BTreeMap<(&str, String), Vec<usize>> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        groups.entry((case.kernel(), head_dim(&case.id()))).or_default().push(index);
    }
    let part = |group: &Vec<usize>| {
        let first = every.min(group.len()) / 2;
        group.iter().copied().skip(first).step_by(every).collect::<Vec<_>>()
    };
    let chosen: BTreeSet<usize> = groups.values().flat_map(part).collect();
    let numbered = cases.into_iter().enumerate();
    numbered.filter(|(index, _)| chosen.contains(index)).map(|(_, case)| case).collect()
}

/// The word of a case's name that tells its head dim, such as `d128`.
pub fn head_dim(id: &str) -> String {
    let is_head_dim =
        |word: &&str| word.strip_prefix('d').is_some_and(|digits| digits.parse::<u32>().is_ok());
    id.split_whitespace().find(is_head_dim).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::HeadDim;
    use crate::kernels;
    use crate::parity::suite;

    #[test]
    fn the_smallest_part_has_every_kernel_at_every_head_dim() {
        let part = select(suite::cases(), u32::MAX);
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
        assert_eq!(select(suite::cases(), 1).len(), suite::cases().len());
        assert_eq!(select(suite::cases(), 0).len(), suite::cases().len());
    }
}
