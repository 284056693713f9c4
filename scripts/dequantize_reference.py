#!/usr/bin/env python3
"""Writes tests/weights/dequantize_reference.json: random blocks of every quantised type and their values by ggml's rules.

    scripts/dequantize_reference.py OUT.json

The values are those of the `gguf` package's dequantize (numpy, f32), which ggml's own tests hold against its C code.
"""
import json
import sys
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

# Where the f16 scales lie in each block: they are drawn as numbers, since random bytes would make NaNs of some.
SCALES_AT = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
             "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

random = np.random.default_rng(7)
types = {}
for name, places in SCALES_AT.items():
    elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    num_blocks = 512 // elements
    blocks = random.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    for place in places:
        scales = (random.standard_normal(num_blocks) * 0.02).astype(np.float16)
        scales[0] = np.float16(3e-6)  # a subnormal
        blocks[:, place:place + 2] = scales.view(np.uint8).reshape(-1, 2)
    values = dequantize(blocks, GGMLQuantizationType[name]).astype(np.float32).reshape(-1)
    types[name] = {"blocks": blocks.tobytes().hex(), "values": [float(f"{value:.9g}") for value in values]}
with open(sys.argv[1], "w") as out:
    json.dump({"gguf": version("gguf"), "numpy": np.__version__, "types": types}, out, separators=(",", ":"))
    out.write("\n")
