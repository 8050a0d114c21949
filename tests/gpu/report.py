#!/usr/bin/env python3
"""The table and the JSON file of tests/gpu/run.sh:  report.py RESULTS.tsv LOGS OUT.json SECONDS

Exit status 1 if a step failed."""
import datetime
import json
import pathlib
import sys

steps_file, logs, out, seconds = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4])
steps = []
for line in steps_file.read_text(errors="replace").splitlines():
    name, verdict, took, detail = line.split("\t")
    steps.append({"step": name, "verdict": verdict, "seconds": round(float(took), 1), "detail": detail.strip()})


def measured(name):
    """The one JSON object that a step printed, or None."""
    file = logs / f"{name}.out"
    text = file.read_text(errors="replace") if file.is_file() else ""
    try:
        return json.loads(text[text.index("{"):])
    except ValueError:
        return None


def versions():
    found = {}
    for line in (logs / "versions.txt").read_text(errors="replace").splitlines():
        key, _, value = line.replace("commit ", "commit: ", 1).partition(": ")
        found[key if value else "machine"] = value or line
    return found


def rows(report):
    for r in (report or {}).get("results", []):
        beside = r.get("reference")
        yield (r["name"], f"{r['value']:.4g} {r['unit']}",
               f"{r['ratio']:.2f} of {beside['what']} ({beside['value']:.4g})" if beside and "ratio" in r else "")


# What the backend is to reach on an H100: (what, figure, the least or the most it may be).  A figure is the share that baton
# reports beside a ceiling of the same run, a plain value, or the value over that of the peer.
GOALS = (
    ("gpu.prefill.2048", "share", ">=", 0.70), ("gpu.prefill.8192", "share", ">=", 0.70),
    ("gpu.decode.1.2048", "share", ">=", 0.85), ("gpu.decode.64.2048", "share", ">=", 0.75),
    ("gpu.decode.1.2048.host", "value", "<=", 0.05), ("gpu.decode.64.2048.host", "value", "<=", 0.05),
    ("gpu.handover.exposed", "value", "<=", 0.03),
    ("gpu.prefill.2048", "over PyTorch", ">=", 1.0), ("gpu.prefill.8192", "over PyTorch", ">=", 1.0),
    ("gpu.decode.1.2048", "over PyTorch", ">=", 1.3), ("gpu.decode.64.2048", "over PyTorch", ">=", 1.3))


def goals(bench, handover, peer):
    ours = {r["name"]: r for report in (bench, handover) for r in (report or {}).get("results", [])}
    theirs = {r["name"]: r["value"] for r in (peer or {}).get("results", [])}
    for name, figure, sense, bound in GOALS:
        row, rival = ours.get(name, {}), theirs.get(name.replace("gpu.", "torch.", 1))
        value = row.get("ratio") if figure == "share" else row.get("value")
        if figure == "over PyTorch":
            value = value / rival if value and rival else None
        met = None if value is None else value >= bound if sense == ">=" else value <= bound
        yield {"name": name, "figure": figure, "goal": f"{sense} {bound}", "value": value, "met": met}


def seen(number):
    return sum(s["verdict"] == number for s in steps)


bench, handover, peer, kernels = measured("bench"), measured("handover"), measured("peer"), measured("kernels")
reached = list(goals(bench, handover, peer))
out.write_text(json.dumps({
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "seconds": seconds,
    "versions": versions(), "passed": seen("ok"), "failed": seen("FAILED"), "skipped": seen("SKIPPED"),
    "steps": steps, "goals": reached, "bench": bench, "handover": handover, "peer": peer, "kernels": kernels}, indent=1) + "\n")

# What matters most comes last: whoever sees only the end of the output sees it.
print("\n" + "=" * 100)
for title, report in (("kernel", kernels), ("baton", bench), ("baton", handover), ("PyTorch", peer)):
    for name, value, share in rows(report):
        if not name.startswith("gpu.profile."):  # in the JSON file
            print(f"{title:8} {name:38} {value:>18}  {share}")
for kind in ("SKIPPED", "FAILED"):
    for s in steps:
        if s["verdict"] == kind:
            print(f"{kind:8} {s['step']:30} {s['detail'][:110]}")
for g in reached if bench or handover or peer else ():
    verdict = {True: "reached", False: "MISSED", None: "unknown"}[g["met"]]
    print(f"{verdict:8} {g['name']:38} {'-' if g['value'] is None else format(g['value'], '.3f'):>18}  {g['figure']} {g['goal']}")
print(f"{versions().get('device', 'no device')}: {seen('ok')} ok, {seen('FAILED')} FAILED, {seen('SKIPPED')} SKIPPED in {seconds} s -> {out}")
sys.exit(seen("FAILED") > 0)
