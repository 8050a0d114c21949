#!/usr/bin/env python3
"""Writes the seed corpora of the HTTP and request fuzz targets: one vector of each class, and bodies that
reach each reader.  Run it after adding vectors; the files are kept in tests/fuzz/corpus."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import http_vectors  # noqa: E402

CORPUS = pathlib.Path(__file__).resolve().parents[1] / "fuzz" / "corpus"

BODIES = [
    (0, b'{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":1,"max_tokens":5,'
        b'"stop":["a","b"],"logit_bias":{"5":-100},"stream":true,"stream_options":{"include_usage":true},"seed":-1}'),
    (0, b'{"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text",'
        b'"text":"\\u00e4\\ud83d\\ude00"}]},{"role":"assistant","content":null},{"role":"tool","content":"x"}],'
        b'"logprobs":true,"top_logprobs":20,"n":3,"max_completion_tokens":7,"min_tokens":2}'),
    (0, b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[],"tool_choice":"auto","functions":null,'
        b'"response_format":{"type":"text"},"modalities":["text"],"metadata":{"a":[1,2,{"b":null}]},'
        b'"continue_final_message":true,"add_generation_prompt":false,"priority":-5,"service_tier":"flex","user":"u"}'),
    (1, b'{"model":"m","prompt":[1,2,3,99],"max_tokens":0,"echo":true,"best_of":1,"suffix":null,"logprobs":null}'),
    (1, b'{"model":"m","prompt":["a","b\\n"],"n":2,"logprobs":5,"stop_token_ids":[1],"ignore_eos":true,"top_k":-1}'),
    (1, b'{"model":"m","prompt":[[1,2],[3]],"min_p":0.1,"repetition_penalty":1.1,"presence_penalty":-2,'
        b'"frequency_penalty":2.0,"include_stop_str_in_output":true,"skip_special_tokens":false,"return_token_ids":true}'),
    (1, b'{"model":"m","prompt":"\\"\\\\\\/\\b\\f\\n\\r\\t","temperature":1e-400,"top_p":1e-50,"seed":9223372036854775808}'),
    (2, b'{"prompt":"hello","add_special_tokens":false,"return_token_strs":true}'),
    (2, b'{"content":"hello","add_special":true,"with_pieces":true}'),
    (2, b'{"messages":[{"role":"user","content":"x"}],"add_generation_prompt":false}'),
    (3, b'{"tokens":[1,2,3]}'), (3, b'{"tokens":[]}'),
    (0, b'[[[[{"a":[{"b":{}}]}]]]]'), (0, b'{"a":1,"\\u0061":2}'), (0, b'"\\ud800"'), (0, b'-0.0e+00'), (0, b'\xef\xbb\xbf{}'),
]


def main():
    seen = set()
    for i, (name, data, _) in enumerate(http_vectors.all_vectors()):
        key = name.split(" 0 ")[0].split("'")[0].rsplit(" ", 1)[0] if "'" not in name else name.split("'")[0]
        if (key, len(data) // 400) in seen or len(data) > 1500:
            continue
        seen.add((key, len(data) // 400))
        (CORPUS / "http" / f"refused-{i:04}").write_bytes(data)
    good = [http_vectors.request(frame=f) for f in ("CL", "TE")]
    good.append(good[0] + b"GET /a%20b?x=y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + good[1])
    good.append(http_vectors.request(frame="TE", body=b"2;a;b=\"c\"\r\nhe\r\n3;d=1\r\nllo\r\n0\r\nX: y\r\n\r\n"))
    good.append(b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\nHEAD http://h:1/x HTTP/1.0\r\nHost: h:1\r\nConnection: keep-alive\r\n\r\n")
    for i, data in enumerate(good):
        (CORPUS / "http" / f"good-{i}").write_bytes(data)
    for i, (kind, body) in enumerate(BODIES):
        (CORPUS / "api_request" / f"body-{i:02}").write_bytes(bytes([kind + 16]) + body)


main()
