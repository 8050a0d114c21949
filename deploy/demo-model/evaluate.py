#!/usr/bin/env python3
"""Score the exported demo model on fixed questions, and write the golden continuations.

The forward pass here is a second implementation, read straight from the exported files (not from a checkpoint and not
through model.py), with a KV cache, in float32 or float64. It answers greedily.
"""
import argparse
import json
import math
import pathlib
import random

import jinja2
import jinja2.sandbox
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from questions import CHATS, GOLDEN, PLAIN, QUESTIONS

HERE = pathlib.Path(__file__).resolve().parent


class Reference:
    """A Llama forward pass, one position at a time."""

    def __init__(self, directory, dtype=torch.float32):
        directory = pathlib.Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = {k: v.to(dtype) for k, v in load_file(directory / "model.safetensors").items()}
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.stops = json.loads((directory / "generation_config.json").read_text())["eos_token_id"]
        template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
        sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self.template = sandbox.from_string(template)
        self.dtype = dtype

    def render(self, messages):
        return self.tokenizer.encode(self.template.render(messages=messages, add_generation_prompt=True)).ids

    def _norm(self, x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[name]

    def _rotate(self, x, positions):
        dim = self.config["head_dim"]
        inverse = self.config["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = positions.double()[:, None] * inverse[None]
        cos, sin = angle.cos().to(self.dtype)[:, None], angle.sin().to(self.dtype)[:, None]
        a, b = x[..., :dim // 2], x[..., dim // 2:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def step(self, ids, cache):
        """Logits after the last of ids; cache is a list of [keys, values] per layer and grows."""
        c, w = self.config, self.weights
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        past = cache[0][0].shape[0] if cache else 0
        n = len(ids)
        positions = torch.arange(past, past + n)
        blocked = torch.arange(past + n)[None, :] > positions[:, None]
        x = w["model.embed_tokens.weight"][torch.tensor(ids)]
        for layer in range(c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            h = self._norm(x, p + "input_layernorm.weight")
            q = self._rotate((h @ w[p + "self_attn.q_proj.weight"].T).view(n, heads, dim), positions)
            k = self._rotate((h @ w[p + "self_attn.k_proj.weight"].T).view(n, kv_heads, dim), positions)
            v = (h @ w[p + "self_attn.v_proj.weight"].T).view(n, kv_heads, dim)
            if layer == len(cache):
                cache.append([k, v])
            else:
                cache[layer] = [torch.cat([cache[layer][0], k]), torch.cat([cache[layer][1], v])]
            keys, values = (t.repeat_interleave(heads // kv_heads, dim=1) for t in cache[layer])
            scores = torch.einsum("nhd,mhd->hnm", q, keys) / math.sqrt(dim)
            share = scores.masked_fill(blocked, float("-inf")).softmax(-1)
            mixed = torch.einsum("hnm,mhd->nhd", share, values).reshape(n, heads * dim)
            x = x + mixed @ w[p + "self_attn.o_proj.weight"].T
            h = self._norm(x, p + "post_attention_layernorm.weight")
            gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
            x = x + (torch.nn.functional.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
        return self._norm(x[-1], "model.norm.weight") @ w["model.embed_tokens.weight"].T

    def generate(self, prompt, limit, temperature=0.0, rng=None):
        """New ids, without the stop token; whether it stopped by itself; the smallest lead of the first choice."""
        cache, out, ids, lead = [], [], list(prompt), float("inf")
        while len(out) < limit:
            logits = self.step(ids, cache)
            top = logits.topk(2)
            lead = min(lead, float(top.values[0] - top.values[1]))
            token = int(top.indices[0])
            if temperature > 0:
                token = rng.choices(range(len(logits)), (logits / temperature).softmax(-1).tolist())[0]
            if token in self.stops:
                return out, True, lead
            out.append(token)
            ids = [token]
        return out, False, lead

    def answer(self, messages, limit=300):
        out, stopped, _ = self.generate(self.render(messages), limit)
        return self.tokenizer.decode(out), stopped


def fits(answer, expected):
    """expected: phrases that must all occur; "a|b" means one of them; "!a" means it must not occur."""
    text = answer.lower()
    for phrase in expected:
        if phrase.startswith("!"):
            if phrase[1:].lower() in text:
                return False
        elif not any(p.lower() in text for p in phrase.split("|")):
            return False
    return True


def score_sums(reference, count):
    rng, right, wrong = random.Random("held-out sums"), 0, []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.5:
            a, b = rng.randint(0, 99), rng.randint(0, 99)
            question, result = f"What is {a}+{b}?", a + b
        elif kind < 0.8:
            a = rng.randint(0, 99)
            b = rng.randint(0, a)
            question, result = f"What is {a} - {b}?", a - b
        else:
            a, b = rng.randint(0, 12), rng.randint(0, 12)
            question, result = f"What is {a} times {b}?", a * b
        answer, _ = reference.answer([{"role": "user", "content": question}], 40)
        if answer.rstrip(".").endswith(f"= {result}"):
            right += 1
        else:
            wrong.append(f"{question} -> {answer}")
    return right, wrong


def write_golden(directory, path, limit=48):
    """Greedy continuations in float64, kept only where rounding cannot flip a choice."""
    exact, single = Reference(directory, torch.float64), Reference(directory)
    rows = []
    for messages in GOLDEN:
        prompt = exact.render(messages)
        out, stopped, lead = exact.generate(prompt, limit)
        if single.generate(prompt, limit)[0] != out or lead <= 0.05:
            print(f"left out, lead {lead:.4f}: {messages[-1]['content']}")
            continue
        rows.append({"messages": messages, "prompt_ids": prompt, "continuation_ids": out, "text": exact.tokenizer.decode(out),
                     "finish_reason": "stop" if stopped else "length", "min_logit_gap": round(lead, 4)})
    rows = rows[:8]
    content = {"comment": f"Greedy, at most {limit} tokens, float64 reference of evaluate.py on model/; a stop token ends a continuation and is not listed.",
               "min_logit_gap": min(r["min_logit_gap"] for r in rows), "cases": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{path.name}: {len(rows)} cases, smallest lead {content['min_logit_gap']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "model"), help="model directory (default: model/ beside this file)")
    parser.add_argument("--sums", type=int, default=200, help="number of random sums to check (default: 200)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print every answer, not only the wrong ones")
    parser.add_argument("--golden", action="store_true", help="only write golden.json beside this file")
    parser.add_argument("--ask", nargs="+", metavar="TEXT", help="only answer these questions")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.golden:
        write_golden(args.model, HERE / "golden.json")
        return
    reference = Reference(args.model)
    if args.ask:
        for text in args.ask:
            print(f"> {text}\n{reference.answer([{'role': 'user', 'content': text}])[0]}\n")
        return
    chats = [([{"role": "user", "content": q}], e) for q, e in QUESTIONS] + CHATS
    good = ended = 0
    for messages, expected in chats:
        answer, stopped = reference.answer(messages)
        ok = fits(answer, expected)
        good, ended = good + ok, ended + stopped
        if args.verbose or not ok or not stopped:
            print(f"{'ok  ' if ok else 'MISS'} {'' if stopped else '(no end) '}{messages[-1]['content']}\n       {answer!r}")
    for prompt, expected in PLAIN:
        out, stopped, _ = reference.generate(reference.tokenizer.encode(prompt).ids, 400)
        text = reference.tokenizer.decode(out)
        ok = fits(text, expected)
        good, ended = good + ok, ended + stopped
        if args.verbose or not ok or not stopped:
            print(f"{'ok  ' if ok else 'MISS'} {'' if stopped else '(no end) '}[plain] {prompt}\n       {text!r}")
    total = len(chats) + len(PLAIN)
    right, wrong = score_sums(reference, args.sums)
    print("\n".join(wrong[:12]))
    print(f"questions: {good} of {total} fit; {ended} of {total} ended by themselves; sums: {right} of {args.sums} right")


if __name__ == "__main__":
    main()
