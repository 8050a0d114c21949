"""What an operator sees of a running server: /admin, records, `baton status`, `baton top`, the scale command."""
import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import BATON, DEMO, PATIENCE, ROOT, client, serve

ADMIN = "the key of the operators"
SIM = (DEMO, "--backend", "sim", "--served-name", "sim")


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "admin-key"
    path.write_text(ADMIN + "\n")
    path.chmod(0o600)
    return path


def admin(s, path, key=ADMIN):
    status, body = s.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})
    return status, json.loads(body)


def tool(*args, env=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("BATON_ADMIN")}
    return subprocess.run([str(BATON), *map(str, args)], capture_output=True, text=True, timeout=30,
                          env={**clean, **(env or {})}, stdin=subprocess.DEVNULL)


def ask(s, n=3, **more):
    return client(s).completions.create(model="sim", prompt=[300, 301], max_tokens=n, extra_body=more)


def records_of(path, n, seconds=10):
    """The lines of the file, once there are n."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= n:
            return [json.loads(line) for line in lines]
        assert time.monotonic() < deadline, f"{len(lines)} records of {n}"
        time.sleep(0.05)


def test_admin_needs_an_admin_key(tmp_path, key_file):
    with serve(*SIM) as s:  # nobody may look where nobody was given the right
        assert admin(s, "/admin/state", None)[0] == 404
        assert admin(s, "/admin/requests", "anything")[0] == 404
    with serve(*SIM, "--admin-key-file", key_file) as s:
        status, body = admin(s, "/admin/state", None)
        assert status == 401 and body["error"]["code"] == "invalid_api_key"
        assert admin(s, "/admin/requests", "wrong")[0] == 401
        assert admin(s, "/admin/state")[0] == 200
        assert ask(s).usage.completion_tokens == 3  # the API stays as open as it was
        assert ADMIN not in s.log()
    config = tmp_path / "baton.yaml"
    config.write_text("keys:\n" + "".join(
        f"  - {{name: {name}, tenant: {name}, admin: {right}, sha256: {hashlib.sha256(name.encode()).hexdigest()}}}\n"
        for name, right in (("user", "false"), ("boss", "true"))))
    with serve(*SIM, "--config", config) as s:
        assert admin(s, "/admin/state", None)[0] == 401
        assert admin(s, "/admin/state", "nobody")[0] == 401
        assert admin(s, "/admin/state", "user")[0] == 404
        assert admin(s, "/admin/state", "boss")[0] == 200


def test_a_long_answer_is_judged_token_by_token_and_a_refusal_counts_as_a_miss(tmp_path, key_file):
    """The last of 60 tokens comes long after the target of the first, and is in time all the same."""
    (tmp_path / "profile.yaml").write_text("decode_base_ms: 20\n")
    config = tmp_path / "baton.yaml"
    config.write_text("tiers:\n  - {name: even, ttft_ms: 600, tbt_ms: 400, on_miss: wait}\n"
                      "tenants:\n  - {name: small, tokens_per_s: 1, burst_s: 1}\n"
                      f"keys:\n  - {{name: small, tenant: small, sha256: {hashlib.sha256(b'small').hexdigest()}}}\n"
                      f"  - {{name: big, tenant: big, sha256: {hashlib.sha256(b'big').hexdigest()}}}\n")
    file = tmp_path / "records.jsonl"
    with serve(*SIM, "--sim-profile", tmp_path / "profile.yaml", "--config", config,
               "--admin-key-file", key_file, "--records", file) as s:
        r = client(s, "big").completions.create(model="sim", prompt=[300], max_tokens=60,
                                                extra_body={"ignore_eos": True})
        assert r.usage.completion_tokens == 60
        record = records_of(file, 1)[0]
        assert record["actual"]["total_ms"] > 600 and record["outcome"] == "kept", record
        status, _ = s.post("/v1/completions", {"model": "sim", "prompt": [300], "max_tokens": 60},
                           headers={"Authorization": "Bearer small"})
        assert status == 429
        even = admin(s, "/admin/state")[1]["tiers"][0]
        assert (even["kept"], even["broken"], sum(even["refused"].values()), even["attainment"]) == (1, 0, 1, 0.5)


def test_an_admin_key_that_others_can_read_is_refused(key_file):
    key_file.chmod(0o644)
    out = tool("serve", *SIM, "--port", 0, "--admin-key-file", key_file)
    assert out.returncode == 1 and "chmod 600" in out.stderr


def test_the_state_names_tiers_and_workers(key_file):
    with serve(*SIM, "--admin-key-file", key_file, "--prefill", 2, "--decode", 1) as s:
        ask(s)
        state = admin(s, "/admin/state")[1]
        assert [t["name"] for t in state["tiers"]] == ["gold", "silver", "bronze"]
        assert state["tiers"][0]["ttft_ms"] == 500 and state["tiers"][0]["tbt_ms"] == 30
        assert sorted(w["role"] for w in state["workers"]) == ["decode", "prefill", "prefill"]
        assert {w["state"] for w in state["workers"]} == {"ready"}
        assert state["planner"]["prefill"] == 2 and state["planner"]["decode"] == 1
        assert sum(t["arrived"] for t in state["tiers"]) == 1


@pytest.mark.sanitize
def test_every_request_leaves_one_record(tmp_path, key_file):
    file = tmp_path / "records.jsonl"
    with serve(*SIM, "--admin-key-file", key_file, "--records", file) as s:
        ids = [ask(s, n, service_tier=tier).id
               for n, tier in ((1, "gold"), (2, "silver"), (40, "bronze"), (5, "flex"))]
        r = client(s).completions.with_raw_response.create(
            model="sim", prompt=[300], max_tokens=9, n=3, extra_headers={"X-Request-Id": "my-own-name"})
        assert r.parse().usage.completion_tokens == 27
        assert s.post("/v1/completions", {"model": "sim", "prompt": [], "max_tokens": 1})[0] == 400  # no request
        lines = records_of(file, 7)
        assert len(lines) == 7
        by_id = {line["id"]: line for line in lines}
        for call, n, tier in zip(ids, (1, 2, 40, 5), ("gold", "silver", "bronze", "bronze")):
            record = by_id[call]
            assert record["tier"] == record["tier_asked"] == tier
            assert record["completion_tokens"] == n and record["max_tokens"] == n and record["prompt_tokens"] == 2
            assert record["outcome"] == "kept", record
            assert record["attempts"] == 1
            assert 0 < record["actual"]["ttft_ms"] <= record["actual"]["total_ms"]
            assert record["ttft_target_ms"] > 0 and record["tbt_target_ms"] > 0
            assert abs(record["arrived"] - time.time()) < 60
        assert by_id[ids[2]]["chosen"]["prefill"] == "prefill-0"
        assert by_id[ids[2]]["chosen"]["decode"] == "decode-0"
        assert sum(line["request_id"] == "my-own-name" for line in lines) == 3
        assert len({line["request"] for line in lines}) == 7
        status, listed = admin(s, "/admin/requests?n=2")
        assert status == 200 and listed["total"] == 7 and len(listed["data"]) == 2
        assert listed["data"][0] == lines[-1]  # the newest first, the same text
        assert len(admin(s, "/admin/requests?tier=bronze")[1]["data"]) == 2
        assert len(admin(s, "/admin/requests?outcome=failed")[1]["data"]) == 0
        for bad in ("n=0", "n=x", "n=1001", "tier=none", "outcome=odd"):
            assert admin(s, f"/admin/requests?{bad}")[0] == 400, bad
        m = s.metrics()
        assert sum(v for k, v in m.items() if k.startswith("baton_promises_total") and "kept" in k) == 7
        assert m["baton_records_total"] == 7 and m["baton_records_lost_total"] == 0
    assert len(file.read_text().splitlines()) == 7
    assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_a_client_that_left_and_a_stop_string_have_the_right_outcome(tmp_path):
    file = tmp_path / "records.jsonl"
    profile = ROOT / "deploy/sim/h100-8b.yaml"  # else the answer would be there before the client leaves
    with serve(*SIM, "--records", file, "--sim-profile", profile) as s:
        stream = client(s).completions.create(model="sim", prompt=[300], max_tokens=2000, stream=True,
                                              extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        text = client(s).completions.create(model="sim", prompt=[300], max_tokens=30, seed=1,
                                            extra_body={"ignore_eos": True}).choices[0].text
        stop = text[len(text) // 2:len(text) // 2 + 4]
        r = client(s).completions.create(model="sim", prompt=[300], max_tokens=1500, seed=1, stop=[stop],
                                         extra_body={"ignore_eos": True})
        assert r.choices[0].finish_reason == "stop" and r.usage.completion_tokens < 30
        outcomes = [line["outcome"] for line in records_of(file, 3)]
        assert outcomes.count("canceled") == 1 and outcomes.count("kept") == 2
        s.settle()  # the worker was told to stop: nothing runs on


def test_a_records_file_that_was_moved_away_is_begun_anew_on_a_hangup(tmp_path):
    path, moved = tmp_path / "records", tmp_path / "records.1"
    with serve(*SIM, "--records", path) as s:
        ask(s)
        records_of(path, 1)
        path.rename(moved)
        s.process.send_signal(signal.SIGHUP)
        ask(s)
        records_of(path, 1)
        assert len(records_of(moved, 1)) == 1
        path.unlink()
        path.mkdir()  # cannot be opened: the old one goes on
        s.process.send_signal(signal.SIGHUP)
        ask(s)
        assert s.metrics()["baton_records_lost_total"] == 0
        deadline = time.monotonic() + 10 * PATIENCE
        while "cannot open the records file anew" not in s.log():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_full_disk_loses_records_and_nothing_else():
    with serve(*SIM, "--records", "/dev/full") as s:
        for _ in range(3):
            assert ask(s).usage.completion_tokens == 3
            time.sleep(0.6)
        deadline = time.monotonic() + 10
        while s.metrics()["baton_records_lost_total"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert s.log().count("cannot write records") == 1
    out = tool("serve", *SIM, "--port", 0, "--records", "/no/such/place/records")
    assert out.returncode == 1 and "/no/such/place/records" in out.stderr


def test_status_shows_a_server_with_and_without_the_key(key_file):
    with serve(*SIM, "--admin-key-file", key_file) as s:
        ask(s, service_tier="gold")
        plain = tool("status", s.url)
        assert plain.returncode == 0 and "/metrics" in plain.stdout
        for out in (plain, tool("status", s.url, "--key-file", key_file),
                    tool("status", s.url, env={"BATON_ADMIN_KEY": ADMIN}), tool("top", s.url)):
            assert out.returncode == 0, out.stderr
            for word in ("gold", "silver", "bronze", "prefill-0", "decode-0", "500 ms", "ATTAINED", "100.0%"):
                assert word in out.stdout, out.stdout
            assert out.stdout.index("decode-0") < out.stdout.index("prefill-0")
        state = json.loads(tool("status", s.url, "--json", "--key-file", key_file).stdout)
        gold = state["tiers"][0]
        assert gold["name"] == "gold" and gold["kept"] == 1 and gold["attainment"] == 1
        assert len(state["workers"]) == 2 and state["policy"] == "baton"
        wrong = tool("status", s.url, env={"BATON_ADMIN_KEY": "wrong"})
        assert wrong.returncode == 1 and "does not know this key" in wrong.stderr
        url = s.url
    gone = tool("status", url)
    assert gone.returncode == 1 and "no server answers" in gone.stderr
    assert tool("status", "--nonsense").returncode == 2


def read_until(fd, word, seconds=10):
    seen = b""
    deadline = time.monotonic() + seconds * PATIENCE
    while word not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 0.2)[0]:
            try:
                seen += os.read(fd, 65536)
            except OSError:
                break
    return seen


@pytest.mark.parametrize("leave", [b"q", b"\x03"])
def test_top_is_live_fits_a_small_terminal_and_leaves_it_as_it_was(leave):
    with serve(*SIM) as s:
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(str(BATON), [str(BATON), "top", s.url])
        try:
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 40, 0, 0))
            seen = read_until(fd, b"gold")
            assert b"\x1b[?1049h" in seen
            seen = read_until(fd, b"REQ/S")  # the second look knows rates
            frame = seen.split(b"\x1b[H")[-1].replace(b"\x1b[K", b"").replace(b"\x1b[J", b"")
            assert max(len(line.rstrip(b"\r")) for line in frame.split(b"\n")) <= 40
            assert len(frame.split(b"\n")) <= 8
            os.write(fd, leave)
            assert b"\x1b[?1049l" in read_until(fd, b"\x1b[?1049l")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            os.close(fd)
