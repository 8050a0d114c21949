"""Two hosts, played by two network namespaces: workers started by hand, a shared secret, KV over TCP.

Namespaces of one kernel still share memory, which two hosts do not: so TCP is asked for by name."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest

from conftest import BATON, DEMO, PATIENCE, alive
import sim_model

A, B = "10.77.0.1", "10.77.0.2"
CLIENT = """
import json, sys, urllib.request
url, body = sys.argv[1], sys.argv[2].encode()
r = urllib.request.Request(url, data=body or None, headers={"Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(r, timeout=60).read().decode())
except urllib.error.HTTPError as e:
    print(json.dumps({"status": e.code}))
"""


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Hosts:
    """Namespaces left and right with one cable between them."""

    def __init__(self):
        self.left, self.right = f"baton-l{os.getpid()}", f"baton-r{os.getpid()}"
        self.processes, self.logs = [], []

    def __enter__(self):
        try:
            self.lay_cable()
        except (OSError, subprocess.CalledProcessError) as e:
            self.__exit__(None)
            pytest.skip(f"cannot make network namespaces here: {e}")
        return self

    def lay_cable(self):
        ip("netns", "add", self.left)
        ip("netns", "add", self.right)
        ip("link", "add", "bv0", "netns", self.left, "type", "veth", "peer", "name", "bv1", "netns", self.right)
        for ns, dev, addr in ((self.left, "bv0", A), (self.right, "bv1", B)):
            ip("-n", ns, "addr", "add", f"{addr}/24", "dev", dev)
            ip("-n", ns, "link", "set", "lo", "up")
            ip("-n", ns, "link", "set", dev, "up")
        deadline = time.monotonic() + 10
        while any("LOWER_UP" not in ip("-n", ns, "link", "show", dev) for ns, dev in
                  ((self.left, "bv0"), (self.right, "bv1"))):
            assert time.monotonic() < deadline, "the cable has no carrier"
            time.sleep(0.02)

    def start(self, ns, *args):
        log = tempfile.NamedTemporaryFile(prefix="baton-net-", suffix=".log", delete=False)
        p = subprocess.Popen(["ip", "netns", "exec", ns, str(BATON), *map(str, args)], stdout=log,
                             stderr=subprocess.STDOUT)
        self.processes.append(p)
        self.logs.append(log.name)
        return p

    def log(self, i):
        return pathlib.Path(self.logs[i]).read_text(errors="replace")

    def ask(self, port, path, body=None):
        out = subprocess.run(
            ["ip", "netns", "exec", self.left, sys.executable, "-c", CLIENT, f"http://127.0.0.1:{port}{path}",
             json.dumps(body) if body else ""], capture_output=True, text=True, timeout=90)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def wait_health(self, port, want, seconds=30):
        deadline = time.monotonic() + seconds * PATIENCE
        while True:
            with contextlib.suppress(AssertionError, json.JSONDecodeError):
                if (self.ask(port, "/health").get("status") == "ok") == want:
                    return
            assert time.monotonic() < deadline, "\n".join(self.log(i)[-3000:] for i in range(len(self.logs)))
            time.sleep(0.1)

    def __exit__(self, *failure):
        for p in self.processes:
            if p.poll() is None:
                p.terminate()
        for p in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(20)
            if p.poll() is None:
                p.kill()
        if failure[0]:
            for i in range(len(self.logs)):
                print(f"--- process {i}\n{self.log(i)[-5000:]}")
        for ns in (self.left, self.right):
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)
        for name in self.logs:
            os.unlink(name)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("a secret that both hosts share\n")
    path.chmod(0o600)
    return path


def serve_args(secret, port, prefill, decode):
    return ("serve", DEMO, "--backend", "sim", "--served-name", "sim", "--port", port, "--prefill", prefill,
            "--decode", decode, "--listen-workers", f"{A}:7000", "--secret-file", secret,
            "--peer-timeout-ms", 800, "--kv-transports", "tcp")


def worker_args(role, secret):
    return (role, DEMO, "--backend", "sim", "--served-name", "sim", "--scheduler", f"{A}:7000",
            "--secret-file", secret, "--name", f"{role}-far", "--max-batch", "64", "--kv-transports", "tcp")


def check_tokens(hosts, port, sim_range, prompt, n):
    r = hosts.ask(port, "/v1/completions", {"model": "sim", "prompt": prompt, "max_tokens": n,
                                            "return_token_ids": True, "ignore_eos": True})
    assert r["choices"][0]["token_ids"] == sim_model.generate(prompt, n, *sim_range)


@pytest.mark.parametrize("far", ["decode", "prefill"])
def test_a_worker_on_another_host_takes_part(secret, sim_range, far):
    near = (1, 0) if far == "decode" else (0, 1)
    with Hosts() as hosts:
        hosts.start(hosts.left, *serve_args(secret, 8123, *near))
        worker = hosts.start(hosts.right, *worker_args(far, secret))
        hosts.wait_health(8123, True)
        for n in (1, 2, 40):
            check_tokens(hosts, 8123, sim_range, list(range(300, 300 + 20 * n)), n)
        assert "path=tcp" in hosts.log(0)
        # the far worker dies and is started again by hand
        worker.kill()
        pid = worker.pid
        worker.wait()
        assert not alive(pid)
        hosts.wait_health(8123, False)
        hosts.start(hosts.right, *worker_args(far, secret))
        hosts.wait_health(8123, True)
        check_tokens(hosts, 8123, sim_range, [301, 302, 303], 20)


def test_a_worker_survives_the_loss_of_the_cable(secret, sim_range):
    with Hosts() as hosts:
        hosts.start(hosts.left, *serve_args(secret, 8123, 1, 0))
        hosts.start(hosts.right, *worker_args("decode", secret))
        hosts.wait_health(8123, True)
        check_tokens(hosts, 8123, sim_range, [301, 302, 303], 20)
        ip("-n", hosts.right, "link", "set", "bv1", "down")
        hosts.wait_health(8123, False)  # noticed without any packet
        ip("-n", hosts.right, "link", "set", "bv1", "up")
        hosts.wait_health(8123, True, 40)  # it came back by itself
        check_tokens(hosts, 8123, sim_range, [301, 302, 304], 20)


def test_a_wrong_secret_gets_nowhere(secret, tmp_path):
    other = tmp_path / "other"
    other.write_text("not the secret of this cluster\n")
    other.chmod(0o600)
    with Hosts() as hosts:
        hosts.start(hosts.left, *serve_args(secret, 8123, 1, 0))
        hosts.start(hosts.right, *worker_args("decode", other))
        time.sleep(2 * PATIENCE)
        assert hosts.ask(8123, "/health")["status"] == 503
        assert "secret" in hosts.log(1)
        listening = subprocess.run(["ip", "netns", "exec", hosts.left, "ss", "-Hltn"], capture_output=True,
                                   text=True, check=True).stdout
        places = [line.split()[3] for line in listening.splitlines()]
        assert f"{A}:7000" in places and "127.0.0.1:8123" in places
        assert not [p for p in places if p.startswith(("0.0.0.0:", "*:", "[::]:"))], places


def test_a_secret_that_others_can_read_is_refused(secret):
    secret.chmod(0o644)
    out = subprocess.run([str(BATON), "serve", str(DEMO), "--backend", "sim", "--port", "0", "--listen-workers",
                          "127.0.0.1:0", "--secret-file", str(secret)], capture_output=True, text=True, timeout=30)
    assert out.returncode == 1 and "chmod 600" in out.stderr
