"""The JSON parsing suite, posted at every endpoint that takes JSON: 95 texts are JSON and refused only for
what they say, 188 are not and get 400, 35 follow the policy below.  Never a 5xx, a crash or a hang.

With BATON_HTTP_TARGET=host:port it runs against a server that is up; else against http_echo, which reads
bodies with the same code."""

import json
import os
import pathlib
import tarfile

import pytest
from http_client import ROOT, server, split_responses, target  # noqa: F401

ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]

# What the grammar leaves open.  True: it is JSON here (numbers are read as far as a field asks for them);
# False: invalid UTF-8, UTF-16, byte order mark, lone surrogates, nesting beyond 64.
POLICY = {
    "i_number_double_huge_neg_exp.json": True, "i_number_huge_exp.json": True,
    "i_number_neg_int_huge_exp.json": True, "i_number_pos_double_huge_exp.json": True,
    "i_number_real_neg_overflow.json": True, "i_number_real_pos_overflow.json": True,
    "i_number_real_underflow.json": True, "i_number_too_big_neg_int.json": True,
    "i_number_too_big_pos_int.json": True, "i_number_very_big_negative_int.json": True,
    "i_object_key_lone_2nd_surrogate.json": False, "i_string_1st_surrogate_but_2nd_missing.json": False,
    "i_string_1st_valid_surrogate_2nd_invalid.json": False, "i_string_UTF-16LE_with_BOM.json": False,
    "i_string_UTF-8_invalid_sequence.json": False, "i_string_UTF8_surrogate_U+D800.json": False,
    "i_string_incomplete_surrogate_and_escape_valid.json": False, "i_string_incomplete_surrogate_pair.json": False,
    "i_string_incomplete_surrogates_escape_valid.json": False, "i_string_invalid_lonely_surrogate.json": False,
    "i_string_invalid_surrogate.json": False, "i_string_invalid_utf-8.json": False,
    "i_string_inverted_surrogates_U+1D11E.json": False, "i_string_iso_latin_1.json": False,
    "i_string_lone_second_surrogate.json": False, "i_string_lone_utf8_continuation_byte.json": False,
    "i_string_not_in_unicode_range.json": False, "i_string_overlong_sequence_2_bytes.json": False,
    "i_string_overlong_sequence_6_bytes.json": False, "i_string_overlong_sequence_6_bytes_null.json": False,
    "i_string_truncated-utf-8.json": False, "i_string_utf16BE_no_BOM.json": False,
    "i_string_utf16LE_no_BOM.json": False, "i_structure_500_nested_arrays.json": False,
    "i_structure_UTF-8_BOM_empty_object.json": False,
}

# JSON, but parsers differ in what it says: refused by policy, in words of its own.
DUPLICATE_KEYS = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def suite():
    shared = pathlib.Path(os.environ.get("BATON_SHARED", ROOT.parent / "shared"))
    path = shared / "corpora" / "json_test_suite.tar.xz"
    if not path.exists():
        return []
    with tarfile.open(path) as tar:
        return [(pathlib.PurePath(m.name).name, tar.extractfile(m).read()) for m in tar if m.name.endswith(".json")]


SUITE = suite()


def test_the_suite_is_whole():
    if not SUITE:
        pytest.skip("the JSON suite is not there: set BATON_SHARED")
    names = [name for name, _ in SUITE]
    assert [sum(n.startswith(k) for n in names) for k in ("y_", "n_", "i_")] == [95, 188, 35]
    assert {n for n in names if n.startswith("i_")} == set(POLICY)


def post(server, path, body):
    """One connection for each body, so that an answer is never somebody else's."""
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    with server.connect(timeout=20) as s:
        s.sendall(head + body)
        data = b""
        while block := s.recv(65536):
            data += block
    (status, _, answer), = split_responses(data)
    return status, answer


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name,body", SUITE, ids=[name for name, _ in SUITE])
def test_suite(target, path, name, body):
    status, answer = post(target, path, body)
    error = json.loads(answer)["error"] if status != 200 else None
    assert status < 500
    if error:
        assert set(error) == {"message", "type", "param", "code"}
    if name in DUPLICATE_KEYS:
        assert status == 400 and error["code"] == "duplicate_key"
    elif name == "i_structure_500_nested_arrays.json":
        assert status == 400 and error["code"] == "json_too_complex"
    elif name[0] == "y" or POLICY.get(name, False):
        assert error is None or error["code"] != "invalid_json", answer
    else:  # bounds may be hit before the grammar is
        assert status == 400 and error["code"] in ("invalid_json", "json_too_complex"), answer


def wrapped(value):
    return b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "ignored": ' + value + b"}"


@pytest.mark.parametrize("body,good", [
    (wrapped(b"[" * 63 + b"]" * 63), True), (wrapped(b"[" * 64 + b"]" * 64), False),
    (wrapped(b"{" + b",".join(b'"%d":1' % i for i in range(1024)) + b"}"), True),
    (wrapped(b"{" + b",".join(b'"%d":1' % i for i in range(1025)) + b"}"), False),
    (wrapped(b"[" + b"1," * 999900 + b"1]"), True), (wrapped(b"[" + b"1," * 1000000 + b"1]"), False),
    (wrapped(b'{"a":1,"\\u0061":2}'), False), (wrapped(b'{"":1,"":2}'), False),
    (wrapped(b"NaN"), False), (wrapped(b"-Infinity"), False), (wrapped(b"1e999"), True),
    (b"\xef\xbb\xbf" + wrapped(b"1"), False), (wrapped(b"1") + b" x", False), (wrapped(b"1") + b"\0", False),
    (wrapped(b'"\\u0000"'), True), (wrapped(b"[" * 1000000), False), (b"", False), (wrapped(b"'a'"), False)],
    ids=lambda v: str(v)[:20])
def test_bounds_of_a_body(target, body, good):
    status, answer = post(target, "/v1/chat/completions", body)
    assert status < 500
    code = json.loads(answer).get("error", {}).get("code")
    assert (code not in ("invalid_json", "duplicate_key", "json_too_complex")) == good, answer
