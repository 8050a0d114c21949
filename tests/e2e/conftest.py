"""Start real `baton serve` processes for end-to-end tests, and stop them by process id."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

import sim_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BATON_BUILD_DIR", ROOT / "build/release"))
BATON = BUILD / "baton"
SHARED = pathlib.Path(os.environ.get("BATON_SHARED", ROOT.parent / "shared"))
STORIES = SHARED / "models/stories260K"
DEMO = ROOT / "deploy/demo-model/model"
SANITIZED = BUILD.name in ("asan", "tsan")
PATIENCE = 6 if SANITIZED else 1  # sanitizer builds are slower


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def alive(pid):
    """Neither gone nor a zombie."""
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """One `baton serve` with its workers."""

    key = None  # for metrics(), where the configuration has keys

    def __init__(self, *args, env=None, stdin=subprocess.DEVNULL, program=BATON):
        self.program = program
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = tempfile.mktemp(prefix="baton-e2e-", suffix=".log")
        self.log_file = open(self.log_path, "wb")
        environment = dict(os.environ, **(env or {}))
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        environment.setdefault("LSAN_OPTIONS", f"suppressions={ROOT}/tests/tools/lsan.supp")
        environment.setdefault(
            "TSAN_OPTIONS", f"suppressions={ROOT}/tests/tools/tsan.supp:exitcode=98")
        self.process = subprocess.Popen(
            [str(program), "serve", *map(str, args), "--port", str(self.port)],
            stdin=stdin, stdout=self.log_file, stderr=subprocess.STDOUT, env=environment)

    def log(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def get(self, path, timeout=10, headers=None):
        """(status, body bytes)"""
        request = urllib.request.Request(self.url + path, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()

    def post(self, path, body, timeout=120, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()

    def wait_ready(self, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"baton serve ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError):
                if self.get("/health")[0] == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log()}")

    def workers(self, role):
        """Process ids of the children with this role, as `ps` shows them."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text()
                parent = int(status.rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if parent == self.process.pid and len(words) > 1 and words[1].decode() == role:
                    found.append(int(entry.name))
        return sorted(found)

    def kill_worker(self, role, sig=signal.SIGKILL):
        pid = self.workers(role)[0]
        os.kill(pid, sig)
        return pid

    def metrics(self):
        """{series with labels: value}"""
        out = {}
        headers = {"X-Api-Key": self.key} if self.key else None
        for line in self.get("/metrics", headers=headers)[1].decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def settle(self, seconds=15):
        """Wait until nothing is live and every block is free, then return the metrics; else say what is left."""
        deadline = time.monotonic() + seconds * PATIENCE
        while True:
            metrics = self.metrics()
            assert any(k.startswith("baton_live_objects") for k in metrics), "no counters of live objects"
            left = {k: v for k, v in metrics.items() if v and (
                (k.startswith("baton_live_objects") and "connections" not in k) or
                (k.startswith("baton_kv_blocks") and 'state="free"' not in k))}
            if not left:
                return metrics
            if time.monotonic() > deadline:
                raise AssertionError(f"still live after {seconds} s: {left}\n{self.log()[-4000:]}")
            time.sleep(0.1)

    def stop(self, seconds=40):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not stop after SIGTERM:\n{self.log()[-4000:]}")
        self.log_file.close()
        return self.process.returncode

    def close(self):
        """Stop, and fail on anything a sanitizer had to say in any of the processes."""
        try:
            self.stop()
            text = self.log()
            for word in ("ERROR: AddressSanitizer", "runtime error:", "ERROR: LeakSanitizer",
                         "WARNING: ThreadSanitizer"):
                assert word not in text, text[text.index(word):][:6000]
        finally:
            if self.process.poll() is None:
                self.process.kill()
            with contextlib.suppress(OSError):
                os.unlink(self.log_path)


@contextlib.contextmanager
def serve(*args, ready=60, **more):
    server = Server(*args, **more)
    try:
        yield server.wait_ready(ready)
    except BaseException:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
        print(server.log()[-8000:])
        raise
    server.close()


def need(path):
    if not path.exists():
        pytest.skip(f"{path} is not there")


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds * PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def client(server, key="none", **options):
    import openai
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=120, **options)


@pytest.fixture(scope="session")
def sim_range():
    """(first, count) of the ids that the sim backend makes from the demo model's vocabulary."""
    config = json.loads((DEMO / "config.json").read_text())
    generation = json.loads((DEMO / "generation_config.json").read_text())
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    eos = eos if isinstance(eos, list) else [eos]
    bos = config.get("bos_token_id")
    return sim_model.token_range(config["vocab_size"], [t for t in (*eos, bos) if t is not None])
