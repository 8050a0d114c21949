"""Requests that must be refused, by class: what other servers let through and what smugglers live on.

Each vector is (name, bytes, allowed statuses).  A header mutation is tried as the first, a middle and the
last header, and with a body framed by Content-Length and by chunks.
"""

BODY = {"CL": b"hello", "TE": b"5\r\nhello\r\n0\r\n\r\n"}
FRAME = {"CL": b"Content-Length: 5\r\n", "TE": b"Transfer-Encoding: chunked\r\n"}
HOST = b"Host: localhost\r\n"
TYPE = b"Content-Type: application/json\r\n"
LINE = b"POST /echo HTTP/1.1\r\n"
POSITIONS = ("first", "middle", "last")

# One header line each, CRLF included where it belongs.
LINES = {
    "bare LF": [b"X-Bad: 1\n"],
    "bare CR": [b"X-Bad: a\rb\r\n", b"X-Bad: a\r\r\n", b"X-Bad\r: a\r\n"],
    "CR and another byte": [b"X-Bad: 1\rX\r\n", b"X-Bad: 1\r \r\n", b"X-Bad: 1\r\0\r\n"],
    "folded line": [b"X-Bad: 1\r\n folded\r\n", b"X-Bad: 1\r\n\tfolded\r\n", b"X-Bad:\r\n 1\r\n"],
    "space before colon": [b"X-Bad : 1\r\n", b"X-Bad\t: 1\r\n"],
    "space before name": [b" X-Bad: 1\r\n", b"\tX-Bad: 1\r\n"],
    "empty name": [b": 1\r\n"],
    "no colon": [b"XBad\r\n"],
    "name is no token": [b"X(Bad: 1\r\n", b"X@Bad: 1\r\n", b'X"Bad: 1\r\n', b"X/Bad: 1\r\n", b"X[Bad: 1\r\n",
                         b"X Bad: 1\r\n", b"X,Bad: 1\r\n", b"X;Bad: 1\r\n", b"{X}: 1\r\n"],
    "NUL in name": [b"X-\0Bad: 1\r\n"],
    "NUL in value": [b"X-Bad: a\0b\r\n", b"X-Bad: \0\r\n"],
    "control in name": [b"X-\x01Bad: 1\r\n", b"X-\x7fBad: 1\r\n"],
    "control in value": [b"X-Bad: \x01\r\n", b"X-Bad: a\x0bb\r\n", b"X-Bad: \x7f\r\n", b"X-Bad: \x1b[0m\r\n"],
    "high byte in name": [b"X-\x80: 1\r\n", b"X-\xff: 1\r\n", b"X-Bad\xa0: 1\r\n", b"\x85X-Bad: 1\r\n"],
    "Host again": [b"Host: localhost\r\n", b"Host: other\r\n", b"hOST: localhost\r\n"],
    "framing hidden behind odd space": [b"Content-Length\x0b: 5\r\n", b"Transfer-Encoding\x0c: chunked\r\n",
                                        b"Content-Length\xa0: 5\r\n"],
}

LENGTHS = [b"+5", b"-5", b"0x5", b"5_0", b"5 5", b"5,5", b"5, 5", b"5,6", b"", b"\t5", b" 5", b"5 ", b"5\t",
           b"5\xa0", b"\xa05", b"\x855", b"5\x85", b"5;", b"5.0", b"5e0", b"five", b"0 5", b'"5"', b"(5)",
           b"9223372036854775807", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616",
           b"18446744073709551621", b"99999999999999999999999999", b"0x", b"-0", b"+0"]
CODINGS = [b"identity", b"gzip", b"chunkedchunked", b",chunked", b"chunked,", b"chunked, identity",
           b"identity, chunked", b"chunked, chunked", b"gzip, chunked", b"xchunked", b"chunkedx", b"chunke",
           b"chunked;q=1", b'"chunked"', b" chunked", b"\tchunked", b"chunked ", b"chunked\t", b"\x85chunked",
           b"chunked\xa0", b"", b"chunked\x0b", b"cow, chunked", b"chunked\0"]
SIZES = [b"0x5", b"+5", b"-5", b"5_", b"_5", b"", b" 5", b"5 ", b"5\t", b"\t5", b"00000000000000005", b"g", b"5g",
         b"5h", b"5.0", b"5,", b"\xb5", b"5\0", b"5 ;a=1", b"5; a=1", b"5;", b"5;a=", b"5;=1", b"5;a b", b"5;a\rb=1",
         b"5;a\x01", b"5;a=\"x", b"5;a=\"\x01\"", b"5;\xff", b"5;a;;b", b"0x0005", b"5\r5"]
VERSIONS = [b"HTTP/1.10", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/257.1", b"HTTP/1.257", b"HTTP/1.1x", b"HTTP/1", b"HTTP/1.",
            b"http/1.1", b"HTTP/1.1 ", b"HTTP /1.1", b"HTTP/11", b"HTTP/1.2", b"HTTP/01.1", b"HTTP/1.01", b"HTTP/3.0",
            b"HTTP/.1", b"HTTP/-1.1", b"HTTP/1,1", b"HTTPS/1.1", b"ICY/1.1", b"HTTP/1.1\t", b"HTTP/A.B", b""]
METHODS = [b"GETX", b"POSTPOST", b"get", b"Post", b"GE\0T", b"PO\x80ST", b"", b" POST", b"\tPOST", b"PO ST", b"P(ST",
           b"PRI", b"CONNECT", b"TRACE", b"PURGE", b"M" * 40, b"POST\t", b"\x16\x03\x01"]
TARGETS = [b"", b"echo", b"/a b", b"/\0", b"/\xff", b"/\x7f", b"/\t", b"*", b"/%zz", b"/%00", b"/%", b"/%4", b"/%0a",
           b"/%7F", b"http://", b"ftp://localhost/", b"localhost:80", b"//\r/", b"/<x>", b'/"', b"/a\\b", b"/^", b"/`",
           b"/{x}", b"/a|b", b"/a#b", b"http://user@localhost/", b"http://localhost:port/", b"http:/localhost/"]
HOSTS = [b"", b"a b", b"a/b", b"a,b", b"user@h", b"h:99999", b"h:abc", b"h:", b"h:80:80", b"[::1", b"::1]", b"[]", b"h#",
         b"h?x", b"h\\x", b"h\tx", b"h;x", b"<h>", b"h%00", b"\xc3\xa4", b":80", b"h:+80", b"[::1]x", b"h'x", b'"h"']


def request(line=LINE, headers=(HOST, TYPE), frame="CL", body=None):
    return line + b"".join(headers) + FRAME[frame] + b"\r\n" + (BODY[frame] if body is None else body)


def at_position(line, position, others):
    others = list(others)
    at = {"first": 0, "middle": len(others) // 2, "last": len(others)}[position]
    return others[:at] + [line] + others[at:]


def header_vectors():
    for name, lines in LINES.items():
        for i, line in enumerate(lines):
            for frame in FRAME:
                for position in POSITIONS:
                    headers = at_position(line, position, [HOST, TYPE, b"X-A: 1\r\n", FRAME[frame]])
                    data = LINE + b"".join(headers) + b"\r\n" + BODY[frame]
                    yield f"{name} {i} {frame} {position}", data, {400}


def framing_vectors():
    others = [HOST, TYPE, b"X-A: 1\r\n"]
    sets = [("CL", b"Content-Length", LENGTHS, {400, 413}), ("TE", b"Transfer-Encoding", CODINGS, {400, 501})]
    for frame, name, values, allowed in sets:
        for value in values:
            for position in POSITIONS:
                headers = at_position(name + b": " + value + b"\r\n", position, others)
                yield (f"{name.decode()} {value!r} {position}",
                       LINE + b"".join(headers) + b"\r\n" + BODY[frame], allowed)
    pairs = [(FRAME["CL"], b"Content-Length: 5\r\n"), (FRAME["CL"], b"Content-Length: 6\r\n"),
             (FRAME["CL"], b"content-length: 0\r\n"), (FRAME["CL"], FRAME["TE"]), (FRAME["TE"], FRAME["CL"]),
             (FRAME["TE"], FRAME["TE"]), (FRAME["TE"], b"Transfer-Encoding: identity\r\n"),
             (b"Content-Length: 0\r\n", FRAME["TE"]), (FRAME["TE"], b"Content-Length: 0\r\n")]
    for i, (a, b) in enumerate(pairs):
        for position in POSITIONS:
            headers = at_position(b, position, [a, HOST, TYPE])
            for body in BODY:
                yield (f"two framings {i} {position} {body}",
                       LINE + b"".join(headers) + b"\r\n" + BODY[body], {400})
    old = b"POST /echo HTTP/1.0\r\n"
    yield "TE in HTTP/1.0", request(old, frame="TE"), {400}
    yield "TE in HTTP/1.0 with keep-alive", request(old, (HOST, TYPE, b"Connection: keep-alive\r\n"), "TE"), {400}


def chunk_vectors():
    for size in SIZES:
        yield (f"chunk size {size!r}",
               request(frame="TE", body=size + b"\r\nhello\r\n0\r\n\r\n"), {400})
        yield (f"last chunk size {size!r}",
               request(frame="TE", body=b"1\r\nx\r\n" + size.replace(b"5", b"0") + b"\r\n\r\n"), {400})
    bodies = {
        "chunk line ends with LF": b"5\nhello\r\n0\r\n\r\n",
        "chunk ext ends with LF": b"5;a=1\nhello\r\n0\r\n\r\n",
        "chunk line CR CR": b"5\r\r\nhello\r\n0\r\n\r\n",
        "chunk data then junk": b"5\r\nhelloXX\r\n0\r\n\r\n",
        "chunk data then LF": b"5\r\nhello\n0\r\n\r\n",
        "chunk data then CR": b"5\r\nhello\r0\r\n\r\n",
        "chunk data then nothing": b"5\r\nhello0\r\n\r\n",
        "chunk longer than said": b"4\r\nhello\r\n0\r\n\r\n",
        "chunk shorter than said": b"6\r\nhello\r\n0\r\n\r\n",
        "last chunk ends with LF": b"5\r\nhello\r\n0\n\r\n",
        "end ends with LF": b"5\r\nhello\r\n0\r\n\n",
        "end is CR and junk": b"5\r\nhello\r\n0\r\n\rX",
        "too much extension": b"5;a=" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
        "too many extensions": b"1;a=1234567890123456\r\nx\r\n" * 300 + b"0\r\n\r\n",
    }
    for name, body in bodies.items():
        yield name, request(frame="TE", body=body), {400}
    for size in (b"FFFFFFFFFFFFFFFF", b"8000000000000000", b"7FFFFFFFFFFFFFFF", b"FFFFFFFF", b"10000000"):
        yield f"chunk size {size!r} overflows", request(frame="TE", body=size + b"\r\nhello\r\n0\r\n\r\n"), {413}
    for name in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: other", b"content-LENGTH: 0",
                 b"Authorization: x", b"Connection: close", b" X: 1", b"X : 1", b"X: 1\n", b"X: \0", b"\x80: 1", b": 1",
                 b"X", b"X: 1\r\n y", b"Expect: 100-continue"):
        yield (f"trailer {name!r}", request(frame="TE", body=b"5\r\nhello\r\n0\r\n" + name + b"\r\n\r\n"), {400})


def line_vectors():
    for frame in FRAME:
        for version in VERSIONS:
            yield (f"version {version!r} {frame}", request(b"POST /echo " + version + b"\r\n", frame=frame), {400, 505})
        for method in METHODS:
            yield (f"method {method!r} {frame}", request(method + b" /echo HTTP/1.1\r\n", frame=frame), {400, 501})
        for target in TARGETS:
            yield (f"target {target!r} {frame}", request(b"POST " + target + b" HTTP/1.1\r\n", frame=frame), {400})
        for host in HOSTS:
            headers = (b"Host: " + host + b"\r\n", TYPE)
            yield f"host {host!r} {frame}", request(headers=headers, frame=frame), {400}
        yield f"no host {frame}", request(headers=(TYPE,), frame=frame), {400}
        for target in (b"http://other/echo", b"http://localhost:81/echo", b"http://localhost.evil/echo",
                       b"https://127.0.0.1/echo"):
            yield (f"absolute form {target!r} is not Host {frame}",
                   request(b"POST " + target + b" HTTP/1.1\r\n", frame=frame), {400})
        for line in (b"POST /echo HTTP/1.1\n", b"POST /echo HTTP/1.1\r", b"POST  /echo HTTP/1.1\r\n",
                     b"POST /echo  HTTP/1.1\r\n", b"POST\t/echo\tHTTP/1.1\r\n", b"POST /echo\r\n", b"POST\r\n",
                     b"\nPOST /echo HTTP/1.1\r\n", b"\r\n\r\nPOST /echo HTTP/1.1\r\n", b"\rPOST /echo HTTP/1.1\r\n",
                     b"POST /echo HTTP/1.1\0\r\n"):
            yield f"line {line!r} {frame}", request(line, frame=frame), {400}


def all_vectors():
    for source in (header_vectors, framing_vectors, chunk_vectors, line_vectors):
        yield from source()
