#!/usr/bin/env python3
"""How much of the hand-over a client waits for: a prefill and a decode worker on one card, prompts of one length.

    handover.py PROGRAM [--config FILE] [--prompt 4096] [--requests 8]

Serves random weights of the shape of FILE (default: Llama 3.1 8B) with the CUDA backend, sends one prompt after another, and
takes from the log, per request, what was left of the hand-over after the last layer (exposed_ms) and the time to the first
token.  Prints one JSON object in the form of every measuring command: gpu.handover.exposed is the median of their ratio, to be
at most 0.03.  Exit status: 0 measured, 1 failed, 77 no device.
"""
import argparse
import json
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
         "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
         "rope_theta": 500000.0, "bos_token_id": 128000, "eos_token_id": 128001}


def post(port, prompt):
    body = {"model": "shape", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as r:
        r.read()


def serve(a, directory, log):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    tiers = directory / "tiers.yaml"
    tiers.write_text("tiers:\n  - {name: patient, ttft_ms: 120000, tbt_ms: 20000, on_miss: wait}\n")
    process = subprocess.Popen(
        [a.program, "serve", directory, "--backend", "cuda", "--random-weights", "1", "--served-name", "shape", "--prefill", "1",
         "--decode", "1", "--local-prefill=false", "--max-context", str(a.prompt + 64), "--max-step-tokens", str(a.prompt), "--max-batch", "8",
         "--config", tiers, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
    return process, port


def wait_ready(process, port, log, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as r:
                if r.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    text = pathlib.Path(log.name).read_text(errors="replace")
    print(text[-3000:], file=sys.stderr)
    no_device = re.search(r"no CUDA (device|driver)", text)
    sys.exit(77 if no_device else 1)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("program")
    p.add_argument("--config", type=pathlib.Path, help="config.json of the shape")
    p.add_argument("--prompt", type=int, default=4096)
    p.add_argument("--requests", type=int, default=8)
    p.add_argument("--seconds", type=float, default=90, help="to wait for the workers")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name, tempfile.NamedTemporaryFile("wb") as log:
        directory = pathlib.Path(name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ROOT / "deploy/demo-model/model" / file, directory)
        (directory / "config.json").write_text(a.config.read_text() if a.config else json.dumps(LLAMA))
        process, port = serve(a, directory, log)
        try:
            wait_ready(process, port, log, a.seconds)
            for i in range(a.requests + 1):  # the first one connects and warms
                post(port, [3 + (i * 7919 + k * 31) % 400 for k in range(a.prompt)])
            time.sleep(0.5)
        except OSError as e:
            print(pathlib.Path(log.name).read_text(errors="replace")[-3000:], file=sys.stderr)
            sys.exit(f"handover.py: a request failed: {e}")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        text = pathlib.Path(log.name).read_text(errors="replace")
    rows = []
    for line in text.splitlines():
        if "request: done" in line and "outcome=ok" in line:
            f = dict(w.split("=", 1) for w in line.split() if "=" in w)
            rows.append((float(f["exposed_ms"]), float(f["ttft_ms"])))
    rows = rows[1:]
    if len(rows) < a.requests:
        print(text[-3000:], file=sys.stderr)
        sys.exit("handover.py: a request failed")
    path = re.search(r"kv link .*?path=(\S+)", text)
    exposed, ttft = (statistics.median(v) for v in zip(*rows))
    share = statistics.median(e / t for e, t in rows)
    print(json.dumps({"command": "gpu handover", "path": path.group(1) if path else None, "results": [
        {"name": "gpu.handover.exposed", "value": share, "unit": "1", "better": "lower"},
        {"name": "gpu.handover.exposed_ms", "value": exposed, "unit": "ms", "better": "lower"},
        {"name": f"gpu.handover.ttft.{a.prompt}", "value": ttft, "unit": "ms", "better": "lower"}]}))


if __name__ == "__main__":
    main()
