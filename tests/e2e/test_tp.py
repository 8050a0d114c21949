"""Workers whose model is split over several ranks (--tp), and pools that are split differently: the text is that of
unsplit workers, whoever prefills, whoever decodes and whoever dies.

Each worker is a process; its ranks are threads of the cpu backend.  stories260K has 8 heads on 4 KV heads."""
import concurrent.futures
import json
import os
import signal
import subprocess
import threading

import pytest

from conftest import BATON, SANITIZED, STORIES, client, need, serve, wait_for

# Of one block and of several, with and without a last block that is full.
PROMPTS = ["Once upon a time",
           "Lily and Tom went to the park. They saw a big dog. The dog was",
           "The cat sat on the mat. " * 9,
           "One day a boy named Tim found a red ball. He was very happy and " * 4]
PAIRS = [(2, 1), (2, 4), (1, 2), (4, 1), (4, 2), (2, 2)]
TRANSPORTS = {"shm": [], "tcp": ["--kv-transports", "tcp"]}


def ask(server, prompt, n=60, **more):
    return client(server).completions.create(model="stories", prompt=prompt, max_tokens=n, temperature=0, **more)


def texts(server, n=60):
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda p: ask(server, p, n).choices[0].text, PROMPTS))


@pytest.fixture(scope="module")
def unsplit():
    """What workers with tp 1 say."""
    need(STORIES)
    with serve(STORIES, "--served-name", "stories", "--local-prefill=false") as s:
        want = texts(s)
        s.settle()
    assert all(len(t) > 40 for t in want)
    return want


def pools(prefill, decode, transport="shm"):
    return serve(STORIES, "--served-name", "stories", "--local-prefill=false", "--prefill-tp", prefill,
                 "--decode-tp", decode, *TRANSPORTS[transport])


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("prefill,decode", PAIRS, ids=[f"{p}to{d}" for p, d in PAIRS])
def test_pools_that_are_split_differently_give_the_text_of_unsplit_ones(unsplit, prefill, decode, transport):
    with pools(prefill, decode, transport) as s:
        assert texts(s) == unsplit
        assert [ask(s, p).choices[0].text for p in PROMPTS] == unsplit  # alone as in company
        log = s.log()
        assert f"path={transport}" in log
        assert f"role=prefill backend=cpu tp={prefill} " in log
        assert f"role=decode backend=cpu tp={decode} " in log
        s.settle()


def test_a_decode_worker_of_several_ranks_computes_prompts_itself(unsplit):
    """Local prefill: no hand-over, and the KV stays where its ranks wrote it."""
    with serve(STORIES, "--served-name", "stories", "--tp", 4, "--prefill", 1, "--decode", 1) as s:
        assert texts(s) == unsplit
        s.settle()


@pytest.mark.sanitize
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("prefill,decode", [(2, 1), (2, 4), (1, 2)], ids=["2to1", "2to4", "1to2"])
def test_kill_9_of_a_split_worker_costs_a_pause_and_nothing_else(prefill, decode, transport):
    need(STORIES)
    with pools(prefill, decode, transport) as s:
        request = dict(n=200, stream=True)
        want = "".join(k.choices[0].text for k in ask(s, PROMPTS[0], **request))
        assert len(want) > 200
        for role in ("decode", "prefill", "decode"):
            got, killed = "", False
            for chunk in ask(s, PROMPTS[0], **request):
                got += chunk.choices[0].text
                if len(got) > 40 and not killed:
                    s.kill_worker(role)
                    killed = True
            assert killed and got == want
            s.wait_ready()
        s.settle(30)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_workers_killed_again_and_again_lose_no_token(unsplit, role):
    """Streams side by side while workers of a kind die: some in the middle of a hand-over."""
    with serve(STORIES, "--served-name", "stories", "--local-prefill=false", "--prefill", 2, "--decode", 2,
               "--prefill-tp", 2, "--decode-tp", 4) as s:
        done = threading.Event()

        def killer():
            for _ in range(4):
                if done.wait(0.3):
                    return
                for pid in s.workers(role)[:1]:
                    os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            got = [texts(s) for _ in range(6)]
        finally:
            done.set()
            thread.join()
        assert got == [unsplit] * 6
        s.wait_ready()
        s.settle(30)


def test_status_shows_the_ranks_and_kv_paths_of_each_worker(tmp_path):
    need(STORIES)
    key = tmp_path / "admin"
    key.write_text("a key for the administrator\n")
    key.chmod(0o600)
    with serve(STORIES, "--served-name", "stories", "--prefill-tp", 2, "--admin-key-file", key) as s:
        def workers(**env):
            out = subprocess.run([str(BATON), "status", s.url, "--json"], capture_output=True, text=True, timeout=60,
                                 env={**os.environ, **env})
            assert out.returncode == 0, out.stderr
            return {w["role"]: w for w in json.loads(out.stdout)["workers"]}

        wait_for(lambda: any(k.startswith("baton_kv_link") for k in s.metrics()), 20)
        with_key, plain = workers(BATON_ADMIN_KEY="a key for the administrator"), workers()
        assert {r: w["class"] for r, w in with_key.items()} == {"prefill": "stories/cpu/tp2", "decode": "stories/cpu"}
        for got in with_key, plain:
            assert {r: (w["tp"], w["kv_paths"]) for r, w in got.items()} == {"prefill": (2, "shm"), "decode": (1, "shm")}


@pytest.mark.parametrize("args,why", [
    (["--tp", "3"], "tp 3 does not divide the model's 4 key/value heads; possible with this model: 1, 2, 4"),
    (["--decode-tp", "8"], "tp 8 does not divide the model's 4 key/value heads; possible with this model: 1, 2, 4"),
    (["--tp", "2", "--backend", "sim"], "sim: tp is 2"),
])
def test_what_cannot_be_split_is_refused_at_the_start_by_name(args, why):
    need(STORIES)
    out = subprocess.run([str(BATON), "serve", str(STORIES), "--port", "0", *args], capture_output=True, text=True,
                         timeout=60)
    assert out.returncode == 1
    assert why in out.stdout + out.stderr


@pytest.mark.parametrize("args", [["--tp", "0"], ["--tp", "65"], ["--prefill-tp", "65"], ["--decode-tp", "-1"]])
def test_a_number_of_ranks_out_of_range_is_a_wrong_option(args):
    out = subprocess.run([str(BATON), "serve", *args], capture_output=True, text=True, timeout=60)
    assert out.returncode == 2
    assert args[0].strip("-").replace("-", "_") in out.stderr and "64" in out.stderr


@pytest.mark.skipif(SANITIZED, reason="measures")
def test_perf_measures_a_split_engine():
    need(STORIES)
    out = subprocess.run([str(BATON), "perf", "profile", str(STORIES), "--tp", "2", "--seconds", "0.5", "--json"],
                         capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert "prefill" in out.stdout
    out = subprocess.run([str(BATON), "perf", "profile", str(STORIES), "--tp", "3"], capture_output=True, text=True,
                         timeout=60)
    assert out.returncode == 1 and "does not divide" in out.stderr
