//! Deliberate faults, one a kernel: the page's self-test. A suite that does not turn red with one
//! of them proves nothing.

use crate::contract::Plan;
use crate::driver::DriverError;

/// One token of a kernel, changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    kernel: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn fault(kernel: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault { kernel, from, to }
}

const FAULTS: [Fault; 9] = [
    fault("fwht", "ROW_THREADS] = x[m]", "ROW_THREADS] = x[m ^ 1u]"),
    fault("quantize_kv", "own_words(codes, BITS)", "own_words(codes, BITS - 1u)"),
    fault("quantize_k_and_v", "own_words(codes, V_BITS)", "own_words(codes, V_BITS - 1u)"),
    fault("store_kv", "* QUADS + i % QUADS", "* QUADS + i / QUADS"),
    fault("dequantize_kv", "bit % 32u + 4u * BITS, BITS)", "bit % 32u + 3u * BITS, BITS)"),
    fault("flash_attn_vec_tq", "query[h * VECS + i] = q[", "query[h * VECS] = q["),
    fault("flash_attn_vec", "sum[h] *= rescale", "sum[h] /= rescale"),
    fault("flash_attn_vec_reduce", "total / sum", "total * sum"),
    fault("flash_attn_tile", "sum[r] *= rescale", "sum[r] /= rescale"),
];

impl Fault {
    /// The fault of `kernel`.
    pub fn of(kernel: &str) -> Result<&'static Self, DriverError> {
        FAULTS.iter().find(|f| f.kernel == kernel).ok_or_else(|| DriverError::Argument {
            flag: "break",
            need: format!("one of {}", FAULTS.map(|f| f.kernel).join(", ")),
            found: kernel.to_owned(),
        })
    }

    /// The kernel's text with the fault, if `plan` is of its kernel.
    pub fn apply(&self, plan: &Plan) -> Option<String> {
        let contract = plan.contract;
        (contract.stem == self.kernel).then(|| contract.wgsl.replacen(self.from, self.to, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    #[test]
    fn every_kernel_has_a_fault_that_changes_its_text() {
        for contract in kernels::ALL {
            let fault = Fault::of(contract.stem).unwrap();
            assert_eq!(contract.wgsl.matches(fault.from).count(), 1, "{fault:?}");
        }
        let error = Fault::of("softmax").unwrap_err().to_string();
        assert!(error.contains("flash_attn_vec_tq") && error.contains("softmax"), "{error}");
    }
}
