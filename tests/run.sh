#!/usr/bin/env bash
# Install what is missing, build, and run every test.  The last line counts them all.
#   tests/run.sh          everything (about 25 minutes on 2 cores)
#   tests/run.sh quick    release build, unit and tree tests only
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
mode=${1:-all}

deploy/install-packages.sh || exit 1
venv=build/venv
mkdir -p build
if ! cmp -s tests/requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt &&
        cp tests/requirements.txt "$venv/installed.txt" || { echo "cannot install the Python test packages"; exit 1; }
fi
PATH="$root/$venv/bin:$PATH"
export BATON_SHARED=${BATON_SHARED:-$(cd .. && pwd)/shared}
[ -d "$BATON_SHARED" ] || echo "NOTE: no real models, traces and corpora at $BATON_SHARED: the tests that need them are skipped"

passed=0 failed=0 skipped=0
broken() { # a step that must work at all counts as a failed test
    echo "FAILED: $1"
    failed=$((failed + 1))
}

build() { # preset, targets (all)
    local preset=$1
    shift
    cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 || { tail -20 "build/configure-$preset.log"; broken "configure $preset"; return 1; }
    cmake --build --preset "$preset" ${1:+--target "$@"} -- --quiet || { broken "build $preset"; return 1; }
}

units() { # preset, extra ctest arguments
    local preset=$1 log=build/ctest-$1.log
    shift
    echo "== ctest $preset $*"
    ctest --test-dir "build/$preset" --output-on-failure -j2 "$@" >"$log" 2>&1
    grep -E 'Failed|Timeout|Skipped|Exception' "$log" | grep -v '^The following' || true
    local total fails skips
    total=$(sed -n 's/.* tests failed out of \([0-9]*\).*/\1/p' "$log" | tail -1)
    fails=$(sed -n 's/.*%% *tests passed, \([0-9]*\) tests failed.*/\1/p;s/.*tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$log" | tail -1)
    skips=$(grep -c '\*\*\*Skipped' "$log")
    [ -n "$total" ] && [ "$total" -gt 0 ] || { tail -20 "$log"; broken "ctest $preset ran no test"; return; }
    [ "$fails" = 0 ] || sed -n '/\*\*\*Failed\|\*\*\*Timeout\|\*\*\*Exception/,/^[ ]*[0-9]*\/[0-9]* Test/p' "$log" | head -200
    passed=$((passed + total - fails - skips)) failed=$((failed + fails)) skipped=$((skipped + skips))
    echo "== $preset: $((total - fails - skips)) passed, $fails failed, $skips skipped"
}

e2e() { # name, binary directory, pytest arguments
    local name=$1 dir=$2 log=build/pytest-$1.log
    shift 2
    echo "== pytest $name"
    BATON_BUILD_DIR="$root/$dir" python -m pytest -q -rs --timeout=300 --junitxml="build/pytest-$name.xml" "$@" 2>&1 | tee "$log" | tail -40
    read -r t f s < <(python - "build/pytest-$name.xml" <<'PY'
import sys, xml.etree.ElementTree as E
try:
    r = E.parse(sys.argv[1]).getroot()
    v = r if r.tag == "testsuite" else r[0]
    print(v.get("tests"), int(v.get("failures")) + int(v.get("errors")), v.get("skipped"))
except Exception:
    print(0, 1, 0)
PY
    )
    [ "$t" -gt 0 ] || broken "pytest $name ran no test"
    passed=$((passed + t - f - s)) failed=$((failed + f)) skipped=$((skipped + s))
}

if build release; then
    units release
    [ "$mode" = quick ] || e2e release build/release tests/e2e tests/http tests/engine_ref
fi
if [ "$mode" = all ]; then
    # The CUDA backend must compile and link where no GPU is; its tests then say that they are skipped.
    if ! deploy/install-cuda.sh; then
        broken "the CUDA toolkit: it could not be downloaded"
    elif build cuda baton gpu_tests cuda_kernels; then
        passed=$((passed + 1))
        units cuda -L gpu
    fi
    build asan && { units asan -LE tree; e2e asan build/asan -m "sanitize" tests/e2e; }
    build tsan && { units tsan -L unit; e2e tsan build/tsan -m "sanitize" tests/e2e; }
fi

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
