#!/usr/bin/env python3
"""Make the demo model: generate the text, train the tokenizer, train the network, export a Hugging Face directory.

Everything comes from this folder; nothing is downloaded. The text depends only on --seed. Training stops at --steps
or after --minutes, whichever comes first; the learning rate follows the nearer of the two ends.
"""
import argparse
import json
import multiprocessing
import pathlib
import random
import time
from queue import Full

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import END, EOT, START, document
from model import CONFIG, Llama

HERE = pathlib.Path(__file__).resolve().parent
# The pre-tokenizer pattern of Qwen2: every digit is a token of its own, which makes sums learnable.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TOKENS_PER_STEP = 4096
LENGTHS, LENGTH_WEIGHTS = [256, 512, 1024, 2048], [80, 15, 3, 2]
QUESTION_WEIGHT = 0.08  # the model should answer, not imitate the typos of its users
WARMUP = 0.01


def train_tokenizer(seed, documents=30000):
    rng = random.Random(f"tokenizer {seed}")
    texts = ["".join(piece for piece, _ in document(rng)) for _ in range(documents)]
    for mark in (START, END, EOT):
        texts = [t.replace(mark, "\n") for t in texts]
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    special = [AddedToken(t, special=True, normalized=False) for t in (EOT, START, END)]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def encode(tokenizer, rng):
    """One document as token ids and loss weights."""
    ids, weights = [], []
    for text, answer in document(rng):
        piece = tokenizer.encode(text).ids
        ids += piece
        weights += [1.0 if answer else QUESTION_WEIGHT] * len(piece)
    return ids, weights


def batches(tokenizer_json, seed, queue):
    """Producer process: packs documents into rows; a row begins with a document, and its last one may be cut."""
    torch.set_num_threads(1)
    tokenizer, rng = Tokenizer.from_str(tokenizer_json), random.Random(f"corpus {seed}")
    while True:
        length = rng.choices(LENGTHS, LENGTH_WEIGHTS)[0]
        rows = TOKENS_PER_STEP // length
        ids = np.zeros((rows, length + 1), dtype=np.int64)
        weights = np.zeros((rows, length + 1), dtype=np.float32)
        for row in range(rows):
            at = 0
            while at < length + 1:
                doc, doc_weights = encode(tokenizer, rng)
                n = min(len(doc), length + 1 - at)
                ids[row, at:at + n], weights[row, at:at + n] = doc[:n], doc_weights[:n]
                if at > 0:
                    weights[row, at] = QUESTION_WEIGHT
                at += n
        while True:
            try:
                queue.put((ids, weights), timeout=5)
                break
            except Full:
                if not multiprocessing.parent_process().is_alive():
                    return


def optimizers(model):
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)]


def rate(progress, decay_from):
    """Warm up, hold, then fall in a straight line."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    return 1.0 if progress < decay_from else max((1.0 - progress) / (1.0 - decay_from), 0.005)


class Threads:
    """With --threads 0: now and then one and two threads run three steps each, and the faster goes on.

    On a machine shared with others two threads can be far slower than one, as each waits for the other."""

    def __init__(self, wanted):
        self.auto, self.best, self.times, self.at = wanted == 0, wanted or 1, {1: [], 2: []}, 0

    def choose(self):
        phase = self.at % 40
        self.at += 1
        return 1 if phase < 3 else 2 if phase < 6 else self.best

    def before(self):
        if self.auto:
            self.now = self.choose()
            torch.set_num_threads(self.now)
        self.start = time.time()

    def after(self):
        if self.auto and (self.at - 1) % 40 < 6:
            self.times[self.now] = (self.times[self.now] + [time.time() - self.start])[-3:]
            self.best = min((1, 2), key=lambda n: sorted(self.times[n])[len(self.times[n]) // 2] if self.times[n] else 1e9)


def export(model, tokenizer, directory):
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: t.to(torch.bfloat16).contiguous() for name, t in model.to_hf().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    files = {
        "config.json": CONFIG,
        "generation_config.json": {"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9},
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, t in enumerate((EOT, START, END))},
            "additional_special_tokens": [START, END], "bos_token": None, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "eos_token": END,
            "model_max_length": CONFIG["max_position_embeddings"], "pad_token": EOT, "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")


def train(args):
    threads = Threads(args.threads)
    torch.set_num_threads(threads.best)
    torch.manual_seed(args.seed)
    out = pathlib.Path(args.out)
    model = Llama(CONFIG)
    if args.resume:
        saved = torch.load(args.resume, weights_only=False)
        tokenizer = Tokenizer.from_str(saved["tokenizer"])
        model.load_state_dict(saved["model"])
    else:
        tokenizer = train_tokenizer(args.seed)
    opts = optimizers(model)
    if args.resume:
        for opt, state in zip(opts, saved["optimizers"]):
            opt.load_state_dict(state)
    base = [[g["initial_lr"] if "initial_lr" in g else g["lr"] for g in opt.param_groups] for opt in opts]
    for opt, lrs in zip(opts, base):
        for group, lr in zip(opt.param_groups, lrs):
            group["initial_lr"] = lr
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=32)
    producer = context.Process(target=batches, args=(tokenizer.to_str(), args.seed, queue), daemon=True)
    producer.start()
    start = saved_at = time.time()
    mean, step = None, 0
    while True:
        progress = max(step / args.steps, (time.time() - start) / (60 * args.minutes))
        if progress >= 1:
            break
        for opt, lrs in zip(opts, base):
            for group, lr in zip(opt.param_groups, lrs):
                group["lr"] = lr * args.rate * rate(progress, args.decay_from)
        ids, weights = queue.get()
        threads.before()
        ids, weights = torch.from_numpy(ids), torch.from_numpy(weights[:, 1:]).reshape(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.logits(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1), reduction="none")
        loss = (loss * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        threads.after()
        step += 1
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 20 == 0:
            spent = time.time() - start
            print(f"step {step} progress {progress:.3f} loss {mean:.4f} {step * TOKENS_PER_STEP / spent:.0f} tokens/s {spent / 60:.1f} min, {torch.get_num_threads()} threads", flush=True)
        if time.time() - saved_at > 60 * args.save_every:
            saved_at = time.time()
            export(model, tokenizer, out)
            if args.checkpoint:
                torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts], "tokenizer": tokenizer.to_str(), "step": step}, args.checkpoint)
    producer.terminate()
    export(model, tokenizer, out)
    print(f"done after {step} steps, {step * TOKENS_PER_STEP / 1e6:.1f} M tokens, {(time.time() - start) / 60:.1f} minutes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(HERE / "model"), help="directory of the exported model (default: model/ beside this file)")
    parser.add_argument("--minutes", type=float, default=60, help="longest training time (default: 60)")
    parser.add_argument("--steps", type=int, default=7000, help="most training steps of 4,096 tokens (default: 7000)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads, 0 to try one and two in turn; one more process makes the text (default: 1)")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rate (default: 1)")
    parser.add_argument("--decay-from", type=float, default=0.35, help="share of the run after which the rate falls (default: 0.35)")
    parser.add_argument("--seed", type=int, default=1, help="seed of text and weights (default: 1)")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between exports while training (default: 5)")
    parser.add_argument("--checkpoint", help="file for full training state, written with each export")
    parser.add_argument("--resume", help="start from the weights, tokenizer and optimizer state of such a file")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
