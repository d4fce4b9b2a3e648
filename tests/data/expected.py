"""Reference outputs for the captures, in numpy and f64, from the formulas alone: run with the
folders to fill. Writes [num_heads, head_dim] each of expected_dequant.f64.bin (attention over
decoded K and V), expected_canary.f64.bin (the same with the norm of KV head 0's K at position 10
doubled), expected_newest.f64.bin (with the newest row unquantised) and expected_full.f64.bin (with
every row so). Prints how far each is from the first. Fails where the packed codes or the norms are
not what encoding the unquantised rows gives."""

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


def nrmse(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


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

    decoded, full = {}, {}
    for side in "kv":
        rows = read(side + "_pre_quant_full", "<f4", (nkv, n, d)).astype(np.float64)
        packed = read(side + "_packed_padded", "u1", (nkv, cap, d // 2))[:, slots]
        norms = read(side + "_norms_padded", "<f4", (nkv, cap))[:, slots, None].astype(np.float64)
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(nkv, n, d)
        rotated = rows @ h
        lengths = np.linalg.norm(rotated, axis=-1, keepdims=True)
        z = rotated * np.sqrt(d) / lengths
        assert (np.searchsorted(EDGES, z) == codes).all(), f"{folder}: {side} codes"
        ulp = np.spacing(np.float32(lengths))
        assert (abs(norms - lengths) <= ulp).all(), f"{folder}: {side} norms"
        decoded[side] = LEVELS[codes] * norms / np.sqrt(d) @ h
        full[side] = rows
    q = read("q_natural", "<f4", (p["num_heads"], d)).astype(np.float64)
    # Decoding is linear in the norm: twice the norm is twice the row.
    canary = {"k": decoded["k"].copy(), "v": decoded["v"]}
    canary["k"][0, 10] *= 2
    newest = {side: np.concatenate([decoded[side][:, :-1], full[side][:, -1:]], 1) for side in "kv"}
    caches = {"dequant": decoded, "canary": canary, "newest": newest, "full": full}
    out = {name: attend(q, kv["k"], kv["v"], p["scale"]) for name, kv in caches.items()}
    for name, rows in out.items():
        rows.tofile(folder / f"expected_{name}.f64.bin")
    seen = {name: nrmse(out[name], out["dequant"]) for name in ("canary", "newest", "full")}
    print(folder.name, *(f"{name} {error:.4e}" for name, error in seen.items()))


for argument in sys.argv[1:]:
    main(argument)
