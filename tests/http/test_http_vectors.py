"""Every vector of http_vectors.py is refused, with the same verdict however its bytes arrive, and nothing
behind it is read.  What is well-formed beside them is served."""

import random

import pytest
from http_client import exchange, read_all, server, split_responses, target  # noqa: F401
from http_vectors import HOST, TYPE, all_vectors, request

VECTORS = list(all_vectors())
NEXT = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_there_are_enough_vectors():
    assert len(VECTORS) >= 400
    assert len({data for _, data, _ in VECTORS}) > 0.95 * len(VECTORS)


def refused(responses, allowed):
    assert len(responses) == 1, responses
    status, headers, body = responses[0]
    assert status in allowed, (status, body)
    assert headers["connection"] == "close"
    assert body.startswith(b'{"error":{"message":')
    return status


@pytest.mark.parametrize("name,data,allowed", VECTORS, ids=[v[0] for v in VECTORS])
def test_refused_whole_bytewise_and_split(target, name, data, allowed):
    if not hasattr(target, "process"):  # not http_echo: a path that it has
        data = data.replace(b"/echo", b"/v1/completions", 1)
    whole = refused(exchange(target, data + NEXT), allowed)
    assert refused(exchange(target, data + NEXT, cuts=range(1, len(data))), {whole})
    rng = random.Random(name)
    for _ in range(2):
        cuts = sorted(rng.sample(range(1, len(data)), min(4, len(data) - 1)))
        assert refused(exchange(target, data + NEXT, cuts=cuts), {whole})


@pytest.mark.parametrize("body", [b"5\r\nhello\r\n", b"5\r\nhel", b"5", b"", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\n\r"])
def test_missing_last_chunk_is_refused_at_the_end(server, body):
    refused(exchange(server, request(frame="TE", body=body), end=True), {400})


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_head_is_refused_at_the_end(server, cut):
    refused(exchange(server, request()[:cut], end=True), {400})


def test_short_body_is_refused_at_the_end(server):
    refused(exchange(server, request(body=b"hell"), end=True), {400})


@pytest.mark.parametrize("frame", ["CL", "TE"])
def test_good_requests_are_served_however_they_are_cut(server, frame):
    data = request(frame=frame)
    last = b"GET /echo?q=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for cuts in ([], range(1, len(data)), [7, 30], [len(data) - 1]):
        got = exchange(server, data + last, cuts=cuts)
        assert [r[2] for r in got] == [b"POST /echo? 5 hello", b"GET /echo?q=1 0 "]
        assert got[1][1]["connection"] == "close" and "connection" not in got[0][1]


@pytest.mark.parametrize("body,want", [
    (b"5;a;b=\"x y;z\";c=1\r\nhello\r\n0;last\r\nX-Sum: 1\r\n\r\n", b"hello"),
    (b"2\r\nhe\r\n03\r\nllo\r\n000\r\n\r\n", b"hello"), (b"0\r\n\r\n", b""),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789")])
def test_good_chunks_are_served(server, body, want):
    got = exchange(server, request(headers=(HOST, TYPE, b"Connection: close\r\n"), frame="TE", body=body))
    assert got[0][0] == 200 and got[0][2].endswith(b" " + want)


def test_many_pipelined_requests_are_answered_in_order(server):
    n = 2000
    data = b"".join(b"GET /echo?%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(n))
    with server.connect() as s:
        s.sendall(data + b"GET /echo?end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        got = split_responses(read_all(s))
    assert [r[2] for r in got] == [b"GET /echo?%d 0 " % i for i in range(n)] + [b"GET /echo?end 0 "]


def test_bytes_behind_an_empty_body_are_the_next_request_or_an_error(server):
    empty = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    got = exchange(server, empty + b"hello\r\n\r\n" + NEXT)
    assert [r[0] for r in got] == [200, 400]
    got = exchange(server, empty + NEXT + b"x y z\r\n\r\n" + NEXT)
    assert [r[0] for r in got] == [200, 200, 400]


def test_one_empty_line_before_a_request_is_forgiven(server):
    got = exchange(server, b"\r\n" + NEXT + b"\r\n" + NEXT + b"\r\n\r\n" + NEXT)
    assert [r[0] for r in got] == [200, 200, 400]


@pytest.mark.parametrize("target,want", [
    (b"http://localhost/echo?a=b", b"GET /echo?a=b"), (b"HTTP://LOCALHOST/echo", b"GET /echo?"),
    (b"/echo?x=%41&y[]=1", b"GET /echo?x=%41&y[]=1"), (b"/%65cho", b"GET /echo?")])
def test_target_forms(server, target, want):
    got = exchange(server, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert got[0][0] == 200 and got[0][2].startswith(want)


@pytest.mark.parametrize("host", [b"localhost", b"localhost:8000", b"127.0.0.1:1", b"[::1]:8000", b"a-b.c_d.example"])
def test_good_hosts(server, host):
    assert exchange(server, b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")[0][0] == 200


def test_values_may_be_utf8_and_have_space_around(server):
    got = exchange(server, b"GET /health HTTP/1.1\r\nHost: \t h \t\r\nX-Title: \xc3\xa4\xe2\x82\xac\r\nX-E:\r\n"
                   b"Connection:close\r\n\r\n")
    assert got[0][0] == 200
