#!/usr/bin/env python3
"""Writes quants.json: what gguf and bitsandbytes make of blocks and rows (needs gguf, bitsandbytes, numpy, torch)."""
import json
import pathlib

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch

BLOCK_TYPES = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL".split()
HALF_OFFSETS = {  # bytes from a block's start to its F16s
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
}
EXTREMES = [0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-24), 6.1e-05, 1.0]
rng = np.random.default_rng(20240604)


def blocks(name):
    """Random bytes; the halves are ordinary numbers in half of the blocks, extreme ones in the others, never NaN or infinite."""
    type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    raw = rng.integers(0, 256, (6 if name.endswith("K") else 16, type_size), dtype=np.uint8)
    for i, row in enumerate(raw):
        for offset in HALF_OFFSETS[name]:
            half = np.float16(rng.standard_normal() * 0.01 if i % 2 else rng.choice(EXTREMES))
            row[offset:offset + 2] = np.array([half]).view(np.uint8)
    numbers = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert np.isfinite(numbers).all()
    return {"blocks": raw.tobytes().hex(), "numbers": numbers.astype("<f4").tobytes().hex()}


def rows():
    """(8, 320): normal numbers of several sizes, ties, zeros, one number alone."""
    x = (rng.standard_normal((8, 320)) * np.logspace(-6, 3, 8)[:, None]).astype(np.float32)
    x[1, :64] = 0.0
    x[2, 1:32] = 0.0
    x[3] = np.round(x[3] * 64 / np.abs(x[3]).max()) / 8
    x[4, ::2] *= np.float32(1e-3)
    return x


def nf4(x):
    """Codes and numbers with float32 absmax, and the error that bitsandbytes's own double quantisation makes."""
    flat = torch.from_numpy(x.copy()).reshape(-1)
    packed, state = bnb.quantize_4bit(flat, blocksize=64, quant_type="nf4", compress_statistics=False)
    byte = packed.numpy().reshape(-1)
    codes = np.stack([byte >> 4, byte & 15], axis=1).reshape(-1)
    numbers = bnb.dequantize_4bit(packed, state).numpy()
    packed, state = bnb.quantize_4bit(flat, blocksize=64, quant_type="nf4", compress_statistics=True)
    nested = bnb.dequantize_4bit(packed, state).numpy()
    error = float(np.sqrt(np.mean((nested - x.reshape(-1)) ** 2)))
    return {"row": x.astype("<f4").tobytes().hex(), "codes": "".join("%x" % code for code in codes),
            "numbers": numbers.astype("<f4").tobytes().hex(), "nested_error": error}


def main():
    x = rows()
    quantised = {"F16": x.astype("<f2").tobytes().hex(), "BF16": gguf.quants.quantize(x, gguf.GGMLQuantizationType.BF16).tobytes().hex()}
    for name in ("Q8_0", "Q4_0"):
        quantised[name] = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).tobytes().hex()
    fixture = {
        "read": {name: blocks(name) for name in BLOCK_TYPES},
        "rows": x.astype("<f4").tobytes().hex(),
        "quantised": quantised,
        "nf4": nf4((rng.standard_normal(2048) * 0.02 * np.repeat(np.exp(rng.standard_normal(32) * 0.2), 64)).astype(np.float32)),
    }
    path = pathlib.Path(__file__).with_name("quants.json")
    path.write_text(json.dumps(fixture, indent=0) + "\n")
    print(path.stat().st_size, "bytes")


main()
