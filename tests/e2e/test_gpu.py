"""`baton serve --backend cuda`: a prefill and a decode worker on one card, real processes, the official client.

Every test that takes `gpu` runs twice: `device`, the shipped program on a real card (skips without one, and without the cuda preset), and
`emulated`, the same daemon, backend and kernels over the host's memory (tests/gpu/emu), which proves the arithmetic, the
order of work and the hand-over, and says nothing about a device.
"""
import contextlib
import glob
import json
import os
import signal
import subprocess
import tempfile
import threading

import pytest

from conftest import BATON, BUILD, DEMO, PATIENCE, client, need, serve, wait_for

EMULATED = BUILD / "tests/baton_emu"
GOLDEN = json.loads((DEMO.parent / "golden.json").read_text())["cases"]
# 16-bit activations move a logit of the demo model by less than this; a narrower choice may fall either way.
MARGIN = 0.25
CLEAR = sorted((c for c in GOLDEN if c["min_logit_gap"] >= MARGIN), key=lambda c: len(c["prompt_ids"]))


@pytest.fixture(params=[pytest.param("emulated"), pytest.param("device", marks=pytest.mark.gpu)])
def gpu(request):
    """The program to serve with."""
    if request.param == "emulated":
        need(EMULATED)
        return EMULATED
    if not glob.glob("/dev/nvidia[0-9]*"):  # a container may have been given another card than the first
        pytest.skip("no CUDA device")
    if b"cuda" not in subprocess.run([BATON, "serve", "--help"], capture_output=True).stdout:
        pytest.skip("this build has no CUDA backend (cmake --preset cuda)")
    return BATON


@contextlib.contextmanager
def serve_gpu(program, *args):
    # An emulated device needs seconds for a first token: with the usual tiers the requests would rightly be refused.  And
    # every prompt is to be handed over, whatever the first predictions for a card are.
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as patient:
        patient.write("local_prefill: false\ntiers:\n  - {name: patient, ttft_ms: 120000, tbt_ms: 20000, on_miss: wait}\n")
        patient.flush()
        with serve(DEMO, "--backend", "cuda", "--served-name", "demo", "--prefill", 1, "--decode", 1, "--config", patient.name,
                   *args, program=program, ready=120) as server:
            yield server
            server.settle(60)


def chat(server, case, on_token=None):
    """Token ids of a greedy answer, as the client got them one by one; few where a token takes a tenth of a second."""
    ids = []
    for chunk in client(server).chat.completions.create(
            model="demo", messages=case["messages"], max_tokens=10 if server.program == EMULATED else 48, temperature=0,
            stream=True, extra_body={"return_token_ids": True}):
        ids += (chunk.choices[0].model_dump().get("token_ids") or []) if chunk.choices else []
        if on_token:
            on_token(len(ids))
    return ids


def is_reference(case, ids):
    want = case["continuation_ids"]
    return len(ids) >= min(10, len(want)) and ids == want[:len(ids)]


def test_the_demo_model_says_what_its_reference_says(gpu):
    with serve_gpu(gpu) as s:
        for case in CLEAR[:2] if gpu == EMULATED else CLEAR:
            ids = chat(s, case)
            assert is_reference(case, ids), (case["messages"], ids)


@pytest.mark.parametrize("option, value", [("--prefill-tp", 2), ("--decode-tp", 2), ("--weights", "int8")])
def test_pools_that_are_split_or_rounded_say_the_same(option, value):
    """A worker of two ranks needs two cards, which only the emulation is sure to have."""
    need(EMULATED)
    with serve_gpu(EMULATED, option, value) as s:
        assert is_reference(CLEAR[0], chat(s, CLEAR[0]))


def test_kv_goes_from_device_to_device_and_the_path_is_named(gpu):
    with serve_gpu(gpu) as s:
        prompt = [400 + i % 900 for i in range(200)]
        # A request is counted when it ends.  A card may have said two tokens before both workers have reported the hand-over.
        client(s).completions.create(model="demo", prompt=prompt, max_tokens=2 if gpu == EMULATED else 256, temperature=0,
                                     extra_body={"ignore_eos": True})
        moved = [k for k, v in s.metrics().items() if k.startswith("baton_handover_bytes_total") and v > 0]
        assert moved and all('transport="staged-' in k or 'transport="cuda' in k for k in moved), moved
        assert "path=staged-" in s.log() or "path=cuda" in s.log(), "the log does not name the path"


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_kill_9_costs_a_pause_and_nothing_else(gpu, role):
    # The longest answer, for a card that says a token in less than a millisecond; elsewhere few of its tokens are asked for.
    case = CLEAR[0] if gpu == EMULATED else max(CLEAR, key=lambda c: len(c["continuation_ids"]))
    with serve_gpu(gpu) as s:
        killed = threading.Event()
        worker = s.workers(role)[0]  # known before: a card says 48 tokens in the time that looking takes

        def kill(n):
            if n >= 3 and not killed.is_set():
                killed.set()
                os.kill(worker, signal.SIGKILL)

        ids = chat(s, case, kill)
        assert killed.is_set() and is_reference(case, ids), ids
        assert is_reference(case, chat(s, case))


@pytest.mark.parametrize("role, number", [("prefill", signal.SIGUSR2), ("decode", signal.SIGUSR2), ("decode", signal.SIGUSR1)],
                         ids=["prefill-fails", "decode-fails", "decode-hangs"])
def test_a_broken_device_ends_its_worker_and_nothing_else(role, number):
    """Only the emulated device can be broken on purpose."""
    need(EMULATED)
    case = CLEAR[0]
    with serve_gpu(EMULATED, "--step-timeout-s", 10) as s:
        broken = []

        def strike(n):
            if n >= 3 and not broken:
                broken.append(s.kill_worker(role, number))

        if role == "prefill":  # it has nothing to do for a stream that decodes: break it before the next prompt
            chat(s, case)
            strike(3)
        ids = chat(s, case, strike if role == "decode" else None)
        assert broken and is_reference(case, ids), ids
        wait_for(lambda: any(pid != broken[0] for pid in s.workers(role)))
        assert "engine broken" in s.log()
        assert is_reference(case, chat(s, case))


def test_a_device_that_breaks_while_nothing_decodes_ends_its_worker_too():
    """The next it has to do is to take KV, which fails: no step comes that would tell the worker."""
    need(EMULATED)
    with serve_gpu(EMULATED) as s:
        assert is_reference(CLEAR[0], chat(s, CLEAR[0]))
        s.settle(60)
        broken = s.kill_worker("decode", signal.SIGUSR2)
        assert is_reference(CLEAR[0], chat(s, CLEAR[0]))
        assert s.workers("decode")[0] != broken and "engine broken" in s.log()


def test_two_workers_share_the_card(gpu):
    with serve_gpu(gpu) as s:
        lines = [line for line in s.log().splitlines() if "device arena" in line and "device=0" in line]
        assert len(lines) == 2, "each worker says what it took of the card's memory"


def test_options_of_a_pool_in_host_memory_are_not_lost_without_a_word():
    need(EMULATED)
    with serve_gpu(EMULATED, "--kv-blocks", 4, "--kv-mib", 64) as s:
        assert "--kv-mib is of no use here" in s.log()
        assert "raise --kv-blocks" in s.log() and "raise --kv-mib" not in s.log()


def test_what_does_not_fit_is_refused_with_the_numbers(gpu):
    run = subprocess.run([gpu, "serve", DEMO, "--backend", "cuda", "--gpu-memory", "0.0001", "--port", "0"],
                         capture_output=True, text=True, timeout=60 * PATIENCE)
    assert run.returncode == 1
    assert "MiB" in run.stderr + run.stdout and "--gpu-memory" in run.stderr + run.stdout
