#!/usr/bin/env python3
"""The peer of `baton perf gpu`: the same model shape in PyTorch on the same card, as plain as its users write it.

Random bf16 weights of a Llama shape, RMSNorm, rotary positions, scaled_dot_product_attention with grouped queries
over a static KV cache, SwiGLU; q/k/v and gate/up fused as one product each, which favours the peer.  A decode step is
one CUDA graph where capture succeeds, else eager, and the result says which.  Prints one JSON object in the form of
every measuring command of Baton (names torch.*), nothing else on standard output.

    torch_llama.py [--layers 32 --hidden 4096 --heads 32 --kv-heads 8 --ffn 14336 --vocab 128256]
                   [--prefill 2048,8192] [--decode 1:2048,64:2048] [--seconds 2] [--out FILE]
"""
import argparse
import json
import statistics
import sys
import time


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("layers", 32), ("hidden", 4096), ("heads", 32), ("kv-heads", 8), ("ffn", 14336), ("vocab", 128256)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--prefill", default="2048,8192", help="prompt lengths")
    p.add_argument("--decode", default="1:2048,64:2048", help="streams:context pairs")
    p.add_argument("--seconds", type=float, default=2.0, help="to spend on each figure at most")
    p.add_argument("--device", default="cuda")
    p.add_argument("--out", help="also write the object here")
    return p.parse_args()


def main():
    a = parse()
    import torch
    import torch.nn.functional as F

    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch_llama.py: PyTorch sees no CUDA device")
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    dev, dtype = torch.device(a.device), torch.bfloat16
    head_dim = a.hidden // a.heads
    qkv = (a.heads + 2 * a.kv_heads) * head_dim

    def weight(n, k):
        return torch.randn(n, k, device=dev, dtype=dtype) * k ** -0.5

    layers = [{"n1": torch.ones(a.hidden, device=dev, dtype=dtype), "n2": torch.ones(a.hidden, device=dev, dtype=dtype),
               "qkv": weight(qkv, a.hidden), "o": weight(a.hidden, a.heads * head_dim),
               "gate_up": weight(2 * a.ffn, a.hidden), "down": weight(a.hidden, a.ffn)} for _ in range(a.layers)]
    embedding, head = weight(a.vocab, a.hidden), weight(a.vocab, a.hidden)
    norm = torch.ones(a.hidden, device=dev, dtype=dtype)
    freq = 500000.0 ** (-torch.arange(0, head_dim, 2, device=dev, dtype=torch.float64) / head_dim)

    def rope_table(first, n):
        angle = torch.arange(first, first + n, device=dev, dtype=torch.float64)[:, None] * freq
        return (torch.cat((angle.cos(), angle.cos()), -1).to(dtype), torch.cat((angle.sin(), angle.sin()), -1).to(dtype))

    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def forward(tokens, cache, past, cos, sin):
        """tokens [batch][new]; the KV of `past` positions is in the cache; logits of the last position."""
        batch, new = tokens.shape
        x = F.embedding(tokens, embedding)
        for w, (ck, cv) in zip(layers, cache):
            h = F.linear(F.rms_norm(x, (a.hidden,), w["n1"], 1e-5), w["qkv"])
            q, k, v = h.split((a.heads * head_dim, a.kv_heads * head_dim, a.kv_heads * head_dim), -1)
            q = rotate(q.view(batch, new, a.heads, head_dim).transpose(1, 2), cos, sin)
            k = rotate(k.view(batch, new, a.kv_heads, head_dim).transpose(1, 2), cos, sin)
            ck[:, :, past:past + new] = k
            cv[:, :, past:past + new] = v.view(batch, new, a.kv_heads, head_dim).transpose(1, 2)
            y = F.scaled_dot_product_attention(q, ck[:, :, :past + new], cv[:, :, :past + new], is_causal=new > 1, enable_gqa=True)
            x = x + F.linear(y.transpose(1, 2).reshape(batch, new, -1), w["o"])
            gate, up = F.linear(F.rms_norm(x, (a.hidden,), w["n2"], 1e-5), w["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.linear(F.rms_norm(x[:, -1], (a.hidden,), norm, 1e-5), head)

    def new_cache(batch, length):
        shape = (batch, a.kv_heads, length, head_dim)
        return [(torch.randn(shape, device=dev, dtype=dtype), torch.randn(shape, device=dev, dtype=dtype)) for _ in layers]

    def sync():
        if a.device == "cuda":
            torch.cuda.synchronize()

    def seconds_of(fn):
        """Median time of one call, warm; at most a.seconds of calls."""
        for _ in range(2):
            fn()
        sync()
        times, begin = [], time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - begin < a.seconds and len(times) < 200):
            t = time.perf_counter()
            fn()
            sync()
            times.append(time.perf_counter() - t)
        return statistics.median(times)

    results = []

    def report(name, value, unit, note=None):
        results.append({"name": name, "value": value, "unit": unit, "better": "lower" if unit == "ms" else "higher"})
        if note:
            results[-1]["note"] = note

    for n in (int(v) for v in a.prefill.split(",") if v):
        cache = new_cache(1, n)
        tokens = torch.randint(a.vocab, (1, n), device=dev)
        cos, sin = rope_table(0, n)
        t = seconds_of(lambda: forward(tokens, cache, 0, cos, sin))
        report(f"torch.prefill.{n}", n / t, "tokens/s")
        del cache

    for batch, context in (tuple(int(v) for v in pair.split(":")) for pair in a.decode.split(",") if pair):
        cache = new_cache(batch, context + 1)
        tokens = torch.randint(a.vocab, (batch, 1), device=dev)
        cos, sin = rope_table(context, 1)
        chosen = torch.zeros(batch, device=dev, dtype=torch.long)

        def step():
            chosen.copy_(forward(tokens, cache, context, cos, sin).argmax(-1))

        run, how = step, "eager"
        if a.device == "cuda":
            try:
                side = torch.cuda.Stream()
                with torch.cuda.stream(side):
                    for _ in range(3):
                        step()
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    step()
                run, how = graph.replay, "CUDA graph"
            except RuntimeError as e:
                how = "eager: capture failed: " + str(e).splitlines()[0]
        t = seconds_of(run)
        report(f"torch.decode.{batch}.{context}", batch / t, "tokens/s", how)
        del cache, run

    machine = {"gpu": torch.cuda.get_device_name() if a.device == "cuda" else None, "torch": torch.__version__}
    text = json.dumps({"command": "torch_llama", "machine": machine, "results": results})
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")


if __name__ == "__main__":
    main()
