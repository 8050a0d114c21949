"""`baton simulate`: results under their documented names, byte for byte the same every time.

Golden runs: tests/golden/simulate/NAME.json is the whole standard output of the command below.  When a policy or the
simulator changes on purpose, write them anew and look at the difference:
    BATON_GOLDEN=write python -m pytest tests/e2e/test_simulate.py -k golden
"""
import json
import os
import re
import signal
import subprocess

import pytest

from conftest import BATON, PATIENCE, ROOT, SHARED

CLUSTER = ROOT / "deploy/clusters/h100-8b.yaml"
GOLDEN = ROOT / "tests/golden/simulate"
BLOCKS = GOLDEN / "blocks.jsonl"


def simulate(*args, cluster=CLUSTER, timeout=280):
    return subprocess.run([str(BATON), "simulate", "--cluster", str(cluster), *map(str, args)], capture_output=True,
                          text=True, timeout=timeout, cwd=ROOT)


def results(*args):
    out = simulate(*args, "--json", "--quiet")
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""
    return {row["name"]: row["value"] for row in json.loads(out.stdout)["results"]}


GOLDEN_RUNS = {
    "poisson": ["--trace", "synthetic", "--rate", "110", "--duration", "40", "--warmup", "5", "--policy", "all"],
    "blocks": ["--trace", "tests/golden/simulate/blocks.jsonl", "--speedup", "3", "--duration", "60", "--prefill", "2",
               "--decode", "2", "--seed", "3", "--seeds", "2", "--noise", "0.1", "--bias", "1.1", "--stale", "0.3",
               "--kill", "4@20-30", "--slow", "1@10x1.5-40"],
}


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_golden_runs_give_the_same_bytes_as_ever(name):
    out = simulate(*GOLDEN_RUNS[name], "--json", "--quiet")
    assert out.returncode == 0, out.stderr
    path = GOLDEN / f"{name}.json"
    if os.environ.get("BATON_GOLDEN") == "write":
        path.write_text(out.stdout)
    assert out.stdout == path.read_text()


def test_clients_that_ask_for_exactly_what_they_get_tell_the_scheduler_how_long_answers_are():
    load = ["--trace", "synthetic", "--rate", "60", "--duration", "40", "--warmup", "20", "--no-bound"]
    told, guessed = results(*load, "--max-new", "exact"), results(*load)
    for tier in ("gold", "silver", "bronze"):
        error = f"mape.length.{tier}"
        assert [v for k, v in told.items() if k.endswith(error)] < [0.5 * v for k, v in guessed.items() if k.endswith(error)]
    out = simulate("--trace", "synthetic", "--rate", "1", "--max-new", "about")
    assert out.returncode == 2 and "--max-new" in out.stderr and "exact" in out.stderr


@pytest.mark.sanitize
def test_every_invariant_holds_after_every_event_while_workers_die_and_slow_down():
    out = simulate("--trace", BLOCKS, "--speedup", "4", "--duration", "20", "--warmup", "1", "--prefill", "2",
                   "--decode", "2", "--noise", "0.2", "--kill", "1@5-9", "--kill", "3@8-12", "--slow", "4@3x2-15",
                   "--check", "--json", "--quiet")
    assert out.returncode == 0, out.stderr


@pytest.mark.parametrize("seed", [1, 2])
def test_far_beyond_capacity_promises_are_kept_where_kv_has_more_room_than_steps_have_time(seed):
    """A decode worker with room for millions of tokens: what bounds it is time.  Capacity is about 17 req/s."""
    def run(rate):
        out = simulate("--trace", "synthetic", "--arrival", "poisson", "--in", "1155:1", "--out", "211:0.8", "--rate",
                       rate, "--duration", 120, "--seed", seed, "--tiers", "5/25/70", "--no-bound", "--json", "--quiet",
                       cluster=ROOT / "bench/compare/cluster.yaml")
        assert out.returncode == 0, out.stderr
        return {r["name"].split("x1.")[1]: r["value"] for r in json.loads(out.stdout)["results"]}

    at_capacity = run(17)
    for rate in (34, 68, 170):
        got = run(rate)
        assert got["broken_promises"] <= 0.02, rate
        assert got["attainment.gold"] >= 0.95, rate
        assert got["goodput.weighted"] >= 0.95 * at_capacity["goodput.weighted"], rate


@pytest.mark.parametrize("rate", [51, 68, 102])
def test_an_overload_of_all_tiers_breaks_no_promises_where_steps_have_no_time(rate, tmp_path):
    """A fifth of it gold: three to six times what this pair can do.  Looser streams are skipped for tighter ones, so
    that they are still there when more of those have come."""
    records = tmp_path / "records.jsonl"
    out = simulate("--trace", "synthetic", "--arrival", "poisson", "--in", "1155:1", "--out", "211:0.8", "--rate",
                   rate, "--duration", 90, "--warmup", 0, "--no-bound", "--records", records, "--quiet",
                   cluster=ROOT / "bench/compare/cluster.yaml")
    assert out.returncode == 0, out.stderr
    rows = [row for row in map(json.loads, records.read_text().splitlines()) if row["admitted"]]
    weight = sum({"gold": 4, "silver": 2, "bronze": 1}[row["tier"]] for row in rows if row["kept"])
    assert weight > 50 * 90  # 29.5 a second without overload
    for tier in ("gold", "silver", "bronze"):
        kept = [row["kept"] for row in rows if row["tier"] == tier]
        assert kept.count(False) <= 1 + 0.02 * len(kept), tier  # a loose tier that starves is let in one by one


def test_a_worker_may_die_while_it_changes_its_role(tmp_path):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("".join(line for line in CLUSTER.read_text().splitlines(True) if not line.startswith("flip_s:"))
                       + "flip_s: 10\n")
    run = ["--trace", "synthetic", "--arrivals", "gamma:2", "--rate", "90", "--duration", "30", "--warmup", "1",
           "--prefill", "4", "--decode", "1", "--elastic", "--no-bound", "--check", "--json", "--quiet"]
    whole = simulate(*run, cluster=cluster)
    assert json.loads(whole.stdout)["results"], whole.stderr
    assert next(r["value"] for r in json.loads(whole.stdout)["results"] if r["name"].endswith(".flips")) >= 1
    for until in ("-17", ""):  # it comes back, or does not; the change is under way at 16 s
        for worker in range(1, 5):
            out = simulate(*run, "--kill", f"{worker}@16{until}", cluster=cluster)
            assert out.returncode == 0, out.stderr


def test_a_tier_without_arrivals_has_not_recovered():
    got = results("--trace", "synthetic", "--arrivals", "constant", "--rate", "0.02", "--duration", "400", "--warmup",
                  "0", "--seed", "2", "--slow", "1@100x1.5", "--no-bound")
    assert got["baton.constant.x1.recovery.gold"] > 0  # a window of 30 s with nobody in it shows nothing


@pytest.mark.parametrize("slots", [32, 64])
def test_promises_are_kept_where_steps_have_fewer_slots_than_kv_has_room_for(slots, tmp_path):
    """What bounds a decode worker here is max_batch: capacity is about 45 and 70 req/s."""
    cluster = tmp_path / "slots.yaml"
    cluster.write_text(CLUSTER.read_text().replace("max_batch: 512", f"max_batch: {slots}"))
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", "60,180", "--duration", 60,
                   "--policy", "baton,mooncake-early-reject", "--no-bound", "--json", "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    for rate in (60, 180):
        def of(policy, what):
            return got[f"{policy}.poisson-r{rate}.x1.{what}"]

        assert of("baton", "broken_promises") <= 0.02, rate
        assert of("baton", "attainment.gold") >= 0.85, rate
        assert of("baton", "goodput.weighted") >= 0.98 * of("mooncake-early-reject", "goodput.weighted"), rate


@pytest.mark.parametrize("tier, rate", [("ttft_ms: 500, ttft_factor: 3, tbt_ms: 30", 140), ("ttft_ms: 1000, tbt_ms: 60", 130)])
def test_one_tier_alone_is_served_in_an_overload(tier, rate, tmp_path):
    """Nobody looser is there to make way: 13 % were kept of the first, 82 % of those admitted were broken."""
    cluster = tmp_path / "one.yaml"
    text = CLUSTER.read_text()
    assert "\ntiers:" not in text
    cluster.write_text(text + "tiers:\n  - {name: only, %s, weight: 1, share: 10}\n" % tier)
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", rate, "--duration", 80,
                   "--policy", "baton,mooncake-early-reject", "--no-bound", "--json", "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    assert got["baton.poisson.x1.broken_promises"] <= 0.02
    assert got["baton.poisson.x1.goodput.weighted"] >= 0.98 * got["mooncake-early-reject.poisson.x1.goodput.weighted"]


def test_promises_are_kept_where_each_sequence_costs_a_step_its_own_time(tmp_path):
    """As on machines without matrix units: 18 streams fill the steps of gold, however little KV they have."""
    cluster = tmp_path / "sequences.yaml"
    prefill, decode = (ROOT / "bench/compare/cluster.yaml").read_text().split("    decode:")
    law = {"step_us": 3000, "sequence_us": 1500, "context_token_us": 0.01, "above_knee_us": 0}
    for name, value in law.items():
        decode = re.sub(rf"(?<= ){name}: .*", f"{name}: {value}", decode)
    cluster.write_text(prefill + "    decode:" + decode)
    out = simulate("--trace", "synthetic", "--in", "300:1", "--out", "100:0.8", "--rate", 8, "--duration", 120,
                   "--policy", "baton,edf", "--no-bound", "--json", "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    for tier in ("gold", "silver", "bronze"):
        assert got[f"baton.poisson.x1.broken_promises.{tier}"] <= 0.02, tier
    assert got["baton.poisson.x1.goodput.weighted"] >= got["edf.poisson.x1.goodput.weighted"]


def test_no_tier_is_without_a_first_token_for_longer_than_its_starvation_bound(tmp_path):
    """At twice capacity gold and silver could take everything; 10 s, and the time that one waits for its turn."""
    records = tmp_path / "records.jsonl"
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", 300, "--duration", 100,
                   "--records", records, "--no-bound", "--json", "--quiet")
    assert out.returncode == 0, out.stderr
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    for tier in ("gold", "silver", "bronze"):
        first = sorted(r["arrived_s"] + r["ttft_s"] for r in rows if r["tier"] == tier and r["admitted"])
        assert max(b - a for a, b in zip([0] + first, first + [100])) <= 13, tier


def test_eight_slots_are_filled_and_promises_kept(tmp_path):
    """One pair, capacity about 5 req/s: below it everybody is served, since those of looser tiers take turns."""
    cluster = tmp_path / "slots.yaml"
    cluster.write_text(CLUSTER.read_text().replace("max_batch: 512", "max_batch: 8"))
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", "5,10,20", "--duration",
                   120, "--prefill", 1, "--decode", 1, "--seeds", 2, "--no-bound", "--json", "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    assert got["baton.poisson-r5.x1.attainment.all"] >= 0.995
    for rate in (5, 10, 20):
        assert got[f"baton.poisson-r{rate}.x1.broken_promises"] <= 0.02, rate
        assert got[f"baton.poisson-r{rate}.x1.attainment.gold"] >= 0.9, rate


def test_promises_are_kept_where_links_are_slower_than_prompts(tmp_path):
    """10 GbE: a hand-over takes five times as long as its prompt, and all of them do not fit; decode workers have time
    for prompts."""
    cluster = tmp_path / "slow.yaml"
    cluster.write_text(CLUSTER.read_text().replace("link_bytes_per_s: 46e9", "link_bytes_per_s: 1.25e9"))
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", 20, "--duration", 120,
                   "--policy", "baton,always-local", "--no-bound", "--json", "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    best = got["always-local.poisson.x1.goodput.weighted"]
    assert got["baton.poisson.x1.broken_promises"] <= 0.02
    assert got["baton.poisson.x1.goodput.weighted"] >= 0.98 * best


def test_gold_comes_first_over_slow_links_that_nothing_else_relieves(tmp_path):
    """10 GbE, and decode workers compute no prompts: the links have room for 21 req/s, those of gold for a fifth of it."""
    cluster = tmp_path / "slow.yaml"
    cluster.write_text(CLUSTER.read_text().replace("link_bytes_per_s: 46e9", "link_bytes_per_s: 1.25e9"))
    out = simulate("--trace", "synthetic", "--in", "1155:0.99", "--out", "211:0.86", "--rate", "10,20,40", "--duration",
                   120, "--no-local-prefill", "--policy", "baton,edf,mooncake-early-reject", "--no-bound", "--json",
                   "--quiet", cluster=cluster)
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    for rate, gold in ((10, 0.99), (20, 0.97), (40, 0.93)):
        def of(policy, what):
            return got[f"{policy}.poisson-r{rate}.x1.{what}"]

        assert of("baton", "attainment.gold") >= gold, rate
        assert of("baton", "broken_promises") <= 0.02, rate
        assert of("edf", "attainment.gold") >= 0.95 or rate == 40  # the class decides on the wire, whatever the policy
        for baseline in ("edf", "mooncake-early-reject"):
            assert of("baton", "goodput.weighted") >= of(baseline, "goodput.weighted"), (rate, baseline)


def test_short_answers_that_come_all_at_once_keep_their_time_between_tokens(tmp_path):
    """200 at a time; one in twenty has two tokens, and cannot wait for a long piece of a prompt on its decode worker."""
    trace = tmp_path / "burst.csv"
    lines = [f"2023-11-16 18:{k // 6:02d}:{k % 6 * 10:02d}.{i:06d}0,{100 + 37 * i % 1000},{2 + 7 * i % 40}"
             for k in range(12) for i in range(200)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens"] + lines) + "\n")
    out = simulate("--trace", trace, "--duration", 120, "--warmup", 0, "--seeds", 2, "--policy", "baton,edf",
                   "--no-bound", "--json", "--quiet")
    assert out.returncode == 0, out.stderr
    got = {r["name"]: r["value"] for r in json.loads(out.stdout)["results"]}
    assert got["baton.azure.x1.attainment.gold"] >= 0.998
    assert got["baton.azure.x1.goodput.weighted"] >= 0.998 * got["edf.azure.x1.goodput.weighted"]


def test_results_have_the_documented_names():
    got = results("--trace", "synthetic", "--rate", "40", "--duration", "30", "--warmup", "5", "--timing")
    head = "baton.poisson.x1"
    for name in ("attainment.gold", "attainment.silver", "attainment.bronze", "attainment.all", "goodput.weighted",
                 "bound.share", "broken_promises", "rejected.gold", "rejected.bronze", "decision.p99", "events.rate",
                 "ttft.p99.gold", "attainment.large_gap", "coverage.prefill", "mape.decode"):
        assert f"{head}.{name}" in got
    assert got[f"{head}.attainment.all"] > 0.99
    assert 0.95 < got[f"{head}.bound.share"] <= 1
    assert got[f"{head}.unfinished"] == 0
    assert got[f"{head}.events.rate"] > 100_000


def test_the_wall_clock_is_in_no_result_unless_asked_for():
    args = ("--trace", BLOCKS, "--speedup", "4", "--json")
    first, second = simulate(*args), simulate(*args)
    assert first.stdout == second.stdout and first.stdout
    other = simulate(*args, "--seed", "2")
    assert other.stdout != first.stdout
    assert not any(word in first.stdout for word in ("decision", "wall", "events.rate"))


def test_the_highest_rate_that_holds_is_found_and_holds():
    got = results("--trace", "synthetic", "--rate", "20", "--duration", "40", "--warmup", "5", "--prefill", "1",
                  "--decode", "1", "--find-rate", "tier90")
    rate = got["baton.poisson.rate.tier90"]
    assert 20 < rate < 60  # one prefill worker computes about 35 such prompts a second

    def least(r):
        at = results("--trace", "synthetic", "--rate", r, "--duration", "40", "--warmup", "5", "--prefill", "1",
                     "--decode", "1", "--no-bound")
        return min(v for k, v in at.items() if ".attainment." in k and k.rsplit(".")[-1] in ("gold", "silver", "bronze"))

    assert least(1.25 * rate) < 0.9


def test_a_list_of_rates_runs_one_after_another_and_gives_what_each_gives_alone(tmp_path):
    args = ("--trace", BLOCKS, "--duration", "30", "--warmup", "0", "--no-bound")
    both = results(*args, "--speedup", "2,4", "--report", tmp_path / "r.html")
    assert both == {**results(*args, "--speedup", "2"), **results(*args, "--speedup", "4")}
    assert "Over the offered rate" in (tmp_path / "r.html").read_text()
    drawn = ("--trace", "synthetic", "--duration", "20", "--warmup", "0")
    both = results(*drawn, "--rate", "20,30")
    for rate in (20, 30):
        alone = results(*drawn, "--rate", rate)
        assert alone == {k.replace(f"-r{rate}", ""): v for k, v in both.items() if f"-r{rate}." in k}


def test_a_rate_that_never_holds_is_zero():
    found = results("--trace", "synthetic", "--rate", "20", "--duration", "10", "--warmup", "0", "--prefill", "1",
                    "--decode", "1", "--kill", "2@0", "--no-local-prefill", "--find-rate", "gold99")
    assert found["baton.poisson.rate.gold99"] == 0


def test_tables_and_progress_are_for_people():
    out = simulate("--trace", BLOCKS, "--speedup", "4")
    assert out.returncode == 0
    assert "policy" in out.stdout and "mooncake" not in out.stderr.splitlines()[0][:3]
    assert "% of the bound" in out.stderr


def test_records_hold_one_line_per_request_and_the_report_needs_no_network(tmp_path):
    records, report = tmp_path / "records.jsonl", tmp_path / "report.html"
    out = simulate("--trace", BLOCKS, "--speedup", "4", "--duration", "30", "--warmup", "5", "--records", records,
                   "--report", report, "--json", "--quiet")
    assert out.returncode == 0, out.stderr
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert len({row["request"] for row in rows}) == len(rows) > 200
    assert any(row["cached"] > 0 for row in rows)
    assert all(row["kept"] <= (row["fate"] == "done") for row in rows)
    # 0 is "unknown" to the scheduler: of what arrives at that moment its actual times are not
    done = [row for row in rows if row["fate"] == "done" and row["arrived_s"] > 0]
    assert all(abs(row["actual"]["ttft_ms"] / 1e3 - row["ttft_s"]) < 1e-5 for row in done)
    told = [row for row in done if "ttft_ms" in row["predicted"] and "chosen" in row]  # what did not happen is left out
    assert len(told) > 0.9 * len(done) and all(row["predicted"]["ttft_ms"] <= row["high"]["ttft_ms"] for row in told)
    assert all({row["chosen"]["prefill"], row["chosen"]["decode"]} <= set(range(9)) for row in told)
    assert any(row.get("runner_up", row["chosen"]) != row["chosen"] for row in told)
    got = {row["name"]: row["value"] for row in json.loads(out.stdout)["results"]}
    share = [value for name, value in got.items() if name.endswith(".attainment.all")][0]
    counted = [row for row in rows if row["arrived_s"] >= 5]
    assert abs(sum(row["kept"] for row in counted) / len(counted) - share) < 1e-6
    page = report.read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


@pytest.mark.parametrize("rate", [2, 20, 60])
@pytest.mark.parametrize("told", [30, 0.1])
def test_a_wrong_belief_about_the_machines_heals(tmp_path, told, rate):
    """Told 30 times too slow nothing could ever be promised; 10 times too fast, everything."""
    records = tmp_path / "records.jsonl"
    results("--trace", "synthetic", "--rate", rate, "--duration", "40", "--warmup", "0", "--told", told, "--no-bound",
            "--records", records)
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    healed = [row["kept"] for row in rows if row["arrived_s"] >= 8]
    assert sum(healed) >= 0.99 * len(healed)
    admitted = [row["kept"] for row in rows if row["admitted"]]
    assert len(admitted) - sum(admitted) <= 0.02 * len(admitted)


def test_the_bound_on_starvation_is_part_of_a_tier_in_a_cluster_file(tmp_path):
    cluster = tmp_path / "cluster.yaml"
    text = (ROOT / "deploy/clusters/h100-70b-tp4.yaml").read_text()
    ask = ("--trace", "synthetic", "--rate", "100", "--duration", "60", "--warmup", "0", "--no-bound", "--quiet")
    shares = []
    for ms in (100, 86400000):
        cluster.write_text(text.replace("on_miss: wait}", f"on_miss: wait, starvation_ms: {ms}}}"))
        out = simulate(*ask, cluster=cluster)
        assert out.returncode == 0, out.stderr
        shares.append(out.stdout)
    assert shares[0] != shares[1]  # a tier that may not starve is served beyond what its weight is worth
    cluster.write_text(text.replace("on_miss: wait}", "on_miss: wait, starvation_ms: 0}"))
    out = simulate(*ask, cluster=cluster)
    assert out.returncode == 1 and "starvation_ms: 0" in out.stderr and "line " in out.stderr


def test_a_pool_that_died_shows_in_the_results():
    """Its workers were busy while they lived; and those who waited for them in vain are counted."""
    args = ("--trace", "synthetic", "--rate", "20", "--duration", "60", "--warmup", "0", "--prefill", "3", "--decode", "1",
            "--kill", "4@30", "--no-bound")
    got = results(*args)
    assert got["baton.poisson.x1.busy.decode"] > 0.9 and 0 < got["baton.poisson.x1.busy.prefill"] < 0.6
    table = simulate(*args, "--quiet").stdout
    left = int(re.search(r"(\d+) of \d+ requests were neither served nor refused", table)[1])
    assert left > 300


def test_a_search_shows_no_figures_of_runs_that_it_cut_short():
    out = simulate("--trace", "synthetic", "--rate", "60", "--duration", "30", "--warmup", "5", "--find-rate", "tier90",
                   "--quiet").stdout.splitlines()
    rows = [line for line in out if line.startswith("baton ")]
    cut = [line for line in rows if "stopped: it could not hold tier90 any more" in line]
    assert 0 < len(cut) < len(rows) and not any("%" in line for line in cut)


QUOTA = 63080  # what one of two tenants uses of 80 requests/s: 40 x (1155 + 2 x 211) tokens/s


def tenants_of(*args, seeds=3):
    return results("--trace", "synthetic", "--rate", "80", "--duration", "60", "--warmup", "20", "--seeds", seeds,
                   "--no-bound", *args)


def test_a_tenant_at_ten_times_its_quota_does_not_slow_another_down():
    both = ("--tenants", f"a:1:50:{QUOTA},b:1:50")
    usual, surge = tenants_of(*both), tenants_of(*both, "--surge", "a:10")
    head = "baton.poisson.x1.tenant"
    assert usual[f"{head}.a.rejected"] < 0.05 and surge[f"{head}.a.rejected"] > 0.7
    assert surge[f"{head}.b.rejected"] == 0 and surge[f"{head}.b.attainment"] > 0.995
    assert 0 < surge[f"{head}.b.ttft.p99"] <= 1.05 * usual[f"{head}.b.ttft.p99"]
    for tier in ("gold", "silver", "bronze"):  # a p99 of a thousand requests moves more by itself
        assert 0 < surge[f"{head}.b.ttft.p99.{tier}"] <= 1.2 * usual[f"{head}.b.ttft.p99.{tier}"]


@pytest.mark.parametrize("times", [2, 10])
def test_a_tenant_within_its_fair_share_is_served_while_another_surges_without_any_quota(times):
    both = ("--tenants", "a:1:50,b:1:50")
    surge = tenants_of(*both, "--surge", f"a:{times}")
    head = "baton.poisson.x1.tenant"
    assert surge[f"{head}.b.attainment"] > 0.94 and surge[f"{head}.b.broken_promises"] < 0.01
    assert surge[f"{head}.a.attainment"] > 1.2 / times  # the pools stay full: it gets what is left


def test_the_load_of_the_others_is_the_same_whoever_surges(tmp_path):
    def records(*args):
        path = tmp_path / "r.jsonl"
        results("--trace", "synthetic", "--rate", "30", "--duration", "20", "--warmup", "0", "--no-bound", "--records", path,
                *args)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def of(rows, name):
        return sorted((r["arrived_s"], r["tier"], r["prompt"]) for r in rows if r["tenant"] == name)

    three = ("--tenants", "a:1:20,b:2:30,c:1:50:1e6:5")
    usual, surge = records(*three), records(*three, "--surge", "a:4,c:2")
    assert of(usual, "b") == of(surge, "b") and of(usual, "b")
    assert set(of(usual, "a")) < set(of(surge, "a")) and 3.5 < len(of(surge, "a")) / len(of(usual, "a")) <= 4
    assert 1.8 < len(of(surge, "c")) / len(of(usual, "c")) <= 2
    assert abs(len(of(usual, "a")) / len(usual) - 0.2) < 0.06
    plain = records()
    assert not any("tenant" in row for row in plain)
    assert sorted((r["arrived_s"], r["tier"], r["prompt"]) for r in plain) == sorted(
        (r["arrived_s"], r["tier"], r["prompt"]) for r in usual)


@pytest.mark.parametrize("factor", [1.2, 1.5])
@pytest.mark.parametrize("workers", [(4,), (1, 2, 3, 4, 5)])
def test_gold_recovers_when_workers_turn_slower(tmp_path, workers, factor):
    """One decode worker, or all: half a minute later gold is kept as before."""
    records = tmp_path / "records.jsonl"
    slow = [word for w in workers for word in ("--slow", f"{w}@30x{factor}")]
    got = results("--trace", "synthetic", "--arrivals", "gamma:2", "--rate", "110", "--duration", "90", "--warmup", "0",
                  "--no-bound", "--records", records, *slow)
    assert got["baton.gamma.x1.recovery.gold"] <= 30
    gold = [row for row in map(json.loads, records.read_text().splitlines()) if row["tier"] == "gold"]
    for at in range(50, 90, 10):
        kept = [row["kept"] for row in gold if at <= row["arrived_s"] < at + 10]
        assert len(kept) > 100 and sum(kept) >= 0.97 * len(kept)


@pytest.mark.parametrize("known", [(), ("--cold",)])
@pytest.mark.parametrize("rate", [40, 80])
def test_promises_hold_in_an_overload_from_the_first_second(tmp_path, rate, known):
    """Two and four times what this pair can do; its KV room is so large that only the time of steps bounds it."""
    records = tmp_path / "records.jsonl"
    out = simulate("--trace", "synthetic", "--rate", rate, "--duration", "60", "--warmup", "0", *known, "--no-bound",
                   "--records", records, "--quiet", cluster=ROOT / "bench/compare/cluster.yaml")
    assert out.returncode == 0, out.stderr
    rows = [row for row in map(json.loads, records.read_text().splitlines()) if row["admitted"]]
    broken = [row for row in rows if not row["kept"]]
    assert len(rows) > 700
    assert len(broken) <= 0.02 * len(rows)
    gold = [row["kept"] for row in rows if row["tier"] == "gold"]
    assert sum(gold) >= 0.98 * len(gold) > 200


@pytest.mark.parametrize("args, words", [
    (["--trace", BLOCKS, "--tenants", "a:1"], ["--tenants", "NAME:WEIGHT:SHARE"]),
    (["--trace", BLOCKS, "--tenants", "a:1:1,a:1:1"], ["--tenants", "each name once"]),
    (["--trace", BLOCKS, "--tenants", "a:0:1"], ["--tenants", "above 0"]),
    (["--trace", BLOCKS, "--surge", "a:10"], ["--surge needs --tenants"]),
    (["--trace", BLOCKS, "--tenants", "a:1:1", "--surge", "b:10"], ["--surge", "that --tenants names"]),
    (["--trace", BLOCKS, "--tenants", "a:1:1", "--surge", "a:0.5"], ["--surge", "1 to 1000"]),
    (["--trace", "/no/such/file"], ["/no/such/file", "No such file"]),
    (["--trace", BLOCKS, "--policy", "magic"], ["magic", "baton"]),
    (["--trace", BLOCKS, "--kill", "9@3"], ["worker 9", "1 to 5"]),
    (["--trace", BLOCKS, "--slow", "1@3"], ["--slow", "WORKER@FROMxFACTOR"]),
    (["--trace", BLOCKS, "--tiers", "20/80"], ["--tiers", "3 numbers"]),
    (["--trace", BLOCKS, "--speedup", "2", "--rate", "3"], ["--speedup", "--rate"]),
    (["--trace", BLOCKS, "--rate", "fast"], ["--rate", "number"]),
    (["--trace", BLOCKS, "--rate", "1,,2"], ["--rate", "number"]),
    (["--trace", BLOCKS, "--rate", "1,2", "--find-rate", "tier90"], ["--find-rate", "list"]),
    (["--trace", BLOCKS, "--find-rate", "all"], ["tier90", "gold99"]),
    (["--trace", CLUSTER], ["row 1", "not a known trace"]),
    (["--trace", BLOCKS, "--frobnicate"], ["--frobnicate", "--help"]),
    (["--trace", "synthetic", "--in", "0"], ["--in", "MEAN"]),
    (["--trace", "synthetic", "--in", "1e18"], ["--in '1e18'", "1 to 10000000"]),
    (["--trace", "synthetic", "--out", "100:pareto:1"], ["--out", "SHAPE"]),
    (["--trace", "synthetic", "--arrivals", "gamma:2x"], ["--arrivals", "CV"]),
])
def test_mistakes_are_named(args, words):
    out = simulate(*args)
    of_a_file = args[1] in ("/no/such/file", CLUSTER)
    assert out.returncode == (1 if of_a_file else 2) and out.stdout == ""
    for word in words:
        assert word in out.stderr


def test_what_exceeds_the_context_is_refused_by_every_policy_and_has_no_times(tmp_path):
    trace, records = tmp_path / "trace.jsonl", tmp_path / "records.jsonl"
    lengths = [(1_000_000, 20), (131_000, 500), (1000, 20), (130_000, 1072)]
    trace.write_text("".join(json.dumps({"timestamp": 1000 * i, "input_length": n, "output_length": out, "hash_ids": [i]})
                             + "\n" for i, (n, out) in enumerate(lengths)))
    out = simulate("--trace", trace, "--duration", "4", "--warmup", "0", "--policy", "baton,edf", "--quiet", "--json",
                   "--records", records)
    assert out.returncode == 0 and "2 of 4 requests exceed the context of 131072 tokens" in out.stderr
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    large = [row for row in rows if row["prompt"] in (1_000_000, 131_000)]
    assert len(large) == 4 and len(rows) == 8
    assert all(row["fate"] == "refused" and row["reason"] == "too_large" and row["late_s"] is None for row in large)
    names = {row["name"] for row in json.loads(out.stdout)["results"] if row["name"].startswith("edf.")}
    served = {row["tier"] for row in rows if row["ttft_s"] > 0}
    assert {name.split(".")[-1] for name in names if ".ttft.p50." in name} == served
    assert {name.split(".")[-1] for name in names if ".rejected." in name} == {row["tier"] for row in rows}


@pytest.mark.parametrize("option", ["--report", "--records"])
def test_a_file_that_cannot_be_written_is_said_before_the_simulation(option):
    out = simulate("--trace", "synthetic", "--duration", "100000", option, "/no/such/folder/file", timeout=20)
    assert out.returncode == 1 and option in out.stderr and "No such file" in out.stderr


def test_runs_that_had_ended_survive_an_interrupt(tmp_path):
    report = tmp_path / "r.html"
    run = subprocess.Popen([str(BATON), "simulate", "--cluster", str(CLUSTER), "--trace", "synthetic", "--rate", "80",
                            "--duration", "300", "--policy", "all", "--no-bound", "--report", str(report)],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = run.stderr.readline()  # said when a run has ended
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60 * PATIENCE)
    assert run.returncode == 130, err
    assert first.split()[0] in out and "interrupted" in err
    assert first.split()[0] in report.read_text() and "Interrupted" in report.read_text()


def test_a_broken_cluster_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.read_text().replace("kv_tokens: 400000", "kv_token: 400000"))
    out = simulate("--trace", BLOCKS, cluster=path)
    assert out.returncode == 1 and "kv_token" in out.stderr and "cluster.yaml:" in out.stderr


@pytest.mark.skipif(not (SHARED / "traces").is_dir(), reason=f"no traces at {SHARED}")
def test_the_bound_of_the_published_trace_is_what_was_measured_elsewhere():
    """Share of the offered weight that a clairvoyant could keep on 3P2D: 99.6 % at 122 and 95 % at 166 req/s."""
    trace = SHARED / "traces/azure_llm_2023_conv.csv.gz"
    for rate, low, high in ((122, 0.97, 1.0), (166, 0.93, 0.965)):
        got = results("--trace", trace, "--rate", rate, "--no-local-prefill")
        assert low < [v for k, v in got.items() if k.endswith(".bound.offered")][0] < high
