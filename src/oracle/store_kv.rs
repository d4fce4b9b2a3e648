//! Rows into ring slots as they are; f16 to nearest.

use half::f16;

use super::check_len;
use crate::error::Result;
use crate::params::QuantizeKvParams;

/// The dense rows of a cache, `[nkv, cap, D]`.
#[derive(Debug)]
pub enum StoredRows<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// 16-bit floats.
    F16(&'a mut [f16]),
}

/// The kernel: `src` `[T, nkv, D]` into `rows`. Slots that no token maps to are left as they are.
pub fn store_kv(params: &QuantizeKvParams, src: &[f32], rows: StoredRows<'_>) -> Result<()> {
    match rows {
        StoredRows::F32(rows) => store(params, src, rows, |x| x),
        StoredRows::F16(rows) => store(params, src, rows, f16::from_f32),
    }
}

fn store<T: Copy>(
    params: &QuantizeKvParams,
    src: &[f32],
    rows: &mut [T],
    convert: impl Fn(f32) -> T,
) -> Result<()> {
    let d = params.check()?.as_usize();
    let (heads, cap) = (params.num_kv_heads as usize, params.cache_capacity as usize);
    let values = params.num_tokens as usize * heads * d;
    check_len("store_kv", "src", src, values as u64)?;
    check_len("store_kv", "rows", rows, (heads * cap * d) as u64)?;
    for (i, x) in src[..values].chunks_exact(d).enumerate() {
        let Some(slot) = params.slot((i / heads) as u32) else { continue };
        let at = (i % heads * cap + slot as usize) * d;
        rows[at..at + d].iter_mut().zip(x).for_each(|(row, &x)| *row = convert(x));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_token_of_a_slot_wins_and_other_slots_keep_their_rows() {
        let params = QuantizeKvParams {
            head_dim: 64,
            num_kv_heads: 2,
            write_pos: 2,
            cache_capacity: 4,
            is_sliding: 1,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: 3,
        };
        // Token t of head h is all t + h / 4 + 2^-20, which a half rounds down.
        let src: Vec<f32> = (0..3 * 2 * 64)
            .map(|i| (i / 128) as f32 + (i / 64 % 2) as f32 / 4.0 + 1.0 + f32::EPSILON)
            .collect();
        let mut halves = vec![f16::NEG_ONE; 2 * 4 * 64];
        store_kv(&params, &src, StoredRows::F16(&mut halves)).unwrap();
        let of = |head: usize, slot: usize| halves[(head * 4 + slot) * 64 + 63].to_f32();
        assert_eq!([0, 1, 2, 3].map(|s| of(0, s)), [3.0, -1.0, 1.0, 2.0]);
        assert_eq!([0, 1, 2, 3].map(|s| of(1, s)), [3.25, -1.0, 1.25, 2.25]);

        let longer = QuantizeKvParams { cache_capacity: 2, write_pos: 0, ..params };
        let mut floats = vec![0.0; 2 * 2 * 64];
        store_kv(&longer, &src, StoredRows::F32(&mut floats)).unwrap();
        assert_eq!(floats[..64], src[2 * 128..][..64]);
        assert_eq!(floats[64..128], src[128..][..64]);
    }
}
