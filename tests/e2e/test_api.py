"""The OpenAI surface against the real binary with the official client: what an application developer sees."""
import concurrent.futures
import json
import socket

import openai
import pytest

from conftest import DEMO, STORIES, client, need, serve
import sim_model

README_STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red\nball. She wanted to play with it, but it was too high.")


@pytest.fixture(scope="module")
def stories():
    need(STORIES)
    with serve(STORIES, "--served-name", "stories") as s:
        yield s


@pytest.fixture(scope="module")
def sim():
    with serve(DEMO, "--backend", "sim", "--served-name", "sim", "--max-batch", 128) as s:
        yield s


@pytest.mark.sanitize
def test_greedy_story_matches_the_reference_word_for_word(stories):
    r = client(stories).completions.create(
        model="stories", prompt="Once upon a time", max_tokens=60, temperature=0)
    want = README_STORY[len("Once upon a time"):]
    got = r.choices[0].text
    assert " ".join(got.split()).startswith(" ".join(want.split())[:100]), got
    assert " ".join(want.split()).startswith(" ".join(got.split())[:100]) or len(got) >= 100
    assert r.usage.prompt_tokens == 5
    assert r.usage.completion_tokens == 60
    assert r.choices[0].finish_reason == "length"


def test_streamed_text_equals_the_whole(stories):
    c = client(stories)
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=40, temperature=0)
    whole = c.completions.create(**ask).choices[0].text
    parts, finish, usage = [], [], None
    for chunk in c.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
            assert chunk.choices == []
            continue
        parts.append(chunk.choices[0].text)
        if chunk.choices[0].finish_reason:
            finish.append(chunk.choices[0].finish_reason)
    assert "".join(parts) == whole
    assert finish == ["length"]
    assert usage.completion_tokens == 40 and usage.prompt_tokens == 5


def test_chat_streams_role_with_the_first_text(stories):
    chunks = list(client(stories).chat.completions.create(
        model="stories", messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=8,
        temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content
    assert all(c.choices[0].delta.role is None for c in chunks[1:])
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert len({c.id for c in chunks}) == 1


def test_sampling_with_a_seed_repeats_and_without_differs(stories):
    c = client(stories)
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=24, temperature=1.0)
    a, b = (c.completions.create(**ask, seed=7).choices[0].text for _ in range(2))
    assert a == b
    assert len({c.completions.create(**ask).choices[0].text for _ in range(4)}) > 1


def test_n_choices_come_back_in_order_and_differ(stories):
    r = client(stories).completions.create(
        model="stories", prompt="Once upon a time", max_tokens=16, temperature=1.0, n=4, seed=1)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert len({c.text for c in r.choices}) > 1
    assert r.usage.completion_tokens == 64


def test_stop_string_across_token_borders_is_cut(stories):
    c = client(stories)
    r = c.completions.create(model="stories", prompt="Once upon a time", max_tokens=60, temperature=0,
                             stop=["little girl named L"])
    assert r.choices[0].text == ", there was a "
    assert r.choices[0].finish_reason == "stop"
    text = "".join(k.choices[0].text for k in c.completions.create(
        model="stories", prompt="Once upon a time", max_tokens=60, temperature=0, stream=True,
        stop=["girl named L", "zzz"]))
    assert text == ", there was a little "


def test_logprobs_have_the_promised_shape(stories):
    c = client(stories)
    r = c.chat.completions.create(model="stories", messages=[{"role": "user", "content": "Once upon a time"}],
                                  max_tokens=5, temperature=0, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == 5
    for t in content:
        assert len(t.top_logprobs) == 3
        assert t.logprob <= 0
        assert t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob
        assert abs(t.top_logprobs[0].logprob - t.logprob) < 1e-5  # greedy takes the most likely
    assert b"".join(bytes(t.bytes) for t in content).decode().strip() == r.choices[0].message.content.strip()
    r = c.completions.create(model="stories", prompt="Once upon a time", max_tokens=4, temperature=0, logprobs=2)
    lp = r.choices[0].logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.text_offset) == 4
    assert "".join(lp.tokens) == r.choices[0].text


def test_penalties_and_bias_change_the_output(stories):
    c = client(stories)
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=40, temperature=0)
    plain = c.completions.create(**ask).choices[0].text
    assert c.completions.create(**ask, frequency_penalty=2.0, presence_penalty=2.0).choices[0].text != plain
    assert c.completions.create(**ask, extra_body={"repetition_penalty": 1.5}).choices[0].text != plain
    first = c.completions.create(**ask, logprobs=1, extra_body={"return_token_ids": True})
    token = first.choices[0].model_dump().get("token_ids")[0]
    assert c.completions.create(**ask, logit_bias={str(token): -100}).choices[0].text != plain


def test_echo_gives_the_prompt_first(stories):
    r = client(stories).completions.create(
        model="stories", prompt="Once upon a time", max_tokens=4, temperature=0, echo=True)
    assert r.choices[0].text.startswith("Once upon a time, there")


@pytest.mark.sanitize
def test_tokens_are_exactly_those_of_the_closed_form(sim, sim_range):
    """With sim workers one lost, doubled or foreign token or block would change every token behind it."""
    c = client(sim)

    def one(i):
        prompt = [300 + (i * 37 + k) % 900 for k in range(1 + i * 13 % 400)]
        n = 1 + i * 7 % 90
        r = c.completions.create(model="sim", prompt=prompt, max_tokens=n,
                                 extra_body={"return_token_ids": True, "ignore_eos": True})
        assert r.choices[0].model_dump()["token_ids"] == sim_model.generate(prompt, n, *sim_range), i
        return n

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(one, range(120))) > 4000
    sim.settle()


def test_several_prompts_in_one_request(sim):
    r = client(sim).completions.create(model="sim", prompt=[[300, 301], [302], [303, 304, 305]], max_tokens=3, n=2)
    assert [c.index for c in r.choices] == list(range(6))
    assert r.usage.prompt_tokens == 6 and r.usage.completion_tokens == 18


def test_errors_are_the_ones_clients_know(sim):
    c = client(sim)
    with pytest.raises(openai.NotFoundError) as e:
        c.completions.create(model="nope", prompt="x")
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as e:
        c.completions.create(model="sim", prompt=[300] * 5000, max_tokens=5)
    assert e.value.code == "context_length_exceeded" and "maximum context length" in e.value.message
    for bad, param in (({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 0}, "n"),
                       ({"n": 17}, "n"), ({"stop": [""]}, "stop"), ({"max_tokens": -1}, "max_tokens"),
                       ({"service_tier": "platinum"}, "service_tier")):
        with pytest.raises(openai.BadRequestError) as e:
            c.completions.create(model="sim", prompt="x", extra_body=bad)
        assert e.value.param == param and e.value.type == "invalid_request_error"
    for field, value in (("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
                         ("response_format", {"type": "json_object"})):
        with pytest.raises(openai.BadRequestError) as e:
            c.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}],
                                      extra_body={field: value})
        assert field in e.value.message
    with pytest.raises(openai.BadRequestError):
        c.chat.completions.create(model="sim", messages=[])


def test_service_tier_is_echoed(sim):
    c = client(sim)
    ask = dict(model="sim", messages=[{"role": "user", "content": "hi"}], max_tokens=2)
    assert c.chat.completions.create(**ask, service_tier="flex").service_tier == "flex"
    assert c.chat.completions.create(**ask, service_tier="priority").service_tier == "priority"
    raw = c.chat.completions.with_raw_response.create(**ask, extra_body={"service_tier": "bronze"})
    assert raw.headers["x-baton-tier"] == "bronze"
    assert raw.parse().service_tier == "bronze"


def test_small_routes(sim):
    assert sim.get("/health")[0] == 200 and sim.get("/live")[0] == 200 and sim.get("/ready")[0] == 200
    assert "version" in json.loads(sim.get("/version")[1])
    c = client(sim)
    assert [m.id for m in c.models.list()] == ["sim"]
    assert c.models.retrieve("sim").id == "sim"
    with pytest.raises(openai.NotFoundError):
        c.models.retrieve("other")
    status, body = sim.post("/tokenize", {"model": "sim", "prompt": "Hello there"})
    tokens = json.loads(body)["tokens"]
    assert status == 200 and json.loads(body)["count"] == len(tokens) > 0
    status, body = sim.post("/detokenize", {"model": "sim", "tokens": tokens})
    assert json.loads(body)["prompt"] == "Hello there"
    assert sim.get("/nothing")[0] == 404
    assert sim.get("/v1/chat/completions")[0] == 405


def test_request_id_is_kept_or_made(sim):
    import urllib.request
    request = urllib.request.Request(sim.url + "/live", headers={"X-Request-Id": "abc-123"})
    assert urllib.request.urlopen(request).headers["x-request-id"] == "abc-123"
    made = urllib.request.urlopen(sim.url + "/live").headers["x-request-id"]
    assert made and made != urllib.request.urlopen(sim.url + "/live").headers["x-request-id"]


def test_pipelined_requests_are_answered_in_order(sim):
    body = json.dumps({"model": "sim", "prompt": [300, 301], "max_tokens": 3}).encode()
    one = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
           b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
    with socket.create_connection(("127.0.0.1", sim.port), timeout=10) as s:
        s.sendall(one * 5 + b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
    assert got.count(b"HTTP/1.1 200") == 6 and b'"server":"baton"' in got.split(b"HTTP/1.1 200")[-1]


def test_metrics_tell_what_happened(stories):
    before = stories.settle()
    client(stories).completions.create(model="stories", prompt=[400] * 50, max_tokens=100,
                                       extra_body={"ignore_eos": True})
    after = stories.settle()

    def grew(prefix):
        return sum(v - before.get(k, 0) for k, v in after.items() if k.startswith(prefix))

    assert grew("vllm:prompt_tokens_total") == 50
    assert grew("vllm:generation_tokens_total") == 100
    assert grew("vllm:request_success_total") == 1
    assert grew("baton_ttft_seconds_count") == 1
    assert grew("baton_handover_exposed_seconds_count") == 1
    assert any(k.startswith("baton_worker_up") and v == 1 for k, v in after.items())


def test_one_log_line_per_request_without_its_text(sim):
    client(sim).completions.create(model="sim", prompt="a canary in the mine", max_tokens=3,
                                   extra_headers={"X-Request-Id": "find-me"})
    lines = [line for line in sim.log().splitlines() if "find-me" in line]
    assert len(lines) == 1 and "canary" not in sim.log()
    for field in ("outcome=ok", "prefill_ms=", "exposed_ms=", "ttft_ms=", "tier=", "completion_tokens=3"):
        assert field in lines[0]


def test_the_demo_model_says_what_its_reference_says():
    golden = json.loads((DEMO.parent / "golden.json").read_text())
    with serve("--served-name", "demo") as s:
        for case in golden["cases"]:
            r = client(s).chat.completions.create(
                model="demo", messages=case["messages"], max_tokens=48, temperature=0,
                extra_body={"return_token_ids": True})
            ids = r.choices[0].model_dump()["token_ids"]
            assert ids == case["continuation_ids"], (case["messages"], r.choices[0].message.content)
            assert r.usage.prompt_tokens == len(case["prompt_ids"])
            assert r.choices[0].finish_reason == case["finish_reason"]


def test_a_final_message_can_be_continued():
    with serve("--served-name", "demo") as s:
        def tokens(**body):
            status, raw = s.post("/tokenize", {"model": "demo", **body})
            return json.loads(raw).get("tokens") if status == 200 else status

        chat = [{"role": "user", "content": "What is TTFT?"}, {"role": "assistant", "content": "TTFT means time to"}]
        ids = tokens(messages=chat, continue_final_message=True, add_generation_prompt=False)
        text = json.loads(s.post("/detokenize", {"tokens": ids, "skip_special_tokens": False})[1])["prompt"]
        assert text.endswith("TTFT means time to")
        r = client(s).chat.completions.create(model="demo", messages=chat, max_tokens=3, temperature=0, extra_body={
            "continue_final_message": True, "add_generation_prompt": False})
        assert r.choices[0].message.content.startswith(" first token")
        chat[1]["content"] = ""
        with pytest.raises(openai.BadRequestError) as e:
            client(s).chat.completions.create(model="demo", messages=chat, extra_body={
                "continue_final_message": True, "add_generation_prompt": False})
        assert e.value.param == "continue_final_message"


def test_the_default_length_is_cut_to_the_context_and_a_wish_is_not(stories):
    c = client(stories)
    r = c.completions.create(model="stories", prompt=[400] * 505)
    assert r.usage.completion_tokens <= 7
    with pytest.raises(openai.BadRequestError) as e:
        c.completions.create(model="stories", prompt=[400] * 505, max_tokens=16)
    assert e.value.code == "context_length_exceeded" and e.value.param == "prompt"


def test_echo_alone_is_streamed_too(stories):
    chunks = list(client(stories).completions.create(
        model="stories", prompt="Once upon", max_tokens=0, echo=True, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "Once upon"
    assert [c.choices[0].finish_reason for c in chunks][-1] == "length"


@pytest.mark.sanitize
def test_long_texts_are_tokenized_and_clients_may_leave_meanwhile():
    with serve(DEMO, "--backend", "sim", "--served-name", "sim") as s:
        text = "time to first token " * 30000
        status, raw = s.post("/tokenize", {"model": "sim", "prompt": text})
        ids = json.loads(raw)["tokens"]
        assert status == 200 and json.loads(s.post("/detokenize", {"tokens": ids})[1])["prompt"] == text
        body = json.dumps({"model": "sim", "prompt": text}).encode()
        for path in (b"/tokenize", b"/v1/completions"):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", s.port), timeout=10) as c:
                    c.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                              b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        s.settle()
        assert s.post("/tokenize", {"model": "sim", "prompt": "short"})[0] == 200


def test_a_stream_says_each_header_once(sim):
    import urllib.request
    body = json.dumps({"model": "sim", "prompt": [300], "max_tokens": 2, "stream": True}).encode()
    request = urllib.request.Request(sim.url + "/v1/completions", data=body,
                                     headers={"Content-Type": "application/json"})
    names = [name.lower() for name, _ in urllib.request.urlopen(request).getheaders()]
    assert len(names) == len(set(names)), names
    assert "cache-control" in names and "x-accel-buffering" in names
