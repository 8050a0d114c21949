#!/usr/bin/env python3
"""Make tests/fixtures/text/tok_*.json: small tokenizers of every supported kind, with the ids that the
`tokenizers` library (the reference implementation of tokenizer.json) gives for many odd texts.

Needs `pip install tokenizers`; the tests themselves need only the files.
Run: gen_text_tokenizers.py OUT_DIR
"""
import json
import pathlib
import random
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
MARK = "\u2581"

WORDS = ("the quick brown fox jumps over the lazy dog there isn't anything we'll say they've said "
         "a baton is handed from runner to runner and the race is lost at the hand over "
         "serving tokens quickly is a matter of memory bandwidth more than of arithmetic "
         "hello world Hello World HELLO don't can't it's 1 12 123 1234 2026 3.14 x = y + 1; "
         "naïve café Führer straße Ελλάδα Москва привет мир 你好 世界 日本語 こんにちは 안녕하세요 "
         "مرحبا שלום हिन्दी ไทย 🦙 👍🏽 ½ ² ٣ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢").split(" ")
ODD = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", "\r\n", " \n ", "a", " a", "a ", "  a  b  ",
    "Hello, world!", " Hello, world!", "it's IT'S It'S 'sound 'ſ 'll 'LL 'lL 'l ''s 're've", "we'll've",
    "'", "''", "' s", "'S", "don't've", "1", "12", "1234567", "1 2 3", "3.14159", "x1y22z333", "٣٤٥٦", "½¾²³",
    "a\n\nb", "a \n b", "a\n \n b", "a   \n\n   b", "  \r\n\r\n  x", "x!!\n\ny", "!!\r\n", " !!\n", "\n!!",
    "tab\tsep\tend", "\u00a0nbsp\u00a0", "\u3000ideographic\u3000", "\u2003em\u2028line\u2029par", "\u180emvs", "a\u180eb",
    "\u200bzero\u200dwidth", "\ufeffbom", "e\u0301 vs é", "A\u030a Å \u212b", "\u1100\u1161\u11a8 각", "q\u0307\u0323 q\u0323\u0307",
    "\u0344 \u0958 \ufb1d \u2126", "🦙.cpp 👨‍👩‍👧‍👦 👍🏽 🇩🇪", "日本語のテキスト、句読点。", "한국어 텍스트", "ไทย ภาษา", "हिन्दी में",
    "нещо на Български", "នអាចខលចេញ", "a" * 40, "_" * 70, " " * 33 + "x", "ab" * 50, "あ" * 30, "-" * 65,
    "<s>", "</s>", "<unk>", "<|begin|>", "<|end|>", "<|begin|>x<|end|>", "a<|end|>b", " <|end|> ", "<|end|", "<|en<|end|>",
    "<tool>", "x<tool>y", "<tool_long>", "<tool_lon", "<0x41>", "<0x0A>", MARK, MARK + MARK, "a" + MARK + "b", " " + MARK + " ",
    "\x00", "a\x00b", "\x01\x7f", "\U0010ffff", "\u0378", "Ġ", "ĠThe Ċ", "mask [MASK] x[MASK]y  [MASK]  ", "cat cats cat's concat cat",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n", "https://example.org/a?b=c&d=%20#e", '{"a": [1, 2.5, null]}',
]


def corpus():
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=12)) + rng.choice([".", "!", "\n", "\n\n", " "]) for _ in range(3000)]


def texts(n_random):
    rng = random.Random(2)
    alphabet = list("aabcdehlnorst  ''\n\r\t.,!-_0123ABst") + list("éßſ½٣日本あ한नि🦙\u00a0\u3000\u2028\u0301\u0323\u200d\u1161\u1100") + [
        "<|end|>", "<tool>", "'s", "'LL", " the", MARK, "[MASK]", "cat", "<s>"]
    out = list(ODD)
    out += ["".join(rng.choices(alphabet, k=rng.randint(1, 30))) for _ in range(n_random)]
    out += [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(20)]
    return out


def trained(pre, vocab_size, marks=False):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    alphabet = [] if marks else sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet,
                                                          show_progress=False))
    return json.loads(tok.to_str())["model"]


def all_splits(model):
    """The merges that a conversion from a ranked vocabulary lists: every split of every token."""
    vocab = model["vocab"]
    merges = []
    for token, rank in sorted(vocab.items(), key=lambda item: item[1]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
        merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    return merges


def added(first, specials, plain=(), **flags):
    out = []
    for name in list(specials) + list(plain):
        out.append({"id": first + len(out), "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": False, "special": name in specials})
        out[-1].update(flags.get("of", {}).get(name, {}))
    return out


def document(model, pre, decoder, specials, normalizer=None, post=None, **options):
    model = dict({"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
                 **{k: v for k, v in model.items() if k in ("vocab", "merges")})
    model.update(options)
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def split_byte_level(regex):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}


def bos(name, i):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]}}}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
MARKED = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
LLAMA2_NORM = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}


def kinds():
    split = lambda regex: pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    m = trained(split(LLAMA3), 700)
    n = len(m["vocab"])
    m["merges"] = all_splits(m)
    yield "llama3", document(m, split_byte_level(LLAMA3), BYTES, added(n, ["<|begin|>", "<|end|>"], ["<tool>"]),
                             post={"type": "Sequence", "processors": [BYTES, bos("<|begin|>", n)]}, ignore_merges=True)
    m = trained(split(QWEN2), 600)
    n = len(m["vocab"])
    m["merges"] = [" ".join(p) for p in m["merges"]]
    yield "qwen2", document(m, split_byte_level(QWEN2), BYTES, added(n, ["<|begin|>", "<|end|>"], ["<tool>", "<tool_long>"]),
                            normalizer={"type": "NFC"}, post=BYTES)
    m = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), 600)
    n = len(m["vocab"])
    flags = {"[MASK]": {"lstrip": True, "rstrip": True}, "cat": {"single_word": True}, "<tool>": {"rstrip": True},
             "<|end|>": {"lstrip": True}}
    yield "gpt2_flags", document(m, dict(BYTES, add_prefix_space=True), BYTES,
                                 added(n, ["<|begin|>", "<|end|>", "[MASK]"], ["<tool>", "cat"], of=flags))
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    m = trained(digits, 500)
    yield "digits", document(m, {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, dict(BYTES, add_prefix_space=False)]}, BYTES, added(len(m["vocab"]), ["<|end|>"]))

    m = trained(pre_tokenizers.Metaspace(), 500, marks=True)
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab.update({f"<0x{b:02X}>": 3 + b for b in range(256)})
    for token in sorted(m["vocab"], key=m["vocab"].get):
        if token not in ("日", "🦙", "½"):
            vocab[token] = len(vocab)
    m = {"vocab": vocab, "merges": [list(p) for p in m["merges"]
                                    if p[0] in vocab and p[1] in vocab and p[0] + p[1] in vocab]}
    three = [dict(a, id=vocab[a["content"]]) for a in added(0, ["<unk>", "<s>", "</s>"])]
    yield "llama2", document(dict(m, merges=all_splits(m)), None, MARKED, three, normalizer=LLAMA2_NORM, post=bos("<s>", 1),
                             unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    meta = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False}
    yield "metaspace_first", document(m, meta, MARKED, three, post=bos("<s>", 1), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    yield "metaspace_split", document(m, dict(meta, prepend_scheme="always", split=True), MARKED, three, unk_token="<unk>",
                                      fuse_unk=True, byte_fallback=True)
    yield "unk_fused", document(m, None, None, three, normalizer=LLAMA2_NORM, unk_token="<unk>", fuse_unk=True)
    plain = added(len(vocab), ["<s>"], ["[MASK]", "cat"], of={"[MASK]": {"normalized": True}, "<s>": {"id": 1}})
    plain[1]["id"], plain[2]["id"] = len(vocab), len(vocab) + 1
    yield "unk_single", document(m, None, None, plain,
                                 normalizer={"type": "Replace", "pattern": {"String": " "}, "content": MARK}, unk_token="<unk>")


def main():
    out_dir = pathlib.Path(sys.argv[1])
    for name, doc in kinds():
        tok = Tokenizer.from_str(json.dumps(doc))
        cases = []
        for text in texts(120):
            for parse in (True, False):
                tok.encode_special_tokens = not parse
                ids = tok.encode(text, add_special_tokens=parse).ids
                if parse or ids != cases[-1][2][len(tok.encode("", add_special_tokens=True).ids):]:
                    cases.append([text, int(parse), ids])
        body = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
        head = json.dumps(doc, separators=(",", ":"))
        (out_dir / f"tok_{name}.json").write_text(f'{{"tokenizer": {head},\n"cases": [\n{body}\n]}}\n')


main()
