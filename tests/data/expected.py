"""Reference outputs for the captures, in numpy and f64, from the formulas alone: run with the
folders to fill. Writes expected_dequant.f64.bin (attention over decoded K and V) and
expected_full.f64.bin (over the unquantised ones), [num_heads, head_dim] each; fails where the
packed codes are not what encoding the unquantised rows gives."""

import json
import pathlib
import sys

import numpy as np

HALF = [0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896]
LEVELS = np.float32([-x for x in HALF[::-1]] + HALF).astype(np.float64)
EDGES = (LEVELS[1:] + LEVELS[:-1]) / 2


def hadamard(d):
    h = np.ones((1, 1))
    while len(h) < d:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(d)


def attend(q, k, v, scale):
    out = []
    for head, row in enumerate(q):
        kv = head * len(k) // len(q)
        w = np.exp((s := k[kv] @ row * scale) - s.max())
        out.append(w / w.sum() @ v[kv])
    return np.array(out)


def main(folder):
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    p, codec = manifest["params"], manifest["codec"]
    assert codec == {"rotation": "plain", "k_bits": 4, "v_bits": 4}, codec
    d, n, nkv, cap = p["head_dim"], p["kv_seq_len"], p["num_kv_heads"], p["kv_capacity"]
    slots = (p["ring_start"] + np.arange(n)) % cap
    h = hadamard(d)

    def read(name, dtype, shape):
        return np.fromfile(folder / manifest["dump_paths"][name], dtype).reshape(shape)

    decoded, full = [], []
    for side in "kv":
        rows = read(side + "_pre_quant_full", "<f4", (nkv, n, d)).astype(np.float64)
        packed = read(side + "_packed_padded", "u1", (nkv, cap, d // 2))[:, slots]
        norms = read(side + "_norms_padded", "<f4", (nkv, cap))[:, slots, None].astype(np.float64)
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(nkv, n, d)
        rotated = rows @ h
        z = rotated * np.sqrt(d) / np.linalg.norm(rotated, axis=-1, keepdims=True)
        assert (np.searchsorted(EDGES, z) == codes).all(), f"{folder}: {side} codes"
        decoded.append(LEVELS[codes] * norms / np.sqrt(d) @ h)
        full.append(rows)
    q = read("q_natural", "<f4", (p["num_heads"], d)).astype(np.float64)
    for name, kv in (("dequant", decoded), ("full", full)):
        attend(q, *kv, p["scale"]).tofile(folder / f"expected_{name}.f64.bin")


for argument in sys.argv[1:]:
    main(argument)
