"""The CPU engine against the float64 reference, on random-weight models of odd shapes.

Each model runs on every instruction set this processor has, in several arrangements: prompt in one
piece, in pieces of 7 and token by token; KV blocks of 1, 16 and 17 tokens; one and three threads;
alone and among others.  All arrangements of one instruction set must agree bit for bit; one of them is
held against the reference.

Models whose numbers divide run split over several ranks (--tp) as well: again all arrangements agree bit for
bit, and the same bounds hold against the reference.  The sum over the ranks is one more rounding of the same
size as those within a product, so no bound of its own is needed.

Tolerances are largest differences of a logit, in units of the logits' standard deviation:
  2e-5  products in float: rounding of sums of up to a few hundred terms, through a few layers
  2e-2  activations rounded to bf16, against a reference that rounds at the same places: a float
        that falls on the other side of a rounding border moves by 2^-8 of itself
"""
import os
import pathlib
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy", reason="NumPy is needed for the reference")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference  # noqa: E402

ISAS = ["portable", "avx2", "avx512", "avx512bf16"]
FLOAT_TOLERANCE, BF16_TOLERANCE = 2e-5, 2e-2

LINEAR = {"rope_scaling": {"type": "linear", "factor": 2.5}}
LLAMA3 = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}
NEWER = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}

SHAPES = {
    "plain": dict(hidden=48, layers=2, heads=3, kv_heads=3, ffn=50, vocab=97),
    "gqa2": dict(hidden=64, layers=3, heads=4, kv_heads=2, ffn=172, vocab=509, tied=True),
    "gqa3-dim20": dict(hidden=60, layers=2, heads=6, kv_heads=2, head_dim=20, ffn=77, vocab=131),
    "gqa8-dim8": dict(hidden=36, layers=2, heads=8, kv_heads=1, head_dim=8, ffn=33, vocab=61),
    "dim80": dict(hidden=70, layers=2, heads=2, kv_heads=1, head_dim=80, ffn=90, vocab=113),
    "dim64-linear": dict(hidden=128, layers=2, heads=2, kv_heads=2, ffn=200, vocab=257, rope=LINEAR),
    "llama3": dict(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=96, vocab=128, rope=LLAMA3),
    "newer-rope": dict(hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, vocab=128, rope=NEWER),
    "qwen2": dict(hidden=56, layers=2, heads=7, kv_heads=1, ffn=101, vocab=151, arch="Qwen2ForCausalLM"),
    "biases": dict(hidden=40, layers=2, heads=5, kv_heads=5, ffn=37, vocab=41, attention_bias=True,
                   mlp_bias=True),
    "mistral": dict(hidden=96, layers=2, heads=6, kv_heads=3, ffn=160, vocab=300, arch="MistralForCausalLM"),
    "one-of-each": dict(hidden=2, layers=1, heads=1, kv_heads=1, ffn=1, vocab=2),
    "tp4": dict(hidden=40, layers=2, heads=8, kv_heads=4, head_dim=6, ffn=52, vocab=41, attention_bias=True, mlp_bias=True),
    "tp3": dict(hidden=60, layers=2, heads=6, kv_heads=3, head_dim=20, ffn=51, vocab=100, tied=True),
    "tp8": dict(hidden=72, layers=3, heads=16, kv_heads=8, head_dim=12, ffn=88, vocab=307, arch="Qwen2ForCausalLM"),
    "group40": dict(hidden=80, layers=1, heads=40, kv_heads=1, head_dim=4, ffn=64, vocab=99),
}
# name, dtype, further arguments
CASES = [(name, dtype, {}) for name in SHAPES for dtype in ("F32", "F16", "BF16")] + [
    ("gqa2", "F32", dict(shards=3)),
    ("qwen2", "BF16", dict(shards=2)),
    ("plain", "BF16", dict(norm_dtype="F32")),
    ("plain", "F16", dict(pad=False)),  # data at an odd place in the file
    ("plain", "F32", dict(pad=False)),
]


def engine_run():
    path = os.environ.get("BATON_ENGINE_RUN")
    if path is None:
        root = pathlib.Path(__file__).resolve().parents[2]
        build = pathlib.Path(os.environ.get("BATON_BUILD_DIR", root / "build" / "release"))
        path = build / "tests" / "engine_run"
    if not os.path.exists(path):
        pytest.skip(f"{path} is not built (target engine_run)")
    return str(path)


def run(directory, vocab, sequences, tmp, **options):
    """Greedy tokens of each sequence and, by (sequence, index), the logits they were chosen from;
    None if the processor lacks the instructions."""
    out = tmp / "logits.bin"
    args = [engine_run(), str(directory), "--logits", str(out)]
    for key, value in options.items():
        args += ["--" + key.replace("_", "-"), str(value)]
    for ids in sequences:
        args += ["--ids", ",".join(map(str, ids))]
    done = subprocess.run(args, capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        return None
    assert done.returncode == 0, done.stderr
    tokens = [[int(t) for t in line.split()] for line in done.stdout.splitlines()]
    records = np.fromfile(out, dtype=np.dtype([("seq", "<u4"), ("index", "<u4"), ("logits", "<f4", (vocab,))]))
    return tokens, {(int(r["seq"]), int(r["index"])): r["logits"].copy() for r in records}


ARRANGEMENTS = [
    dict(chunk=1000),
    dict(chunk=1, block_tokens=1),
    dict(chunk=7, block_tokens=17, threads=3),
    dict(chunk=1000, block_tokens=17, threads=3, company=True),
    dict(chunk=1, threads=2, company=True),
    dict(chunk=5, block_tokens=1, company=True),
]


def ways_to_split(shape):
    """The numbers of ranks that the shape can be dealt out to."""
    def fits(tp):
        share = -(-shape["vocab"] // tp)
        return shape["kv_heads"] % tp == 0 and shape["ffn"] % tp == 0 and share * (tp - 1) < shape["vocab"]

    return [tp for tp in (1, 2, 3, 4, 8) if fits(tp)]


def largest_difference(got, want):
    scale = max(want.std(), 1e-6)
    return np.abs(got - want).max() / scale


@pytest.mark.parametrize("name,dtype,extra", CASES, ids=[f"{n}-{d}{'-' + '-'.join(e) if e else ''}" for n, d, e in CASES])
def test_engine_agrees_with_the_reference_and_with_itself(name, dtype, extra, tmp_path):
    shape = {**SHAPES[name], **extra}
    vocab = shape["vocab"]
    model_dir = tmp_path / "model"
    reference.make_model(model_dir, dtype=dtype, seed=len(name), **shape)
    model = reference.load(model_dir)
    rng = np.random.default_rng(1)
    prompt = [int(i) for i in rng.integers(0, vocab, 83)]
    others = [[int(i) for i in rng.integers(0, vocab, n)] for n in (1, 150, 31, 2)]
    generate = 6
    for isa in ISAS:
        for tp in ways_to_split(shape):
            first = None
            for how in ARRANGEMENTS:
                options = dict(how)
                sequences = others[:2] + [prompt] + others[2:] if options.pop("company", False) else [prompt]
                result = run(model_dir, vocab, sequences, tmp_path, isa=isa, tp=tp, generate=generate, **options)
                if result is None:
                    break
                at = sequences.index(prompt)
                logits = np.stack([result[1][at, i] for i in range(generate)])
                if first is None:
                    first = (result[0][at], logits)
                    continue
                assert result[0][at] == first[0], f"{isa} tp {tp} {how}: other tokens than {ARRANGEMENTS[0]}"
                assert np.array_equal(logits.view(np.uint32), first[1].view(np.uint32)), f"{isa} tp {tp} {how}: other bits"
            if first is None:
                break
            rounding = isa == "avx512bf16" and dtype == "BF16"
            full = reference.forward(model, prompt + first[0][:-1], bf16_activations=rounding)
            want = full[len(prompt) - 1 :]
            difference = largest_difference(first[1], want)
            assert difference < (BF16_TOLERANCE if rounding else FLOAT_TOLERANCE), f"{isa} tp {tp}: off by {difference:.2g}"


def test_reference_reproduces_the_real_model(tmp_path):
    """A real checkpoint, and the text its README gives: the engine token for token, and the reference."""
    shared = os.environ.get("BATON_SHARED")
    root = pathlib.Path(__file__).resolve().parents[2]
    directory = (pathlib.Path(shared) if shared else root.parent / "shared") / "models" / "stories260K"
    if not directory.exists():
        pytest.skip(f"{directory} is not there (set BATON_SHARED)")
    prompt = [1, 403, 407, 261, 378]
    want = [432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292]
    model = reference.load(directory)
    full = reference.forward(model, prompt + want[:-1])[len(prompt) - 1 :]
    assert [int(i) for i in full.argmax(axis=1)] == want
    for isa in ISAS:
        for tp in (1, 2, 4):
            result = run(directory, 512, [prompt], tmp_path, isa=isa, tp=tp, generate=len(want))
            if result is None:
                break
            assert result[0][0] == want, f"{isa} tp {tp}"
            got = np.stack([result[1][0, i] for i in range(len(want))])
            assert largest_difference(got, full) < FLOAT_TOLERANCE
