#!/usr/bin/env python3
"""Make a random-weight model for measurements: make_model.py SHAPE DTYPE DIR

SHAPE  tiny (6 layers of 256), 125m (12 of 768), 1.1b (22 of 2048)
DTYPE  f32, f16, bf16
"""
import sys

import reference

SHAPES = {
    "tiny": dict(hidden=256, layers=6, heads=8, kv_heads=4, ffn=768, vocab=4096),
    "125m": dict(hidden=768, layers=12, heads=12, kv_heads=4, ffn=2048, vocab=32000),
    "1.1b": dict(hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, vocab=32000),
}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2].upper() not in ("F32", "F16", "BF16"):
        sys.exit(__doc__)
    reference.make_model(sys.argv[3], dtype=sys.argv[2].upper(), positions=4096, pool=1 << 24,
                         **SHAPES[sys.argv[1]])
