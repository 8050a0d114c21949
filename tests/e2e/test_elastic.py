"""`baton serve --elastic`: idle workers change their role as the load shifts, and no request notices."""
import json
import stat
import threading
import time

import pytest

from conftest import DEMO, PATIENCE, SANITIZED, serve
from test_tiers import send

# A machine on which each stream costs a decode step much: so decode needs company as streams come.  Its steps
# are slow, so that a busy test machine adds little to them.
PROFILE = """prefill_base_ms: 2.7
prefill_token_ms: 0.02
decode_base_ms: 15
decode_slot_ms: 1.5
max_context: 32768
"""
CLASS = """name: sim/sim
prefill: {step_us: 2700, token_us: 20}
decode: {step_us: 15000, sequence_us: 1500}
"""
CONFIG = "tiers:\n  - {name: only, ttft_ms: 30000, tbt_ms: 60, on_miss: wait}\n"
SECONDS = 40 * PATIENCE


@pytest.fixture
def elastic(tmp_path):
    """Two workers of each kind; a command that notes what the planner wants."""
    for name, text in (("profile", PROFILE), ("class", CLASS), ("config", CONFIG)):
        (tmp_path / f"{name}.yaml").write_text(text)
    noted = tmp_path / "noted"
    command = tmp_path / "note"
    command.write_text(f"#!/bin/sh\necho \"$@\" >> {noted}\n")
    command.chmod(stat.S_IRWXU)
    with serve(DEMO, "--backend", "sim", "--served-name", "sim", "--sim-profile", tmp_path / "profile.yaml",
               "--class-file", tmp_path / "class.yaml", "--config", tmp_path / "config.yaml",
               "--prefill", 2, "--decode", 2, "--max-context", 16384, "--kv-mib", 64, "--elastic",
               "--elastic-interval-ms", 200, "--elastic-cooldown-ms", 1000, "--scale-command", command) as s:
        s.noted = noted
        yield s


class Load:
    """Clients that each ask again when they have their answer."""

    def __init__(self, s, clients, prompt, out):
        self.s, self.prompt, self.out = s, prompt, out
        self.stop, self.answers, self.bad = threading.Event(), 0, []
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(clients)]

    def run(self, i):
        k = 0
        while not self.stop.is_set():
            status, _, body = send(self.s, self.prompt, salt=1000 * i + k, out=self.out)
            k += 1
            self.answers += 1
            if status != 200 or json.loads(body)["usage"]["completion_tokens"] != self.out:
                self.bad.append((status, body[:300]))

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *failure):
        self.stop.set()
        for t in self.threads:
            t.join()


def pools(s):
    m = s.metrics()
    return m['baton_planner_workers{role="prefill"}'], m['baton_planner_workers{role="decode"}']


def wait_for(s, want):
    deadline = time.monotonic() + SECONDS
    while not want(*pools(s)):
        assert time.monotonic() < deadline, f"{pools(s)}\n{s.log()[-3000:]}"
        time.sleep(0.1)


@pytest.mark.skipif(SANITIZED, reason="modelled times need a machine that keeps up")
def test_roles_follow_the_load_and_no_request_fails(elastic):
    s = elastic
    pids = s.workers("prefill") + s.workers("decode")
    with Load(s, 8, 8000, 2) as prompts:
        wait_for(s, lambda prefill, decode: prefill == 3 and decode == 1)
        time.sleep(1)
    assert prompts.answers > 8 and prompts.bad == []
    with Load(s, 40, 16, 60) as answers:
        wait_for(s, lambda prefill, decode: decode >= 2 and prefill + decode == 4)
        time.sleep(1)
    assert answers.answers > 0 and answers.bad == []
    assert s.workers("prefill") + s.workers("decode") == pids  # the same processes, with the model they had
    m = s.metrics()
    assert m["baton_planner_flips_total"] >= 2
    assert not any(v for k, v in m.items() if k.startswith("baton_refusals_total"))
    assert sum(v for k, v in m.items() if k.startswith("baton_requests_total") and "failed" in k) == 0
    assert s.log().count("worker drains to change its role") >= 2 and "drained_s=" in s.log()
    assert "worker died" not in s.log() and "worker restarts" not in s.log()
    lines = [list(map(int, line.split())) for line in s.noted.read_text().splitlines()]
    assert lines and all(len(line) == 4 and sum(line[2:]) in (3, 4) for line in lines), lines
    assert any(line[0] > 2 for line in lines)  # it asked for more prefill while prompts were many
    s.settle()
    # and whoever changed its role still serves alone what it did before
    assert send(s, 100, out=20)[0] == 200
