//! Sizes and grids of the kernels as expressions over the parameters: what `launch` computes,
//! written down for programs that cannot call it. `tests/export` holds the two together.

use super::document::{Expression, Grid, Named};
use super::variant::Variant;
use crate::codec::{Codec, HeadDim, KeyFormat, Rotation, row};
use crate::contract::{Contract, Language, Plan, Value};
use crate::kernels::{MOST_WORKGROUPS, flash_attn_tile};

/// How expressions are to be read, for the contract.
pub(super) const SYNTAX: &str = "unsigned 64-bit integers; names are fields of the blocks, \
    names of grid.let, max_workgroups_per_dim (the device's limit) and grid.x, grid.y, grid.z; operators + - * == ?: as in C; \
    ceil_div(a, b) is a / b rounded up";

fn formula(words: impl Into<String>, text: impl Into<String>) -> Expression {
    Expression { words: words.into(), expression: text.into() }
}

fn rows(count: &str, what: &str, bytes: u64) -> Expression {
    formula(format!("{what}, {bytes} bytes each"), format!("{count} * {bytes}"))
}

fn packed(slots: &str, codec: &Codec) -> Expression {
    let bytes = row::row_bytes(codec.head_dim, codec.bits);
    rows(slots, "one packed row a KV head and slot", bytes)
}

fn norms(slots: &str, codec: &Codec) -> Expression {
    let bytes = 4 * u64::from(codec.head_dim.norms_per_pos());
    rows(slots, "the f32 norms of a KV head and slot", bytes)
}

fn partials_or_output(rows: &str, head_dim: HeadDim) -> Expression {
    formula(
        "f32: one row a query head; with more than one split the partials instead, \
         nwg x (head_dim + 2) values a query head",
        format!("4 * {rows} * (nwg == 1 ? {head_dim} : nwg * {})", head_dim.get() + 2),
    )
}

/// Rows of pages and their norms, or a binding that is never read.
fn pages(head_dim: HeadDim, format: KeyFormat) -> [Expression; 2] {
    let slots = "num_pages * n_kv_heads * page_size";
    let dense = |bytes| {
        let row = rows(
            slots,
            "one dense row a page, KV head and slot",
            bytes * u64::from(head_dim.get()),
        );
        [row, formula("anything: not read", "4")]
    };
    match format {
        KeyFormat::F32 => dense(4),
        KeyFormat::F16 => dense(2),
        KeyFormat::Tq(bits) => {
            let codec = Codec::new(head_dim, bits, Rotation::Plain);
            [packed(slots, &codec), norms(slots, &codec)]
        }
    }
}

fn tile_sizes(p: &flash_attn_tile::Problem, contract: &Contract) -> Vec<Expression> {
    let queries = "num_tokens * n_heads";
    let [k, k_norms] = pages(p.head_dim, p.k);
    let [v, v_norms] = pages(p.head_dim, p.v);
    vec![
        block(contract),
        rows(queries, "one f32 row a token and query head", 4 * u64::from(p.head_dim.get())),
        rows(
            "num_sequences",
            "one record of seven u32 a sequence: first_token, query_tokens, \
             position, kv_seq_len, ring_start, kv_capacity, first_block",
            28,
        ),
        rows("num_blocks", "the page of each block", 4),
        k,
        k_norms,
        v,
        v_norms,
        partials_or_output(queries, p.head_dim),
    ]
}

fn block(contract: &Contract) -> Expression {
    let bytes = 4 * contract.params.len().max(1);
    formula("the block", bytes.to_string())
}

/// Bytes that a dispatch needs of each binding, in binding order.
pub(super) fn sizes(variant: &Variant, contract: &Contract) -> Vec<Expression> {
    let row = |head_dim: HeadDim| 4 * u64::from(head_dim.get());
    match variant {
        Variant::Fwht(p) => {
            vec![rows("num_heads", "f32 rows", row(p.head_dim)), block(contract)]
        }
        Variant::QuantizeKv(p) => {
            let slots = "num_kv_heads * cache_capacity";
            vec![
                rows(
                    "num_tokens * num_kv_heads",
                    "one f32 row a token and KV head",
                    row(p.codec.head_dim),
                ),
                packed(slots, &p.codec),
                norms(slots, &p.codec),
                block(contract),
            ]
        }
        Variant::QuantizeKAndV(p) => {
            let slots = "num_kv_heads * cache_capacity";
            let source = rows(
                "num_tokens * num_kv_heads",
                "one f32 row a token and KV head",
                row(p.codec.head_dim),
            );
            let k_codec = Codec { bits: p.k_bits, ..p.codec };
            vec![
                block(contract),
                source.clone(),
                source,
                packed(slots, &k_codec),
                norms(slots, &k_codec),
                packed(slots, &p.codec),
                norms(slots, &p.codec),
            ]
        }
        Variant::StoreKv(p) => {
            let (d, slots) = (u64::from(p.head_dim.get()), "num_kv_heads * cache_capacity");
            vec![
                rows("num_tokens * num_kv_heads", "one f32 row a token and KV head", 4 * d),
                rows(slots, "one dense row a KV head and slot", d * p.kv_type.bytes()),
                block(contract),
            ]
        }
        Variant::DequantizeKv(p) => {
            let slots = "num_kv_heads * cache_capacity";
            let dst = formula(
                "f32, to the end of the last position of the last KV head",
                format!(
                    "4 * ((num_tokens - 1) * dst_token_stride \
                     + (num_kv_heads - 1) * dst_head_stride + {})",
                    p.codec.head_dim
                ),
            );
            vec![packed(slots, &p.codec), norms(slots, &p.codec), dst, block(contract)]
        }
        Variant::FlashAttnVecTq(p) => {
            let (slots, codec) = ("n_kv_heads * kv_capacity", &p.codec);
            let k_codec = Codec { bits: p.k_bits, ..p.codec };
            vec![
                block(contract),
                rows("n_heads", "one f32 row a query head", row(codec.head_dim)),
                packed(slots, &k_codec),
                norms(slots, codec),
                packed(slots, codec),
                norms(slots, codec),
                partials_or_output("n_heads", codec.head_dim),
            ]
        }
        Variant::FlashAttnVec(p) => {
            let bytes = u64::from(p.head_dim.get()) * p.kv_type.bytes();
            let dense = rows("n_kv_heads * kv_capacity", "one dense row a KV head and slot", bytes);
            vec![
                block(contract),
                rows("n_heads", "one f32 row a query head", row(p.head_dim)),
                dense.clone(),
                dense,
                partials_or_output("n_heads", p.head_dim),
            ]
        }
        Variant::FlashAttnVecReduce(p) => vec![
            block(contract),
            formula(
                "f32: nwg x (head_dim + 2) values a row",
                format!("4 * nrows * nwg * {}", p.head_dim.get() + 2),
            ),
            rows("nrows", "f32 rows", row(p.head_dim)),
            block(contract),
        ],
        Variant::FlashAttnTile(p) => tile_sizes(p, contract),
    }
}

/// Workgroups of an encoder: in WGSL no more than go round.
fn encoded(plan: &Plan) -> Grid {
    let rows = constant(plan, "ROWS_PER_WORKGROUP");
    let grid = spread("num_tokens * num_kv_heads", rows, "rows");
    if plan.language == Language::Msl {
        return grid;
    }
    let most = format!(
        "ceil_div({MOST_WORKGROUPS}, max_workgroups_per_dim) == 1 ? {MOST_WORKGROUPS} : max_workgroups_per_dim"
    );
    Grid {
        words: format!("{rows} rows a workgroup, and at most {MOST_WORKGROUPS}, which go round"),
        bindings: vec![
            grid.bindings[0].clone(),
            Named { name: "most".to_owned(), expression: most },
        ],
        x: "ceil_div(workgroups, most) == 1 ? workgroups : most".to_owned(),
        y: "1".to_owned(),
        ..grid
    }
}

/// Workgroups of a dispatch.
pub(super) fn grid(variant: &Variant, plan: &Plan) -> Grid {
    let threads = plan.workgroup_size;
    match variant {
        Variant::Fwht(_) => spread("num_heads", constant(plan, "ROWS_PER_WORKGROUP"), "rows"),
        Variant::QuantizeKv(_) => encoded(plan),
        Variant::QuantizeKAndV(_) => {
            let grid = encoded(plan);
            Grid { words: format!("{}; z: K, V", grid.words), z: "2".to_owned(), ..grid }
        }
        Variant::StoreKv(p) => {
            let count = format!("num_tokens * num_kv_heads * {}", p.head_dim.get() / 4);
            spread(&count, threads, "groups of four coordinates")
        }
        Variant::DequantizeKv(p) => {
            let count = format!("num_tokens * num_kv_heads * {}", p.codec.head_dim.get() / 8);
            spread(&count, threads, "groups of eight coordinates")
        }
        Variant::FlashAttnVecReduce(_) => {
            let count = format!("nrows * {}", constant(plan, "PARTS"));
            spread(&count, 1, "part of a row")
        }
        Variant::FlashAttnTile(p) => Grid {
            words: format!(
                "{} queries (heads of tokens) a workgroup; KV heads and splits; sequences",
                p.queries()
            ),
            bindings: Vec::new(),
            x: format!("ceil_div(max_query_tokens * {}, {})", constant(plan, "GQA"), p.queries()),
            y: "n_kv_heads * splits".to_owned(),
            z: "num_sequences".to_owned(),
        },
        Variant::FlashAttnVecTq(_) | Variant::FlashAttnVec(_) => {
            let groups = constant(plan, "GROUPS_PER_KV");
            Grid {
                words: format!("{groups} workgroups a KV head, times the splits"),
                bindings: Vec::new(),
                x: format!("n_kv_heads * {groups}"),
                y: "nwg".to_owned(),
                z: "1".to_owned(),
            }
        }
    }
}

/// `count` items, `each` a workgroup, spread over x and y when one dimension does not hold them.
fn spread(count: &str, each: u32, what: &str) -> Grid {
    let named = |name: &str, expression: String| Named { name: name.to_owned(), expression };
    Grid {
        words: format!("{each} {what} a workgroup; over x and y when x alone does not hold them"),
        bindings: vec![
            named("workgroups", format!("ceil_div({count}, {each})")),
            named("lines", "ceil_div(workgroups, max_workgroups_per_dim)".to_owned()),
        ],
        x: "ceil_div(workgroups, lines)".to_owned(),
        y: "lines".to_owned(),
        z: "1".to_owned(),
    }
}

/// A generated constant of the plan; 1 where it has none.
fn constant(plan: &Plan, name: &str) -> u32 {
    plan.constants
        .iter()
        .find_map(|c| match c.value {
            Value::U32(value) if c.name == name => Some(value),
            _ => None,
        })
        .unwrap_or(1)
}

/// The value that a field must have in this variant, where there is only one.
pub(super) fn fixed(variant: &Variant, field: &str) -> Option<String> {
    let head_dim = variant.head_dim();
    match field {
        "head_dim" => Some(head_dim.to_string()),
        "norms_per_pos" => Some(head_dim.norms_per_pos().to_string()),
        "rms_probe_enabled" => Some("0".to_owned()),
        "n_heads" => variant.ratio().map(|ratio| format!("n_kv_heads * {ratio}")),
        _ => None,
    }
}

/// What the fields of the parameter blocks mean, with their range.
const MEANINGS: &[(&str, &str)] = &[
    ("cache_capacity", "slots a KV head, at least 1"),
    ("dst_head_stride", "floats from one KV head to the next in dst"),
    ("dst_token_stride", "floats from one position to the next in dst"),
    ("head_dim", "coordinates of a head vector"),
    ("is_sliding", "1: slots wrap at the capacity; 0: write_pos + num_tokens must not pass it"),
    ("kv_capacity", "slots a KV head, at least 1"),
    ("kv_seq_len", "positions stored, at most kv_capacity"),
    ("mask_type", "0 none, 1 causal, 2 sliding window"),
    ("max_query_tokens", "most query tokens of one sequence, or more"),
    ("n_heads", "query heads"),
    ("n_kv_heads", "KV heads, at least 1"),
    ("norms_per_pos", "norms a position"),
    ("nrows", "rows: query heads, at least 1"),
    ("num_blocks", "entries of block_table, at least 1"),
    ("num_heads", "rows (heads, or heads x tokens), at least 1"),
    ("num_kv_heads", "KV heads, at least 1"),
    ("num_pages", "pages of k and v, at least 1"),
    ("num_sequences", "sequences, at least 1"),
    ("num_tokens", "tokens or positions, at least 1; num_kv_heads x num_tokens under 2^32"),
    ("nwg", "splits of the context, 1 to 256; with more than 1, dst holds partials to be merged"),
    ("page_size", "slots of a page, at least 1; a contiguous cache is one page"),
    ("read_pos", "slot of the first position, less than cache_capacity"),
    ("ring_start", "slot of the oldest position, less than kv_capacity"),
    ("rms_probe_enabled", "published debugging probe that these kernels do not have"),
    ("scale", "factor on dot(q, k), above 0"),
    ("scale_factor_d512", "scale between block norm and codebook at head_dim 512, above 0; 1 else"),
    ("sliding_window", "newest positions that are visible with mask_type 2; 0 is no window"),
    ("softcap", "c tanh(score / c) when c is above 0; 0 is off"),
    ("split_base", "first slot of the partials that the dispatch writes; 0 where nwg is 1"),
    ("splits", "slots that the dispatch writes, at least 1; split_base + splits at most nwg"),
    ("write_pos", "slot of the first token, less than cache_capacity"),
];

/// What `field` means; empty where nobody has written it down.
pub(super) fn meaning(field: &str) -> &'static str {
    MEANINGS.iter().find(|(name, _)| *name == field).map_or("", |(_, meaning)| meaning)
}

/// Whether lanes of one subgroup must hold consecutive threads of the workgroup, and how many.
pub(super) fn subgroup(plan: &Plan, planned: Option<u32>) -> Option<u32> {
    match (plan.subgroups, plan.language) {
        (false, _) => None,
        (true, Language::Msl) => Some(32),
        (true, Language::Wgsl) => planned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_every_block_has_a_meaning_and_no_meaning_is_left_over() {
        let mut used: Vec<&str> = crate::kernels::ALL
            .iter()
            .flat_map(|c| c.params.iter().map(|(name, _)| *name))
            .chain(["nrows", "nwg"])
            .collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used, MEANINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
