"""What an operator meets first: help, errors that say what to do, configuration, keys."""
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import time

import openai
import pytest

import conftest
from conftest import BATON, DEMO, ROOT, STORIES, client, need, serve


def run(*args, env=None, timeout=60):
    return subprocess.run([str(BATON), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                          env=dict(os.environ, **(env or {})))


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["prefill", "--help"], ["decode", "--help"],
                                   ["perf", "--help"], ["config", "--help"], ["status", "--help"], ["top", "--help"]])
def test_help_is_complete_and_free(words):
    out = run(*words)
    assert out.returncode == 0 and out.stdout.startswith("Usage: baton") and out.stderr == ""
    assert max(map(len, out.stdout.splitlines())) < 200


def test_serve_help_names_every_option_with_default_and_range():
    text = run("serve", "--help").stdout
    for flag in ("--prefill", "--decode", "--backend", "--kv-mib", "--port", "--config", "--drain-timeout-s"):
        assert flag in text
    assert "[8000; 0 to 65535]" in text


@pytest.mark.parametrize("args, words", [
    (["serve", "--prot", "1"], ["--prot", "did you mean --port"]),
    (["serve", "--port", "70000"], ["port", "0 to 65535"]),
    (["serve", "--backend", "quantum"], ["quantum", "cpu"]),
    (["serve", "--host", "0.0.0.0"], ["0.0.0.0", "API keys", "--allow-open"]),
    (["serve", "--policy", "baton-clairvoyant"], ["command line", "know the future", "baton simulate"]),
    (["serve", "--listen-workers", "127.0.0.1:0"], ["--secret-file"]),
    (["serve", "--listen-workers", "nowhere", "--secret-file", "/x"], ["nowhere", "HOST:PORT"]),
    (["serve", "--gpu-memory", ""], ["command line", "gpu_memory is empty"]),
    (["config", "print", "--port", "x"], ["port", "0 to 65535"]),
    (["config", "frobnicate"], ["config check FILE"]),
    (["decode"], ["--scheduler", "--secret-file"]),
    (["decode", "--scheduler", "nowhere", "--secret-file", "/x"], ["nowhere", "HOST:PORT"]),
    (["prefill", "--threads", "-1"], ["threads", "0 to 1024"]),
    (["status", "--key-file"], ["--key-file"]),
    (["status", "ftp://127.0.0.1:1"], ["http://HOST:PORT"]),
    (["top", "--json"], ["--json"]),
    (["perf", "nonsense"], ["nonsense"]),
    (["simulate"], ["--cluster FILE", "--trace FILE"]),
    (["srve"], ["srve", "serve"]),
])
def test_mistakes_get_an_answer_that_helps(args, words):
    out = run(*args)
    assert out.returncode == 2
    for word in words:
        assert word in out.stderr + out.stdout, out.stderr


def test_a_build_without_cuda_says_how_to_get_it():
    if "cuda" in run("--version").stdout:
        pytest.skip("this build has the CUDA backend")
    out = run("serve", "--backend", "cuda")
    assert out.returncode == 2 and "preset cuda" in out.stderr and "cpu" in out.stderr


@pytest.mark.parametrize("args, words", [
    (["perf", "speed"], ["speed", "--help"]),
    (["perf", "kv", "--threads", "2"], ["--threads", "--help"]),
    (["perf", "engine", "--threads", "many"], ["--threads many", "1 to 1024"]),
    (["perf", "profile", "--seconds", "0"], ["--seconds 0", "0.1 to 3600"]),
    (["perf", "profile", "--max-batch", "1.5"], ["--max-batch 1.5", "whole"]),
    (["perf", "profile", "--out"], ["--out", "value"]),
    (["bench", "http://127.0.0.1:1", "--rate", "many"], ["--rate many"]),
    (["bench", "http://::1:8000", "--rate", "1"], ["brackets", "[::1]"]),
    (["bench", "http://127.0.0.1:1", "--rate", "1,2", "--repeats", "50"], ["--repeats", "96"]),
    (["bench", "http://127.0.0.1:1", "--rate", "1", "--no-stream", "--cancel-rate", "0.5"], ["--no-stream"]),
    (["bench", "http://127.0.0.1:1", "--find-rate", "tier90", "--repeats", "3"], ["--repeats", "--find-rate"]),
    (["simulate", "--cluster", "x", "--trace", "synthetic", "--policy", "magic"], ["magic"]),
    (["simulate", "--kill", "1@5-3"], ["--kill '1@5-3'", "UNTIL after FROM"]),
    (["simulate", "--slow", "1@5x2-5"], ["--slow '1@5x2-5'", "UNTIL after FROM"]),
])
def test_wrong_words_of_measuring_commands_end_with_2(args, words):
    out = run(*args)
    assert out.returncode == 2 and out.stdout == ""
    for word in words:
        assert word in out.stderr, out.stderr


@pytest.mark.parametrize("args, words", [
    (["serve", "/no/such/model"], ["/no/such/model", "no directory"]),
    (["status", "http://no-such-host.invalid:80"], ["no-such-host.invalid", "cannot be found"]),
    (["top", "http://127.0.0.1:1"], ["127.0.0.1:1", "refused"]),
    (["serve", "--config", "/no/such/file"], ["/no/such/file"]),
    (["status", "--key-file", "/no/such/file"], ["key file /no/such/file"]),
    (["config", "check", "/no/such/file"], ["/no/such/file"]),
])
def test_what_could_not_be_done_is_told_from_what_was_asked_wrongly(args, words):
    out = run(*args)
    assert out.returncode == 1
    for word in words:
        assert word in out.stderr, out.stderr


def test_perf_profile_has_a_help_of_its_own():
    text = run("perf", "profile", "--help").stdout
    assert text.startswith("Usage: baton perf profile")
    for option in ("--out", "--name", "--seconds", "--max-step-tokens", "--max-batch", "--threads", "--backend",
                   "--sim-profile", "--json"):
        assert option in text
    assert run("perf", "profile", "--out", "/no/such/folder/x").returncode == 1


def test_a_port_in_use_is_said_in_so_many_words():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        out = run("serve", DEMO, "--backend", "sim", "--port", s.getsockname()[1])
    assert out.returncode == 1 and "in use" in out.stderr


def test_a_broken_model_ends_serve_with_the_reason(tmp_path):
    need(STORIES)
    broken = tmp_path / "model"
    shutil.copytree(STORIES, broken)
    broken.chmod(0o755)
    weights = broken / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:100000])
    out = run("serve", broken, "--port", "0")
    assert out.returncode == 1
    assert "model.safetensors" in out.stderr + out.stdout


def test_config_check_and_precedence(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text("max_batch: 5\nkv_mib: 11\ntiers:\n  - {name: only, ttft_ms: 100, tbt_ms: 10}\n")
    assert run("config", "check", good).stdout.strip().endswith("ok")
    text = run("config", "print", "--config", good, "--kv-mib", 12, env={"BATON_MAX_BATCH": "6"}).stdout
    assert "max_batch: 6" in text and "kv_mib: 12" in text and "name: only" in text
    bad = tmp_path / "bad.yaml"
    bad.write_text("max_batch: 5\n\nport: -1\n")
    out = run("config", "check", bad)
    assert out.returncode == 1 and f"{bad}, line 3" in out.stderr and "0 to 65535" in out.stderr
    bad.write_text("port: 1\nhost: x\n\n\nmax_bach: 5\nprefill: 1\n")
    out = run("config", "check", bad)
    assert out.returncode == 1 and "max_bach" in out.stderr and "line 5" in out.stderr
    broken = tmp_path / "class.yaml"
    broken.write_text("name: x\nlink_bytes_per_s: 0\n")
    for text, line, words in (
            ("log_level: loud\n", 1, ["loud"]),
            ("backend: cuda9\n", 1, ["cuda9"]),
            ("port: 1\nheartbeat_ms: 5000\n", 2, ["heartbeat_ms", "peer_timeout_ms is 3000", "three times"]),
            ("\ndefault_tier: steel\n", 2, ["steel"]),
            ("port: 1\n\nclass_file: /no/such/class.yaml\n", 3, ["/no/such/class.yaml", "baton perf profile"]),
            (f"class_file: {broken}\n", 1, [f"{broken}: line 2", "link_bytes_per_s", "leave it out"]),
            ("sim_profile: /no/such/profile\n", 1, ["sim_profile", "/no/such/profile", "No such file"]),
            ("port: 1\nmodel: /no/such/model\n", 2, ["/no/such/model"]),
            ("admin_key_file: /no/such/key\n", 1, ["admin_key_file", "/no/such/key"])):
        bad.write_text(text)
        out = run("config", "check", bad)
        assert out.returncode == 1 and out.stdout == "" and f"{bad}, line {line}" in out.stderr, out.stderr
        for word in words:
            assert word in out.stderr, out.stderr


@pytest.mark.parametrize("args", [
    ["--help"], ["version"], ["config", "reference"], ["config", "check", ROOT / "deploy/baton.yaml"], ["perf", "--help"],
    ["bench", "--help"], ["simulate", "--cluster", ROOT / "deploy/clusters/h100-8b.yaml", "--trace", "synthetic",
                          "--duration", "5", "--warmup", "0", "--quiet"],
    ["simulate", "--cluster", ROOT / "deploy/clusters/h100-8b.yaml", "--trace", "synthetic",
     "--duration", "5", "--warmup", "0", "--quiet", "--json"]])
def test_output_that_cannot_be_written_is_a_failure(args):
    with open("/dev/full", "w") as full:
        out = subprocess.run([str(BATON), *map(str, args)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert out.returncode == 1 and "cannot write to standard output" in out.stderr


@pytest.mark.parametrize("option", ["--records", "--report"])
def test_results_that_cannot_be_written_are_a_failure(option):
    out = run("simulate", "--cluster", ROOT / "deploy/clusters/h100-8b.yaml", "--trace", "synthetic", "--duration", "5",
              "--warmup", "0", "--quiet", option, "/dev/full")
    assert out.returncode == 1 and re.search("cannot .*/dev/full: No space left", out.stderr), out.stderr


def test_the_shipped_configuration_is_valid():
    out = run("config", "check", ROOT / "deploy/baton.yaml")
    assert out.returncode == 0, out.stderr
    shipped = run("config", "print", "--config", ROOT / "deploy/baton.yaml").stdout
    assert shipped.split("tiers:")[1] == run("config", "print").stdout.split("tiers:")[1]  # and shows the defaults


def test_keys_are_needed_where_configured_and_bound_the_tier(tmp_path):
    config = tmp_path / "baton.yaml"
    digest = {k: hashlib.sha256(k.encode()).hexdigest() for k in ("gold-key", "bronze-key")}
    config.write_text(
        "keys:\n"
        f"  - {{name: a, tenant: acme, tier: gold, sha256: {digest['gold-key']}}}\n"
        f"  - {{name: b, tenant: bulk, tier: bronze, sha256: {digest['bronze-key']}}}\n")
    with serve(DEMO, "--backend", "sim", "--served-name", "sim", "--config", config) as s:
        ask = dict(model="sim", prompt=[300], max_tokens=1)
        for bad in ("wrong", ""):
            with pytest.raises((openai.AuthenticationError, openai.OpenAIError)):
                client(s, bad or "x").completions.create(**ask)
        assert s.post("/v1/completions", ask)[0] == 401
        assert s.post("/v1/completions", ask, headers={"X-Api-Key": "gold-key"})[0] == 200
        for path in ("/v1/models", "/metrics"):
            assert s.get(path)[0] == 401
        for path in ("/health", "/live", "/ready", "/version"):
            assert s.get(path)[0] == 200
        tier = {}
        for key in digest:
            r = client(s, key).completions.with_raw_response.create(**ask, extra_body={"service_tier": "priority"})
            tier[key] = r.headers["x-baton-tier"]
        assert tier == {"gold-key": "gold", "bronze-key": "bronze"}
        text = s.log()
        assert "gold-key" not in text and digest["gold-key"] not in text


@pytest.mark.parametrize("decode, state, message", [(1, "loading", "Loading model"),
                                                   (0, "no_workers", "Loading model: no decode worker is connected yet")])
def test_what_cannot_serve_yet_says_whether_a_model_loads(tmp_path, decode, state, message):
    profile = tmp_path / "slow.yaml"
    profile.write_text("load_ms: 120000\n")
    s = conftest.Server(DEMO, "--backend", "sim", "--sim-profile", profile, "--decode", decode)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                status, body = s.get("/health")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert status == 503 and json.loads(body)["status"] == state
        status, body = s.post("/v1/completions", {"model": "baton-demo", "prompt": [300], "max_tokens": 1})
        assert status == 503 and json.loads(body)["error"]["message"] == message
        assert s.get("/live")[0] == 200
    finally:
        s.close()


def test_a_worker_with_another_model_ends_and_says_why(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret that both hosts share\n")
    secret.chmod(0o600)
    workers = f"127.0.0.1:{conftest.free_port()}"
    s = conftest.Server(DEMO, "--backend", "sim", "--decode", 0, "--listen-workers", workers, "--secret-file", secret)
    try:
        deadline = time.monotonic() + 20 * conftest.PATIENCE
        while "worker joined" not in s.log():
            assert s.process.poll() is None and time.monotonic() < deadline, s.log()
            time.sleep(0.05)
        out = run("decode", DEMO, "--backend", "sim", "--block-tokens", 32, "--scheduler", workers,
                  "--secret-file", secret)
        assert out.returncode == 1
        assert "no use for this worker" in out.stderr and "differ from those of prefill-0" in out.stderr
        assert json.loads(s.get("/health")[1])["status"] == "no_workers"
    finally:
        s.close()


def test_pages_of_other_origins_are_kept_out_unless_allowed():
    ask = {"model": "sim", "prompt": [300], "max_tokens": 1}
    args = (DEMO, "--backend", "sim", "--served-name", "sim")
    with serve(*args) as s:
        for origin in ("http://evil.example", "http://127.0.0.1.evil.example", "null"):
            status, body = s.post("/v1/completions", ask, headers={"Origin": origin})
            assert status == 403 and json.loads(body)["error"]["code"] == "origin_not_allowed", origin
        for origin in ("http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:80"):
            assert s.post("/v1/completions", ask, headers={"Origin": origin})[0] == 200, origin
    with serve(*args, "--cors") as s:
        assert s.post("/v1/completions", ask, headers={"Origin": "http://any.example"})[0] == 200


def test_without_keys_only_names_of_this_machine_are_answered(tmp_path):
    """A page whose name is made to point here sends its own name as Host, and no Origin when it reads."""
    ask = {"model": "sim", "prompt": [300], "max_tokens": 1}
    args = (DEMO, "--backend", "sim", "--served-name", "sim")

    def read(s, host, path, **headers):
        return s.get(path, headers={"Host": host, **headers})[0]

    with serve(*args) as s:
        for host in ("evil.example", f"evil.example:{s.port}", "127.0.0.1.evil.example", "127.evil.example"):
            for path in ("/v1/models", "/metrics"):
                status, body = s.get(path, headers={"Host": host})
                assert status == 403 and json.loads(body)["error"]["code"] == "host_not_allowed", host
            assert s.post("/v1/completions", ask, headers={"Host": host})[0] == 403, host
            assert read(s, host, "/live") == 200, "probes come under any name"
        for host in ("localhost", f"localhost:{s.port}", "127.0.0.1", f"[::1]:{s.port}"):
            assert read(s, host, "/v1/models") == 200, host
    with serve(*args, "--allow-open") as s:
        assert read(s, "gateway.example", "/v1/models") == 200
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n  - {name: a, sha256: %s, tenant: a, tier: gold}\n" % hashlib.sha256(b"a-key").hexdigest())
    with serve(*args, "--config", keys) as s:
        assert read(s, "gateway.example", "/v1/models", **{"X-Api-Key": "a-key"}) == 200


def test_a_model_load_that_stands_still_is_started_anew(tmp_path):
    profile = tmp_path / "slow.yaml"
    profile.write_text("load_ms: 120000\n")  # reported every 6 s
    s = conftest.Server(DEMO, "--backend", "sim", "--sim-profile", profile, "--load-timeout-s", 1)
    try:
        deadline = time.monotonic() + 30 * conftest.PATIENCE
        while s.log().count("the load of the model stands still") < 3:  # of two workers: one was started anew
            assert s.process.poll() is None and time.monotonic() < deadline, s.log()
            time.sleep(0.1)
        assert s.get("/health")[0] == 503
        assert "worker restarts" in s.log() and "giving up" not in s.log()
    finally:
        s.close()


def test_a_hangup_ends_a_server_in_a_terminal_and_no_other(tmp_path):
    ask = {"model": "sim", "prompt": [300], "max_tokens": 1}
    args = (DEMO, "--backend", "sim", "--served-name", "sim")
    with serve(*args) as s:
        for pid in (*s.workers("prefill"), *s.workers("decode"), s.process.pid):
            os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + 10 * conftest.PATIENCE
        while "serve serve: hangup" not in s.log():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert s.post("/v1/completions", ask)[0] == 200
        assert "worker died" not in s.log()
    parent, terminal = pty.openpty()
    with serve(*args, stdin=terminal) as s:
        for pid in (*s.workers("prefill"), *s.workers("decode"), s.process.pid):
            os.kill(pid, signal.SIGHUP)
        assert s.process.wait(20 * conftest.PATIENCE) == 0
        assert "draining" in s.log()
    os.close(parent)
    os.close(terminal)


def test_the_readme_lists_the_options_as_they_are():
    reference = run("config", "reference").stdout.strip()
    assert reference in (ROOT / "README.md").read_text(), "paste `baton config reference` into the README"
