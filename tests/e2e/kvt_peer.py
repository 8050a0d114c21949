"""Drive tests/kvt/kvt_peer.c processes: one kvt node each, on this host or in a network namespace."""
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

from conftest import BUILD, PATIENCE

BINARY = BUILD / "tests" / "kvt_peer"
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "00112233445566778899aabbccddeeff"
SENDER, RECEIVER = 1, 2


class Peer:
    """One node.  wait(event) returns the first event of that kind not yet taken."""

    def __init__(self, transports="-", host="127.0.0.1", namespace=None, blocks=32, heads=32,
                 parts=1, device=False, timeout_ms=1000, binary=BINARY):
        command = [str(binary), host, "0", transports, str(blocks), f"{heads}/{parts}{'d' if device else ''}",
                   str(timeout_ms * PATIENCE)]
        if namespace:
            command = ["ip", "netns", "exec", namespace] + command
        env = dict(os.environ, UCX_HANDLE_ERRORS="none", UCX_MEM_MMAP_HOOK_MODE="none")
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1")
        env.setdefault("LSAN_OPTIONS", f"suppressions={ROOT}/tests/tools/lsan.supp")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=env, text=True)
        self.host = host
        self.seen = []
        self.foreign = []
        self.queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = self.wait("ready")["port"]

    def _read(self):
        for text in self.process.stdout:
            if text.startswith("{"):
                self.queue.put(json.loads(text))
            else:  # UCX logs to standard output
                self.foreign.append(text)
                print(text, end="", file=sys.stderr)

    def tell(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def find(self, event, seconds, **fields):
        until = time.monotonic() + seconds * PATIENCE
        while True:
            for i, e in enumerate(self.seen):
                if e["event"] == event and all(e.get(k) == v for k, v in fields.items()):
                    return self.seen.pop(i)
            try:
                self.seen.append(self.queue.get(timeout=max(0.001, until - time.monotonic())))
            except queue.Empty:
                return None

    def wait(self, event, seconds=5, **fields):
        e = self.find(event, seconds, **fields)
        assert e is not None, f"no {event} {fields} in {seconds} s; saw {self.seen}"
        return e

    def ask(self, event, *words):
        self.tell(*words)
        return self.wait(event)

    def introduce(self, me, other, address=None):
        host, port = address or ("-", 0)
        assert self.ask("introduced", "introduce", me, other, TOKEN, host, port)["err"] == "ERR_OK"

    def counters(self):
        return self.ask("counters", "counters")

    def at_rest(self, seconds=3):
        until = time.monotonic() + seconds * PATIENCE
        while True:
            c = self.counters()
            if c["sends_open"] == c["grants_open"] == c["slots_quarantined"] == 0:
                return c
            assert time.monotonic() < until, c
            time.sleep(0.05)

    def pid(self):
        """`ip netns exec` replaces itself by the command, so the process is the node."""
        return self.process.pid

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, settle=0.05):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(settle)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            try:
                self.tell("quit")
                code = self.process.wait(10 * PATIENCE)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                code = self.process.wait(10)
            assert code == 0, f"kvt_peer ended with {code}"


class Namespaces:
    """Two network namespaces joined by a veth pair: two hosts as far as TCP can tell."""

    def __init__(self):
        tag = f"kvt{os.getpid()}"
        self.names = [f"{tag}a", f"{tag}b"]
        self.links = [f"{tag}va"[-15:], f"{tag}vb"[-15:]]
        self.hosts = ["10.231.7.1", "10.231.7.2"]
        for name in self.names:
            self.ip("netns", "add", name)
        self.ip("link", "add", self.links[0], "netns", self.names[0], "type", "veth", "peer", "name",
                self.links[1], "netns", self.names[1])
        for name, link, host in zip(self.names, self.links, self.hosts):
            self.ip("-n", name, "addr", "add", host + "/24", "dev", link)
            self.ip("-n", name, "link", "set", link, "up")
            self.ip("-n", name, "link", "set", "lo", "up")
        for side in (0, 1):
            self.wait_up(side)

    @staticmethod
    def ip(*words):
        return subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20,
                              text=True).stdout

    def cut(self, side):
        self.ip("-n", self.names[side], "link", "set", self.links[side], "down")

    def heal(self, side):
        self.ip("-n", self.names[side], "link", "set", self.links[side], "up")
        self.wait_up(side)

    def wait_up(self, side):
        for _ in range(200):
            text = self.ip("-n", self.names[side], "link", "show", self.links[side])
            if "LOWER_UP" in text and "state UP" in text:
                return
            time.sleep(0.01)
        raise OSError(f"{self.links[side]} does not come up")

    def close(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


def namespaces_or_none():
    if os.geteuid() != 0:
        return None
    try:
        return Namespaces()
    except (OSError, subprocess.SubprocessError):
        return None
