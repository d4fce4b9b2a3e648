//! K and V each as [`quantize_kv`] encodes them.

use super::quantize_kv::quantize_kv;
use crate::codec::{Bits, Codec};
use crate::error::Result;
use crate::params::QuantizeKvParams;

/// Where one side of the cache is stored.
#[derive(Debug)]
pub struct Side<'a> {
    /// `[nkv, cap, row]`.
    pub packed: &'a mut [u8],
    /// `[nkv, cap, norms_per_pos]`.
    pub norms: &'a mut [f32],
}

/// The kernel: `k` and `v` `[T, nkv, D]` into their sides, K in codes of `k_bits`. Slots that no
/// token maps to are left as they are.
pub fn quantize_k_and_v(
    (k_bits, codec): (Bits, &Codec),
    params: &QuantizeKvParams,
    [k, v]: [&[f32]; 2],
    [k_side, v_side]: [Side<'_>; 2],
) -> Result<()> {
    let k_codec = Codec { bits: k_bits, ..*codec };
    quantize_kv(&k_codec, params, k, k_side.packed, k_side.norms)?;
    quantize_kv(codec, params, v, v_side.packed, v_side.norms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{HeadDim, Rotation};

    /// Two tokens of one KV head in slots 1 and 2 of 4.
    const PARAMS: QuantizeKvParams = QuantizeKvParams {
        head_dim: 64,
        num_kv_heads: 1,
        write_pos: 1,
        cache_capacity: 4,
        is_sliding: 0,
        scale_factor_d512: 1.0,
        rms_probe_enabled: 0,
        num_tokens: 2,
    };

    #[test]
    fn each_side_is_encoded_in_its_own_width_from_its_own_rows() {
        let codec = Codec::new(HeadDim::ALL[0], Bits::B4, Rotation::Srht);
        let rows = [37, 61].map(|step| -> Vec<f32> {
            (0..2 * 64).map(|i| (i * step % 101) as f32 / 50.0 - 1.0).collect()
        });
        let [mut k, mut v] = [8, 4].map(|bits| (vec![0u8; 4 * 8 * bits], vec![0f32; 4]));
        let sides = [&mut k, &mut v].map(|(packed, norms)| Side { packed, norms });
        quantize_k_and_v((Bits::B8, &codec), &PARAMS, [&rows[0], &rows[1]], sides).unwrap();
        for ((bits, src), side) in [Bits::B8, Bits::B4].into_iter().zip(&rows).zip([&k, &v]) {
            let mut alone = (vec![0; side.0.len()], vec![0.0; 4]);
            let codec = Codec { bits, ..codec };
            quantize_kv(&codec, &PARAMS, src, &mut alone.0, &mut alone.1).unwrap();
            assert_eq!(*side, alone, "{bits} bits");
            assert!(side.1[1] > 0.0 && side.1[3] == 0.0, "{:?}", side.1);
        }
    }
}
