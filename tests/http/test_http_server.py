"""Limits at limit - 1, limit and limit + 1; deadlines; clients that leave, stall or flood; CORS, keys, HEAD,
HTTP/1.0, Expect."""

import ipaddress
import socket
import struct
import subprocess
import time

import pytest
from http_client import exchange, read_all, server, split_responses, start  # noqa: F401

GET = b"GET /health HTTP/1.1\r\nHost: h\r\n"
CLOSE = b"Connection: close\r\n"


def post(body, *headers, path=b"/echo"):
    return (b"POST " + path + b" HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + b"".join(h + b"\r\n" for h in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def status(server, data, **kw):
    got = exchange(server, data, **kw)
    assert len(got) == 1, got
    if got[0][0] >= 400:
        assert got[0][1].get("connection") == "close"
    return got[0][0]


# ---- limits ----
@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 414)])
def test_request_line_limit(start, over, want):
    server = start(request_line=100)
    fixed = len(b"GET /echo? HTTP/1.1")
    line = b"GET /echo?" + b"x" * (100 + over - fixed) + b" HTTP/1.1\r\n"
    assert len(line) - 2 == 100 + over
    for cuts in ([], range(1, 100)):
        assert status(server, line + b"Host: h\r\n" + CLOSE + b"\r\n", cuts=cuts) == want


@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 431)])
def test_one_header_limit(start, over, want):
    server = start(header=100)
    line = b"X: " + b"x" * (97 + over) + b"\r\n"
    for cuts in ([], range(1, 150)):
        assert status(server, GET + CLOSE + line + b"\r\n", cuts=cuts) == want


@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 431)])
def test_all_headers_limit(start, over, want):
    server = start(headers=200)
    fixed = len(b"Host: h\r\n" + CLOSE + b"X: \r\n")
    line = b"X: " + b"x" * (200 + over - fixed) + b"\r\n"
    for cuts in ([], range(1, 200)):
        assert status(server, GET + CLOSE + line + b"\r\n", cuts=cuts) == want


@pytest.mark.parametrize("n,want", [(99, 200), (100, 200), (101, 431)])
def test_header_count_limit(server, n, want):
    assert status(server, GET + CLOSE + b"X: 1\r\n" * (n - 2) + b"\r\n") == want


def test_default_header_limits_hold(server):
    assert status(server, GET + CLOSE + b"X: " + b"x" * 8189 + b"\r\n\r\n") == 200
    assert status(server, GET + CLOSE + b"X: " + b"x" * 8190 + b"\r\n\r\n") == 431
    assert status(server, GET + CLOSE + (b"X: " + b"x" * 8000 + b"\r\n") * 3 + b"\r\n") == 431
    assert status(server, b"GET /echo?" + b"x" * (8192 - 19) + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n") == 200
    assert status(server, b"GET /echo?" + b"x" * (8193 - 19) + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n") == 414


@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 413)])
def test_body_limit(start, over, want):
    server = start(body=1000)
    body = b"x" * (1000 + over)
    assert status(server, post(body)) == want
    chunked = GET.replace(b"GET /health", b"POST /echo") + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    one = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    many = b"".join(b"1\r\nx\r\n" for _ in body) + b"0\r\n\r\n"
    assert status(server, chunked + one) == want
    assert status(server, chunked + many) == want


def test_too_large_a_body_is_refused_before_it_is_sent(server):
    head = post(b"").replace(b"Content-Length: 0", b"Content-Length: %d" % ((8 << 20) + 1))
    assert status(server, head) == 413
    body = b"y" * (8 << 20)
    got = exchange(server, post(body))
    assert got[0][0] == 200 and got[0][2].endswith(b"yyy")


@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 400)])
def test_chunk_extension_limit(start, over, want):
    server = start(chunk_extensions=100)
    head = GET.replace(b"GET /health", b"POST /echo") + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    assert status(server, head + b"1;" + b"a" * (99 + over) + b"\r\nx\r\n0\r\n\r\n") == want
    assert status(server, head + b"1;" + b"a" * 49 + b"\r\nx\r\n1;" + b"a" * (49 + over) + b"\r\nx\r\n0\r\n\r\n") == want


@pytest.mark.parametrize("over,want", [(-1, 200), (0, 200), (1, 431)])
def test_trailer_limit(start, over, want):
    server = start(trailers=100)
    head = GET.replace(b"GET /health", b"POST /echo") + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    trailer = b"X: " + b"x" * (95 + over) + b"\r\n"
    assert status(server, head + b"1\r\nx\r\n0\r\n" + trailer + b"\r\n") == want


@pytest.mark.parametrize("n,keep", [(1, True), (2, True), (3, False)])
def test_requests_per_connection_limit(start, n, keep):
    server = start(requests_per_connection=3)
    with server.connect() as s:
        for i in range(n):
            s.sendall(GET + b"\r\n")
            last = split_responses(s.recv(65536))[0]
        assert last[0] == 200
        assert ("connection" not in last[1]) == keep
        if not keep:
            assert read_all(s) == b""


def test_connection_limit(start):
    server = start(connections=3)
    held = [server.connect() for _ in range(3)]
    for s in held:
        s.sendall(GET + b"\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 200")
    with server.connect() as s:
        got = split_responses(read_all(s))
        assert got[0][0] == 503 and got[0][1]["connection"] == "close" and "retry-after" in got[0][1]
    held.pop().close()
    time.sleep(0.2)
    assert status(server, GET + CLOSE + b"\r\n") == 200
    for s in held:
        s.close()


def own_address():
    """An address of this machine that is not loopback, if it has one."""
    out = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout
    for line in out.splitlines():
        ip = line.split()[3].split("/")[0]
        if not ipaddress.ip_address(ip).is_loopback:
            return ip
    pytest.skip("this machine has only a loopback address")


def test_connections_per_address_limit(start):
    server = start(connections_per_ip=2, host=own_address())
    held = [server.connect() for _ in range(2)]
    for s in held:
        s.sendall(GET + b"\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 200")
    with server.connect() as s:
        assert split_responses(read_all(s))[0][0] == 429
    held.pop().close()
    time.sleep(0.2)
    assert status(server, GET + CLOSE + b"\r\n") == 200
    held.pop().close()


def test_loopback_is_not_counted_per_address(start):
    server = start(connections_per_ip=1)
    held = [server.connect() for _ in range(5)]
    for s in held:
        s.sendall(GET + CLOSE + b"\r\n")
        assert split_responses(read_all(s))[0][0] == 200
        s.close()


# ---- deadlines ----
def test_slow_head_is_cut_however_busily_it_drips(start):
    server = start(header_timeout_ms=400)
    with server.connect() as s:
        begin = time.monotonic()
        for byte in GET + b"X: " + b"x" * 1000:
            try:
                s.sendall(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.02)
            if time.monotonic() - begin > 0.9:
                break
        got = split_responses(read_all(s))
        assert got[0][0] == 408 and got[0][1]["connection"] == "close"
        assert time.monotonic() - begin < 2


def test_the_header_clock_starts_with_the_first_byte(start):
    server = start(header_timeout_ms=300, idle_timeout_ms=5000)
    with server.connect() as s:
        time.sleep(0.6)
        s.sendall(GET + CLOSE + b"\r\n")
        assert split_responses(read_all(s))[0][0] == 200


def test_slow_body_is_cut_but_not_one_that_keeps_the_pace(start):
    server = start(body_timeout_ms=400)
    head = post(b"").replace(b"Content-Length: 0", b"Content-Length: 3000")
    with server.connect() as s:
        begin = time.monotonic()
        s.sendall(head + b"x" * 100)
        assert split_responses(read_all(s))[0][0] == 408
        assert 0.35 < time.monotonic() - begin < 1.5
    with server.connect() as s:
        s.sendall(head)
        for _ in range(15):
            s.sendall(b"x" * 200)
            time.sleep(0.07)
        assert split_responses(read_all(s))[0][0] == 200


def test_idle_connection_is_closed_in_silence(start):
    server = start(idle_timeout_ms=300)
    with server.connect() as s:
        assert read_all(s) == b""
    with server.connect() as s:
        s.sendall(GET + b"\r\n")
        time.sleep(0.1)
        begin = time.monotonic()
        assert len(split_responses(read_all(s))) == 1
        assert 0.1 < time.monotonic() - begin < 1


def test_slow_reader_is_cut_at_max_output(start):
    server = start(max_output=100000)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((server.host, server.port))
    s.sendall(b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n")
    assert wait_left(server, 1, within=10)
    s.close()


def test_reader_that_stalls_for_good_is_cut(start):
    """A whole response, so the exchange is over; the connection must not wait for ever."""
    server = start(body_timeout_ms=500)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((server.host, server.port))
    s.sendall(post(b"z" * (8 << 20)).replace(b"Connection: close\r\n", b""))
    deadline = time.monotonic() + 15
    while left(server)[2] > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    s.close()


# ---- clients that leave ----
def left(server):
    """(slow exchanges abandoned, live exchanges, connections, exchanges ended by the client)"""
    got = exchange(server, b"GET /left HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    return [int(n) for n in got[0][2].split()]


def wait_left(server, want, within=1.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if left(server)[0] >= want:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("pipelined", [0, 3000])
def test_client_that_leaves_is_noticed_at_once(start, how, pipelined):
    server = start()
    s = server.connect()
    s.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" + (GET + b"X: 1\r\n\r\n") * (pipelined // 40))
    assert s.recv(1000).startswith(b"HTTP/1.1 200")
    assert left(server)[0] == 0
    if how == "half-close":
        s.shutdown(socket.SHUT_WR)
    elif how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    else:
        s.close()
    assert wait_left(server, 1)
    abandoned, live, connections, gone = left(server)
    assert (abandoned, live, connections, gone) == (1, 1, 1, 1)
    s.close()


def test_exchange_that_starts_after_its_client_has_closed_is_given_up(start):
    server = start()
    with server.connect() as s:
        s.sendall((GET + b"\r\n") * 500 + b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        s.shutdown(socket.SHUT_WR)
        assert wait_left(server, 1)


def test_pipelined_bytes_behind_a_running_exchange_are_bounded(start):
    server = start()
    with server.connect(timeout=1) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        s.recv(1000)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += s.send(b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n" * 1000)
        with open(f"/proc/{server.process.pid}/statm") as f:
            assert int(f.read().split()[1]) * 4096 < 60 << 20


# ---- methods, forms, headers ----
def test_head_is_get_without_body(server):
    with server.connect() as s:
        s.sendall(b"HEAD /health HTTP/1.1\r\nHost: h\r\n\r\nHEAD /echo HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
        heads = read_all(s).split(b"\r\n\r\n")
        assert len(heads) == 3 and heads[2] == b"" and b"Content-Length: 14" in heads[1]
    with server.connect() as s:
        s.sendall(b"HEAD /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        data = read_all(s)
        assert data.endswith(b"\r\n\r\n") and b"Content-Length: 15\r\n" in data
    with server.connect() as s:
        s.sendall(b"HEAD /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert read_all(s).endswith(b"\r\n\r\n")


def test_http10(server):
    with server.connect() as s:
        s.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        data = read_all(s)
        assert data.endswith(b"\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n")
        assert b"Transfer-Encoding" not in data and b"Connection: close" in data
    with server.connect() as s:
        s.sendall(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n")
        got = split_responses(read_all(s))
        assert [r[1]["connection"] for r in got] == ["keep-alive", "close"]


def test_stream_is_chunked_and_marked_for_proxies(server):
    with server.connect() as s:
        s.sendall(b"GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        head, _, body = read_all(s).partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream; charset=utf-8" in head and b"X-Accel-Buffering: no" in head
    assert body == b"".join(b"9\r\ndata: %d\n\n\r\n" % i for i in range(3)) + b"0\r\n\r\n"


def test_expect_continue(server):
    with server.connect() as s:
        s.sendall(post(b"hello", b"Expect: 100-continue")[:-5])
        assert s.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b"hello")
        assert split_responses(read_all(s))[0][2] == b"POST /echo? 5 hello"
    assert status(server, post(b"hello", b"Expect: 100-continue")) == 200
    assert status(server, post(b"hello", b"Expect: 200-ok")) == 417
    refused = exchange(server, post(b"hello", b"Expect: 100-continue", path=b"/nowhere")[:-5])
    assert [r[0] for r in refused] == [404]


@pytest.mark.parametrize("kind,want", [
    (None, 200), (b"application/json", 200), (b"application/json; charset=utf-8", 200), (b"Application/JSON", 200),
    (b"application/problem+json", 200), (b"text/json", 200), (b"text/plain", 415), (b"", 415),
    (b"application/x-www-form-urlencoded", 415), (b"multipart/form-data; boundary=x", 415), (b"application/jsonp", 415),
    (b"application/octet-stream", 415), (b"text/plain; application/json", 415)])
def test_media_type(server, kind, want):
    data = post(b"{}")
    line = b"" if kind is None else b"Content-Type: " + kind + b"\r\n"
    assert exchange(server, data.replace(b"Content-Type: application/json\r\n", line))[0][0] == want


def test_compressed_bodies_are_refused(server):
    assert status(server, post(b"{}", b"Content-Encoding: gzip")) == 415
    assert status(server, post(b"{}", b"Content-Encoding: identity")) == 200


def test_unknown_path_and_method(server):
    got = exchange(server, b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\nDELETE /echo HTTP/1.1\r\nHost: h\r\n\r\n"
                   b"OPTIONS /echo HTTP/1.1\r\nHost: h\r\n\r\nGET /items/ HTTP/1.1\r\nHost: h\r\n\r\n"
                   b"GET /items/a%2fb HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert [r[0] for r in got] == [404, 405, 405, 404, 200]
    assert got[1][1]["allow"] == "GET, HEAD, POST"
    assert got[4][2] == b"GET /items/a/b? 0 "


def test_refused_request_keeps_the_connection_when_its_body_is_short(server):
    data = post(b"x" * 1000, path=b"/nowhere").replace(CLOSE, b"")
    got = exchange(server, data + GET + CLOSE + b"\r\n")
    assert [r[0] for r in got] == [404, 200]
    data = post(b"x" * 100000, path=b"/nowhere").replace(CLOSE, b"")
    assert [r[0] for r in exchange(server, data + GET + CLOSE + b"\r\n")] == [404]


def test_keys(start):
    server = start(key="sesame")
    item = b"GET /items/1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    assert exchange(server, item + b"\r\n")[0][0] == 401
    for line, want in [(b"Authorization: Bearer sesame", 200), (b"authorization: bearer sesame", 200),
                       (b"X-Api-Key: sesame", 200), (b"Authorization: Bearer sesam", 401),
                       (b"Authorization: Bearer sesame2", 401), (b"Authorization: Basic sesame", 401),
                       (b"X-Api-Key: ", 401), (b"Authorization: Bearer", 401)]:
        got = exchange(server, item + line + b"\r\n\r\n")
        assert got[0][0] == want, line
        if want == 401:
            assert got[0][1]["www-authenticate"] == "Bearer" and b"invalid_api_key" in got[0][2]
            assert b"sesam" not in got[0][2]
    assert exchange(server, item + b"Authorization: Bearer sesame\r\nAuthorization: Bearer x\r\n\r\n")[0][0] == 400
    assert exchange(server, GET + CLOSE + b"\r\n")[0][0] == 200
    for path in (b"/v1/chat/completions", b"/v1/completions", b"/tokenize", b"/detokenize"):
        for method, want in ((b"POST", 401), (b"GET", 405), (b"PUT", 405), (b"OPTIONS", 405), (b"HEAD", 405),
                             (b"DELETE", 405), (b"PATCH", 405), (b"TRACE", 501), (b"CONNECT", 501)):
            head = method + b" " + path + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            with server.connect() as s:
                s.sendall(head)
                assert int(read_all(s).split(b" ")[1]) == want, head


def test_request_id(server):
    for sent, kept in [(b"abc-1.2_3:X", True), (b"x" * 128, True), (b"x" * 129, False), (b"a b", False), (b"a\"b", False),
                       (b"", False)]:
        got = exchange(server, GET + CLOSE + b"X-Request-Id: " + sent + b"\r\n\r\n")[0][1]["x-request-id"]
        assert (got == sent.decode()) == kept
        assert len(got) > 0
    a, b = (exchange(server, GET + CLOSE + b"\r\n")[0][1]["x-request-id"] for _ in range(2))
    assert a != b and a.startswith("req-")


def test_cors_only_when_on(start, server):
    ask = (b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: h\r\nOrigin: https://app.example\r\nConnection: close\r\n"
           b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-stainless-os\r\n\r\n")
    assert exchange(server, ask)[0][0] == 405
    assert "access-control-allow-origin" not in exchange(server, GET + CLOSE + b"Origin: https://a\r\n\r\n")[0][1]
    on = start(cors=1, key="sesame")
    got = exchange(on, ask)[0]
    assert got[0] == 204
    assert got[1]["access-control-allow-origin"] == "https://app.example"
    assert got[1]["access-control-allow-headers"] == "authorization, x-stainless-os"
    assert got[1]["access-control-allow-methods"] == "POST, OPTIONS"
    assert "content-length" not in got[1]
    got = exchange(on, GET + CLOSE + b"Origin: https://a\r\n\r\n")[0]
    assert got[1]["access-control-allow-origin"] == "https://a" and got[1]["vary"] == "Origin"


def test_upgrade_is_ignored(server):
    got = exchange(server, GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
                   + GET + CLOSE + b"\r\n")
    assert [r[0] for r in got] == [200, 200]


def test_ipv6(start):
    server = start(host="::1")
    assert status(server, GET + CLOSE + b"\r\n") == 200


# ---- many ----
def test_an_idle_connection_costs_at_most_8_kib(start):
    server = start()
    if "san" in server.build:
        pytest.skip("sanitizers have memory of their own")

    def resident():
        with open(f"/proc/{server.process.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    held = []
    for n in (400, 1600):
        before = resident()
        for _ in range(n):
            s = server.connect()
            s.sendall(post(b"x" * 30000).replace(CLOSE, b"X: " + b"x" * 5000 + b"\r\n"))
            while not s.recv(65536).endswith(b"x"):
                pass
            held.append(s)
        grown = resident() - before
    assert grown / 1600 <= 8192
    for s in held:
        s.close()


def test_two_thousand_connections_and_slow_ones_among_them(start):
    server = start(header_timeout_ms=60000)
    slow = [server.connect() for _ in range(1000)]
    for s in slow:
        s.sendall(b"GET /health HTTP/1.1\r\nHo")
    begin = time.monotonic()
    for _ in range(200):
        assert status(server, GET + CLOSE + b"\r\n") == 200
    assert time.monotonic() - begin < 5
    for s in slow:
        s.sendall(b"st: h\r\nConnection: close\r\n\r\n")
    for s in slow:
        assert split_responses(read_all(s))[0][0] == 200
        s.close()
