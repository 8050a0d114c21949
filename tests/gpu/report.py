#!/usr/bin/env python3
"""The table and the JSON file of tests/gpu/run.sh:  report.py RESULTS.tsv LOGS OUT.json SECONDS

Exit status 1 if a step failed."""
import datetime
import json
import pathlib
import sys

steps_file, logs, out, seconds = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4])
steps = []
for line in steps_file.read_text().splitlines():
    name, verdict, took, detail = line.split("\t")
    steps.append({"step": name, "verdict": verdict, "seconds": round(float(took), 1), "detail": detail.strip()})


def measured(name):
    """The one JSON object that a step printed, or None."""
    file = logs / f"{name}.out"
    text = file.read_text() if file.is_file() else ""
    try:
        return json.loads(text[text.index("{"):])
    except ValueError:
        return None


def versions():
    found = {}
    for line in (logs / "versions.txt").read_text().splitlines():
        key, _, value = line.replace("commit ", "commit: ", 1).partition(": ")
        found[key if value else "machine"] = value or line
    return found


def rows(report):
    for r in (report or {}).get("results", []):
        beside = r.get("reference")
        yield (r["name"], f"{r['value']:.4g} {r['unit']}",
               f"{r['ratio']:.2f} of {beside['what']} ({beside['value']:.4g})" if beside and "ratio" in r else "")


def seen(number):
    return sum(s["verdict"] == number for s in steps)


bench, peer = measured("bench"), measured("peer")
out.write_text(json.dumps({
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "seconds": seconds,
    "versions": versions(), "passed": seen("ok"), "failed": seen("FAILED"), "skipped": seen("SKIPPED"),
    "steps": steps, "bench": bench, "peer": peer}, indent=1) + "\n")

print("\n" + "=" * 100)
for kind in ("FAILED", "SKIPPED"):
    for s in steps:
        if s["verdict"] == kind:
            print(f"{kind:8} {s['step']:30} {s['detail'][:110]}")
for title, report in (("baton", bench), ("PyTorch", peer)):
    for name, value, share in rows(report):
        print(f"{title:8} {name:38} {value:>18}  {share}")
print(f"{versions().get('device', 'no device')}: {seen('ok')} ok, {seen('FAILED')} FAILED, {seen('SKIPPED')} SKIPPED in {seconds} s -> {out}")
sys.exit(seen("FAILED") > 0)
