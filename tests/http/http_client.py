"""Starts http_echo (tests/http/http_echo.c) for the tests beside this file, and talks raw HTTP to it.

The fixtures are here and not in a conftest.py, so that these tests can be collected together with others."""

import os
import pathlib
import socket
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def echo_binary():
    build = os.environ.get("BATON_BUILD_DIR")
    found = [pathlib.Path(build, "tests/http_echo")] if build else []
    found += sorted(ROOT.glob("build/*/tests/http_echo"), key=lambda p: -p.stat().st_mtime)
    for path in found:
        if path.exists():
            return path
    pytest.skip("http_echo is not built: build the target http_echo first")


class Server:
    """http_echo with the given limits; stop() proves that nothing is left over."""

    def __init__(self, **options):
        args = [f"{k}={v}" for k, v in options.items()]
        binary = echo_binary()
        self.build = binary.parents[1].name
        self.process = subprocess.Popen([binary, *args], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        word, port = self.process.stdout.readline().split()
        assert word == "listening"
        self.host, self.port = options.get("host", "127.0.0.1"), int(port)

    def connect(self, timeout=10):
        s = socket.create_connection((self.host, self.port), timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def stop(self):
        self.process.stdin.close()
        rest = self.process.stdout.read()
        assert self.process.wait(20) == 0, rest
        assert rest.strip().endswith("blocks 0"), rest


@pytest.fixture
def start():
    servers = []

    def run(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    s.stop()


class Running:
    """A server that somebody else has started, at BATON_HTTP_TARGET=host:port."""

    def __init__(self, where):
        self.host, _, port = where.rpartition(":")
        self.port = int(port)

    def connect(self, timeout=10):
        s = socket.create_connection((self.host, self.port), timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s


@pytest.fixture(scope="module")
def target(request):
    """For tests that any server with our endpoints must pass."""
    if os.environ.get("BATON_HTTP_TARGET"):
        return Running(os.environ["BATON_HTTP_TARGET"])
    return request.getfixturevalue("server")


def read_all(s):
    """All bytes until the server closes."""
    parts = []
    while True:
        try:
            block = s.recv(65536)
        except ConnectionResetError:
            break
        if not block:
            break
        parts.append(block)
    return b"".join(parts)


def split_responses(data):
    """[(status, headers, body), ...] of responses with Content-Length; 100s are left out."""
    out = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {k.lower(): v.strip() for k, v in (l.split(":", 1) for l in lines[1:])}
        n = int(headers.get("content-length", 0))
        if status != 100:
            out.append((status, headers, rest[:n]))
        data = rest[n:]
    return out


def exchange(server, data, cuts=None, end=False):
    """Send data (in pieces at the offsets `cuts`), read until the server closes."""
    with server.connect() as s:
        try:
            at = 0
            for cut in [*(cuts or []), len(data)]:
                s.sendall(data[at:cut])
                at = cut
            if end:
                s.shutdown(socket.SHUT_WR)
        except (ConnectionResetError, BrokenPipeError):
            pass
        return split_responses(read_all(s))
