"""The control plane at its edges: odd places and paths, settings that cannot work, ends at bad moments."""
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import BATON, DEMO, PATIENCE, Server, client, serve


def sim(*args, model=DEMO):
    return (model, "--backend", "sim", "--served-name", "sim", *args)


def test_a_long_path_with_spaces_reaches_the_workers_whole(tmp_path):
    place = tmp_path
    while len(str(place)) < 400:
        place = place / ("a directory " * 8).strip()
    place.mkdir(parents=True)
    shutil.copytree(DEMO, place / "my model")
    with serve(*sim(model=place / "my model")) as s:
        assert client(s).completions.create(model="sim", prompt=[300], max_tokens=2).usage.completion_tokens == 2


def test_the_context_in_the_model_list_is_the_one_requests_are_held_to(tmp_path):
    (tmp_path / "profile.yaml").write_text("max_context: 131072\n")  # of the workers; the model itself has less
    with serve(*sim(), "--sim-profile", tmp_path / "profile.yaml") as s:
        said = json.loads(s.get("/v1/models")[1])["data"][0]["max_model_len"]
        ask = {"model": "sim", "prompt": [300] * (said - 1)}
        assert s.post("/v1/completions", {**ask, "max_tokens": 1})[0] == 200
        status, body = s.post("/v1/completions", {**ask, "max_tokens": 2})
        error = json.loads(body)["error"]
        assert status == 400 and error["code"] == "context_length_exceeded"
        assert f"maximum context length is {said} tokens" in error["message"]


def test_a_timeout_that_no_worker_can_meet_is_refused():
    out = subprocess.run([BATON, "serve", DEMO, "--backend", "sim", "--port", "0", "--heartbeat-ms", "5000"],
                         capture_output=True, text=True, timeout=20)
    assert out.returncode == 2 and "heartbeat_ms" in out.stderr and "peer_timeout_ms" in out.stderr


def test_no_secret_is_ever_in_a_file_of_ours(tmp_path):
    secret = tmp_path / "cluster-secret"
    secret.write_text("a secret that both hosts share\n")
    secret.chmod(0o600)
    run = pathlib.Path("/tmp") / f"baton-xdg-{os.getpid()}"
    run.mkdir(mode=0o700)
    try:
        with serve(*sim("--listen-workers", "127.0.0.1:0", "--secret-file", secret),
                   env={"XDG_RUNTIME_DIR": str(run)}) as s:
            secret.write_text("another one, for the next start\n")  # our own workers still come back
            kept = list(run.glob("baton-*/*"))
            assert [p.name for p in kept] == ["control"] and kept[0].is_socket()
            s.kill_worker("decode")
            time.sleep(0.3)
            s.wait_ready(20)
        assert list(run.iterdir()) == []
    finally:
        shutil.rmtree(run)


@pytest.mark.parametrize("place", ["/no/such/directory", "/proc/self", "relative", "/tmp/" + "x" * 200])
def test_an_unusable_runtime_directory_is_no_obstacle(place):
    with serve(*sim(), env={"XDG_RUNTIME_DIR": place}) as s:
        assert s.get("/health")[0] == 200


def test_a_socket_path_that_holds_a_file_is_left_alone(tmp_path):
    precious = pathlib.Path("/tmp") / f"baton-precious-{os.getpid()}"
    secret = tmp_path / "secret"
    secret.write_text("a secret that both hosts share\n")
    secret.chmod(0o600)
    precious.write_text("do not delete")
    try:
        out = subprocess.run([BATON, "serve", DEMO, "--backend", "sim", "--port", "0", "--listen-workers",
                              f"unix:{precious}", "--secret-file", secret], capture_output=True, text=True, timeout=30)
        assert out.returncode == 1 and str(precious) in out.stderr
        assert precious.read_text() == "do not delete"
    finally:
        precious.unlink()


def long_context(tmp_path, tokens):
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = tokens
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_a_prompt_too_long_for_any_message_is_refused_and_no_worker_falls(tmp_path):
    model = long_context(tmp_path, 400000)
    with serve(*sim("--kv-mib", 512, "--block-tokens", 64, "--request-timeout-s", 30, model=model)) as s:
        pids = s.workers("prefill") + s.workers("decode")
        for n in (200001, 300000):
            status, body = s.post("/v1/completions", {"model": "sim", "prompt": [300] * n, "max_tokens": 2})
            assert status == 400 and json.loads(body)["error"]["code"] == "context_length_exceeded"
        status, body = s.post("/v1/completions", {"model": "sim", "prompt": [300] * 199000, "max_tokens": 2})
        assert status == 200, body
        assert s.workers("prefill") + s.workers("decode") == pids
        s.settle(20)


def test_a_missing_template_is_told_without_naming_our_files(tmp_path):
    model = tmp_path / "secret-place"
    shutil.copytree(DEMO, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    with serve(*sim(model=model)) as s:
        status, body = s.post("/v1/chat/completions", {"model": "sim", "messages": [{"role": "user", "content": "x"}]})
        assert status == 400 and json.loads(body)["error"]["code"] == "no_chat_template"
        assert "secret-place" not in body.decode()


LONG = "It was a bright cold day in April, and the clocks were striking thirteen. "


def test_calls_that_are_tokenized_at_once_have_ids_of_their_own(tmp_path):
    with serve(*sim("--kv-mib", 512, model=long_context(tmp_path, 100000))) as s:
        def ask(text):
            return json.loads(s.post("/v1/completions", {"model": "sim", "prompt": text, "max_tokens": 1})[1])["id"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(ask, [LONG * 400] * 6 + ["short"] * 6))
        assert len(set(ids)) == 12


def begin_long(s, path="/v1/completions", size=6 << 20):
    body = json.dumps({"model": "sim", "prompt": (LONG * (size // len(LONG) + 1))[:size], "max_tokens": 1}).encode()
    sock = socket.create_connection(("127.0.0.1", s.port), timeout=60)
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


@pytest.mark.sanitize
def test_a_client_may_leave_while_its_text_is_tokenized():
    with serve(*sim()) as s:
        for wait in (0, 0.05, 0.1, 0.2):
            sock = begin_long(s)
            time.sleep(wait)
            sock.close()
        assert client(s).completions.create(model="sim", prompt=[300], max_tokens=2).usage.completion_tokens == 2
        s.settle(20)


@pytest.mark.sanitize
def test_the_server_may_stop_while_a_text_is_tokenized():
    s = Server(*sim("--drain-timeout-s", 0))
    try:
        s.wait_ready()
        socks = [begin_long(s) for _ in range(4)]
        time.sleep(0.05)
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(20 * PATIENCE) == 0
        for sock in socks:
            sock.close()
    finally:
        s.close()


def test_sigterm_lets_a_slow_client_read_its_answer_to_the_end():
    with serve(*sim("--max-context", 2048)) as s:
        body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1500,
                           "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "n": 8}).encode()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", s.port))
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        got = sock.recv(200)  # the answer is there, and more of it than the kernel takes
        s.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        while piece := sock.recv(1 << 20):
            got += piece
        head, _, rest = got.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert length > 8000000 and len(rest) == length
        assert s.process.wait(20 * PATIENCE) == 0
