"""An independent forward pass in float64 NumPy over a Hugging Face directory, and a maker of
random-weight models of any shape.

It shares no code and no order of operations with the engine: full attention matrices, one layer
after the other, no cache.  `forward(model, ids)` gives the logits after every token.
"""
import json
import pathlib

import numpy as np

# ---------------------------------------------------------------------------------------------
# safetensors

_NP = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def to_bf16(a):
    """float -> bf16 bits, to nearest, ties to even."""
    bits = np.ascontiguousarray(a, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    n = int(raw[:8].view("<u8")[0])
    header = json.loads(bytes(raw[8 : 8 + n]))
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        data = np.frombuffer(bytes(raw[8 + n + begin : 8 + n + end]), dtype=_NP[t["dtype"]])
        if t["dtype"] == "BF16":
            data = from_bf16(data)
        out[name] = data.astype(np.float64).reshape(t["shape"])
    return out


def write_safetensors(path, tensors, dtype, pad=True):
    """tensors: {name: array}, written in dtype ('F32', 'F16', 'BF16') or, for a tuple value
    (array, dtype), in its own."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in tensors.items():
        array, kind = value if isinstance(value, tuple) else (value, dtype)
        if array.dtype == np.uint16 or kind != "BF16":
            blob = array if kind == "BF16" else array.astype(_NP[kind])
        else:
            blob = to_bf16(array)
        blob = np.ascontiguousarray(blob)
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + blob.nbytes]}
        blobs.append(blob)
        at += blob.nbytes
    text = json.dumps(header).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        for blob in blobs:
            f.write(blob.data)


# ---------------------------------------------------------------------------------------------
# forward


def load(directory):
    d = pathlib.Path(directory)
    config = json.loads((d / "config.json").read_text())
    index = d / "model.safetensors.index.json"
    weights = {}
    if (d / "model.safetensors").exists():
        weights = read_safetensors(d / "model.safetensors")
    else:
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            weights.update(read_safetensors(d / shard))
    return config, weights


def inverse_frequencies(config, head_dim):
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    freq = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return freq / rope["factor"]
    if kind == "llama3":
        old = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = old * freq / (2 * np.pi)  # rotations over the original context
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - smooth) * freq / rope["factor"] + smooth * freq
    assert kind == "default", kind
    return freq


def _norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def _rotate(x, angles):
    """x: [tokens, heads, head_dim]; the two halves of a head are the two axes of the plane."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def forward(model, ids, bf16_activations=False):
    """With bf16_activations the input of every matrix is rounded to bf16, as an engine does whose
    products take bf16 on both sides."""
    config, w = model
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    dim = config.get("head_dim") or config["hidden_size"] // heads
    eps = config.get("rms_norm_eps", 1e-6)
    n = len(ids)
    angles = np.arange(n)[:, None] * inverse_frequencies(config, dim)[None, :]
    hidden_future = np.triu(np.full((n, n), -np.inf), 1)

    def rounded(x):
        return from_bf16(to_bf16(x)).astype(np.float64) if bf16_activations else x

    def linear(x, name):
        y = rounded(x) @ w[name + ".weight"].T
        bias = w.get(name + ".bias")
        return y if bias is None else y + bias

    x = w["model.embed_tokens.weight"][np.asarray(ids)]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = _norm(x, w[p + "input_layernorm.weight"], eps)
        q = _rotate(linear(h, p + "self_attn.q_proj").reshape(n, heads, dim), angles)
        k = _rotate(linear(h, p + "self_attn.k_proj").reshape(n, kv_heads, dim), angles)
        v = linear(h, p + "self_attn.v_proj").reshape(n, kv_heads, dim)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim) + hidden_future
        p_att = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p_att /= p_att.sum(axis=-1, keepdims=True)
        att = np.einsum("hqk,khd->qhd", p_att, v).reshape(n, heads * dim)
        x = x + linear(att, p + "self_attn.o_proj")
        h = _norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    x = _norm(x, w["model.norm.weight"], eps)
    tied = config.get("tie_word_embeddings", False)
    return rounded(x) @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


# ---------------------------------------------------------------------------------------------
# random models


class _Noise:
    """Normal numbers; for large models slices of one pool, which is all a speed test needs."""

    def __init__(self, seed, pool=None):
        self.rng = np.random.default_rng(seed)
        self.pool = self.rng.standard_normal(pool, dtype=np.float32) if pool else None

    def __call__(self, *shape, scale=1.0):
        n = int(np.prod(shape))
        if self.pool is None:
            return (self.rng.standard_normal(n) * scale).astype(np.float32).reshape(shape)
        start = int(self.rng.integers(len(self.pool)))
        out = np.resize(np.roll(self.pool, start), n) if n > len(self.pool) else np.take(
            self.pool, np.arange(start, start + n), mode="wrap")
        return (out * np.float32(scale)).reshape(shape)


def make_model(directory, *, hidden, layers, heads, kv_heads, ffn, vocab, head_dim=None, dtype="F32",
               tied=False, rope=None, arch="LlamaForCausalLM", shards=1, positions=512, theta=10000.0,
               attention_bias=False, mlp_bias=False, norm_dtype=None, seed=0, pool=None, pad=True):
    d = pathlib.Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    dim = head_dim or hidden // heads
    noise = _Noise(seed, pool)
    config = {
        "architectures": [arch], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn,
        "vocab_size": vocab, "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": vocab - 1,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
        "rope_theta": theta,
    }
    if head_dim:
        config["head_dim"] = head_dim
    if rope:
        config.update(rope)
    if arch == "LlamaForCausalLM":
        config.update(attention_bias=attention_bias, mlp_bias=mlp_bias)
    qkv_bias = attention_bias or arch == "Qwen2ForCausalLM"
    t = {"model.embed_tokens.weight": noise(vocab, hidden)}

    def linear(name, n, k, bias):
        t[name + ".weight"] = noise(n, k, scale=k ** -0.5)
        if bias:
            t[name + ".bias"] = noise(n, scale=0.5)

    def norm(name):
        array = 1 + noise(hidden, scale=0.1)
        t[name] = (array, norm_dtype) if norm_dtype else array

    for i in range(layers):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm.weight")
        linear(p + "self_attn.q_proj", heads * dim, hidden, qkv_bias)
        linear(p + "self_attn.k_proj", kv_heads * dim, hidden, qkv_bias)
        linear(p + "self_attn.v_proj", kv_heads * dim, hidden, qkv_bias)
        linear(p + "self_attn.o_proj", hidden, heads * dim, attention_bias)
        norm(p + "post_attention_layernorm.weight")
        linear(p + "mlp.gate_proj", ffn, hidden, mlp_bias)
        linear(p + "mlp.up_proj", ffn, hidden, mlp_bias)
        linear(p + "mlp.down_proj", hidden, ffn, mlp_bias)
    norm("model.norm.weight")
    if not tied:
        linear("lm_head", vocab, hidden, False)
    (d / "config.json").write_text(json.dumps(config, indent=1))
    if shards == 1:
        write_safetensors(d / "model.safetensors", t, dtype, pad)
        return
    names, weight_map = list(t), {}
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: t[n] for n in names[s::shards]}
        weight_map.update({n: file for n in part})
        write_safetensors(d / file, part, dtype, pad)
    (d / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
