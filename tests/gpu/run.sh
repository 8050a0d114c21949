#!/usr/bin/env bash
# One visit to a GPU machine: build, check and time everything in under eight minutes.  A short table comes last.
#   tests/gpu/run.sh [--out FILE] [--only REGEX]      FILE: bench/results/gpu-DATE.json, with --only gpu-DATE-only.json; REGEX: names of steps, besides the build
# Needs nvcc 13, cmake, ninja and a C compiler; cuBLAS and NCCL of PyTorch's packages will do.  Where our Debian packages are
# missing it builds with those of tests/gpu/pack/pack.tar.gz (tests/gpu/pack.sh), and if that fails it runs the programs
# in there.  What is not there is a FAILED line of the table; what needs a device and finds none is a SKIPPED one.
# Logs of the steps: build/gpu/logs, and in one archive beside FILE (FILE-logs.tar.gz without .json).
# Exit status: 0 nothing failed; 1 something did; 2 wrong options.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
out=
only=
while [ $# -gt 0 ]; do
    case $1 in
        --only) [ $# -ge 2 ] || { echo "run.sh: --only needs a regular expression" >&2; exit 2; }; only=$2; shift 2 ;;
        --out) [ $# -ge 2 ] || { echo "run.sh: --out needs a file" >&2; exit 2; }; out=$2; shift 2 ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
[ -n "$out" ] || out=bench/results/gpu-$(date -u +%F)${only:+-only}.json

PATH=$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin # nvcc, compute-sanitizer, nvidia-smi, where the PATH does not say so
build=build/gpu logs=$root/build/gpu/logs pack=$root/build/gpu-unpacked
rm -rf "$logs"
mkdir -p "$logs/servers" "$(dirname "$out")"
results=$logs/results.tsv
: >"$results"
export PYTHONUNBUFFERED=1 # what a step that is killed has printed is not lost
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY # servers are on 127.0.0.1

timeout 20 nvidia-smi -L 2>/dev/null | grep '^GPU ' >/dev/null || compgen -G '/dev/nvidia[0-9]*' >/dev/null && device=yes || device=no
# A card that nobody has open is set up anew for every program, which takes seconds: it is kept open.
for card in /dev/nvidia[0-9]*; do [ ! -r "$card" ] || { exec {held}<"$card"; } 2>/dev/null || true; done
# Seconds of the whole visit, with some left to write the result, and of the build.  Without a device this is a trial of
# the script, on whatever machine.
if [ "$device" = yes ]; then deadline=470 build_budget=170; else deadline=1800 build_budget=900; fi

record() { # step, ok|FAILED|SKIPPED, seconds, detail
    local line
    line=$(tr '\t\n' '  ' <<<"$4")
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(head -c 300 <<<"$line")" >>"$results"
    printf '%-36s %-8s %6.1f s  %s\n' "$1" "$2" "$3" "$(head -c 150 <<<"$line")"
}
missing() { record "$1" FAILED 0 "$2 is missing"; } # step, file

# why LOG LAST: the line that says why, where a program says it, and the next; else one that counts failures; else LAST.
why() {
    grep -am1 -A1 -E 'device call failed|the device does not open|cannot load the model' "$1" ||
        grep -am1 -A1 -E '\[ +ERROR +\] --- |^=+ +(Invalid|Error: |Race|Uninit|Misaligned|Program hit)|^E  |[: ]error: |^CMake Error|^ptxas (error|fatal)|undefined reference' "$1" ||
        grep -aiE 'error|fail' "$1" | grep -av '^ *{' | tail -1 | grep . || echo "$2"
}

# step NAME BUDGET COMMAND...: run it for BUDGET seconds at most; what it prints to stdout goes to NAME.out, the rest and that too
# to NAME.log.  77 is a skip, but not where there is a device and the skip is for want of one.
step() {
    local name=$1 budget=$2 log rc=0 from left=$((deadline - SECONDS)) last verdict group said
    shift 2
    [[ $name =~ ^(unpack|toolkit|build)$ || $name =~ $only ]] || return 1
    log=$logs/${name//[^a-zA-Z0-9_.-]/-}
    [ "$left" -gt 3 ] || { record "$name" FAILED 0 "no time of the visit was left"; return 1; }
    [ "$budget" -le "$left" ] || budget=$left
    from=$EPOCHREALTIME
    timeout -k 5 "$budget" "$@" >"$log.out" 2>"$log.log" </dev/null &
    group=$! # timeout makes itself the leader of one
    wait $group || rc=$?
    kill -KILL -- -$group 2>/dev/null # what it left behind would keep the card
    said=$(grep -av '^ *$' "$log.log" | tail -1)
    cat "$log.out" >>"$log.log"
    last=$(grep -av '^ *$' "$log.log" | tail -1)
    case $rc in
        0) verdict=ok last=$(grep -a 'PASSED' "$log.log" | tail -1 | grep . || echo "$last") ;;
        77) verdict=SKIPPED ;;
        124 | 137) verdict=FAILED last="longer than $budget s: $last" ;;
        *) verdict=FAILED last="exit status $rc: $(why "$log.log" "${said:-$last}")" ;;
    esac
    [[ $verdict != ok || ! $last =~ ^[0-9]+\ skipped ]] || verdict=SKIPPED # pytest, where nothing ran
    local none
    if none=$(grep -aE '[Nn]o (usable )?CUDA device|CUDA driver' "$log.log" | tail -1) && [ -n "$none" ]; then
        case $device-$verdict in
            yes-SKIPPED) verdict=FAILED last="there is a device, but: $none" ;;
            no-FAILED) verdict=SKIPPED last=$none ;;
        esac
    fi
    record "$name" "$verdict" "$(awk "BEGIN { print $EPOCHREALTIME - $from }")" "$last"
    [ "$verdict" = ok ]
}

# The same of steps that time nothing: a few side by side.  `wait` waits for all of them.
beside=$(($(nproc) / 2))
[ "$beside" -le 8 ] || beside=8
[ "$beside" -ge 1 ] || beside=1
step_beside() {
    while [ "$(jobs -rp | wc -l)" -ge "$beside" ]; do wait -n || true; done
    step "$@" &
}

finish() {
    trap '' USR1
    # What a program in a loop has printed is not worth the archive: of each log its first and its last MiB.
    find "$logs" -type f -size +2048k | while read -r log; do
        { head -c 1M "$log" && echo && echo "[...]" && tail -c 1M "$log"; } >"$log.cut" && mv "$log.cut" "$log"
    done
    tar -C "$logs" --exclude='*.out' -czf "${out%.json}-logs.tar.gz" . || echo "run.sh: the logs could not be packed" >&2
    python3 tests/gpu/report.py "$results" "$logs" "$out" "$SECONDS"
}

# Nobody can end a program that hangs inside the driver: then the visit ends without it, and with a table.
give_up() {
    record visit FAILED "$SECONDS" "a step does not end, not even killed: it has a log and no line"
    finish
    exit 1
}
trap give_up USR1
watch() { while kill -0 $$; do [ $SECONDS -le $((deadline + 15)) ] || kill -USR1 $$; sleep 1; done; }
[ "$device" = no ] || (watch >/dev/null 2>&1 &) # no job of ours, which `wait` would wait for

# ---- what is here ----

versions() {
    echo "kernel $(uname -r), $(nproc) cores, $(. /etc/os-release && echo "$PRETTY_NAME"), glibc $(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
    echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    for tool in gcc cmake ninja python3; do echo "$tool: $($tool --version 2>&1 | head -1)"; done
    echo "nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release \([^,]*\).*/\1/p')"
    echo "torch: $(python3 -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || echo none)"
    echo "device: $(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null | head -1 | grep . || echo none)"
}
versions >"$logs/versions.txt" 2>&1
record versions ok 0 "$(grep ^device "$logs/versions.txt")"
[ "$device" = yes ] || echo "NOTE: no CUDA device: every step that needs one is skipped, and nothing here says anything about a device"

# ---- build ----

ours() { # are the development packages installed?
    command -v pkg-config >/dev/null && command -v protoc-c >/dev/null && [ -e /usr/share/llhttp/llhttp.c ] &&
        pkg-config --exists libuv ucx libcyaml libprotobuf-c jansson libpcre2-8 libutf8proc cmocka jemalloc
}

unpack() {
    rm -rf "$pack" && mkdir -p "$pack" && tar -C "$pack" -xzf tests/gpu/pack/pack.tar.gz && cd "$pack" || return 1
    mkdir -p site && for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done
    # The paths that pkg-config answers with; and our own programs, which need the libraries beside them.
    local usr=$pack/sysroot/usr libs
    libs=$(echo "$usr"/lib/*-linux-gnu)
    find "$usr" -name '*.pc' -exec sed -i "s#\(^\|[= ]\)/usr#\1$usr#g" {} +
    mkdir -p "$usr/libexec"
    for program in pkg-config protoc-c; do # under their own names, which they look at
        mv "$usr/bin/$program" "$usr/libexec/"
        cat >"$usr/bin/$program" <<EOF
#!/bin/sh
export PKG_CONFIG_LIBDIR="$libs/pkgconfig:$usr/share/pkgconfig:$usr/lib/pkgconfig"
LD_LIBRARY_PATH="$libs" exec "$usr/libexec/$program" "\$@"
EOF
        chmod +x "$usr/bin/$program"
    done
    mkdir -p "$root/build/cuda-toolkit/include" && cp -n cuda/include/* "$root/build/cuda-toolkit/include/"
    echo "$(du -sh "$pack" | cut -f1) unpacked"
}

configure=(cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBATON_CUDA=ON -DBATON_EMULATION=OFF -DBATON_WERROR=OFF -DBATON_CUDA_EARLY=ON)
build_all() { # with what is here, or with the pack
    "${configure[@]}" && cmake --build "$build" --target baton gpu_tests cuda_kernels && "$build/baton" --version
}

# Our programs find the pack's libraries by a run path that their libraries inherit: in LD_LIBRARY_PATH they would also be
# given to Python and the compiler.
with_pack() {
    local usr=$pack/sysroot/usr libs
    libs=$(echo "$usr"/lib/*-linux-gnu)
    PATH=$usr/bin:$PATH
    configure+=(-DCMAKE_PREFIX_PATH="$usr" -DOPENSSL_ROOT_DIR="$usr" -DLLHTTP_INCLUDE="$usr/share/include/llhttp" -DLLHTTP_SOURCE="$usr/share/llhttp"
        -DPKG_CONFIG_EXECUTABLE="$usr/bin/pkg-config" -DPROTOC_C="$usr/bin/protoc-c"
        -DCMAKE_C_FLAGS="-isystem $usr/include -isystem $usr/include/$(basename "$libs")"
        -DCMAKE_EXE_LINKER_FLAGS="-L$libs -Wl,-rpath-link,$libs -Wl,--disable-new-dtags,-rpath,$libs")
}

# The first one to import PyTorch reads gigabytes: beside the build, which needs the processors.
[ "$device" = no ] || ! [[ peer =~ $only ]] || (timeout 150 python3 -c 'import torch' >/dev/null 2>&1 &)

packed=no
if ! ours; then
    if [ -e tests/gpu/pack/pack.tar.gz ]; then
        step unpack 30 bash -c "$(declare -f unpack); root='$root' pack='$pack'; unpack" && packed=yes && with_pack
    else
        missing unpack "our Debian packages, and tests/gpu/pack/pack.tar.gz (tests/gpu/pack.sh)"
    fi
fi
step toolkit 60 bash deploy/install-cuda.sh
if ! step build "$build_budget" bash -c "$(declare -f build_all); $(declare -p configure build); build_all" && [ "$packed" = yes ]; then
    build=build/gpu-unpacked/prebuilt
    record prebuilt ok 0 "NOT BUILT HERE: the programs of the pack are run instead"
fi

# cuBLASLt and NCCL: where the toolkit's script found them.
libraries=$(sed -n 's/^set(BATON_CUDA_LIBRARIES "\([^"]*\)").*/\1/p' build/cuda-toolkit/toolkit.cmake 2>/dev/null | tr ';' ':')
[ -n "$libraries" ] || libraries=$(python3 -c 'import glob, sys
print(":".join({f.rpartition("/")[0] for p in sys.path for n in ("cublasLt.so.13", "nccl.so.2") for f in glob.glob(p + "/nvidia/*/lib/lib" + n)}))')
outer_libraries=${LD_LIBRARY_PATH:-} # PyTorch brings its own
export BATON_SOURCE_DIR=$root BATON_BUILD_DIR=$root/$build # as ctest sets them
[ -z "$libraries" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
table=$(ls "$build/cuda/kernels.txt" "$build/kernels.txt" 2>/dev/null | head -1)
if [ -n "$table" ]; then
    record registers ok 0 "$(awk 'NR > 1 { n++; if ($5 + $6 > 0) spilled = spilled " " $1 } END { print n + 0, "kernels; with spills:", spilled == "" ? "none" : spilled }' "$table")"
fi

# ---- check ----

kernels=$(awk '/^set\(KERNEL_SOURCES/ { on = 1; next } /\)/ { on = 0 } on { print $1 }' engine/kernels/kernels.cmake)
[ -n "$kernels" ] || record kernels FAILED 0 "engine/kernels/kernels.cmake names no kernel"
for name in $kernels; do # a test or a benchmark may serve several
    for file in engine/kernels/$name.{h,cu} engine/kernels/${name}_ref.c; do [ -e "$file" ] || missing "$name" "$file"; done
    grep -qs "engine/kernels/$name.h" tests/gpu/*_test.c || missing "$name" "a test that includes engine/kernels/$name.h"
    grep -qs "engine/kernels/$name.h" bench/kernels/*_bench.c || missing "$name" "a benchmark that includes engine/kernels/$name.h"
done
test_program() { # name, budget
    if [ -x "$build/tests/$1" ]; then step_beside "$1" "$2" "$build/tests/$1"; else missing "$1" "$build/tests/$1"; fi
}
test_program engine_gpu_lib_test 60
for name in $kernels; do
    [ ! -e "tests/gpu/${name}_test.c" ] || test_program "gpu_$name" 40
done
# The rest of the tests: the seam, whole-model logits against the CPU backend, benchmarks in small.
[ -e tests/gpu/engine_cuda_test.c ] || missing logits tests/gpu/engine_cuda_test.c
for program in "$build"/tests/gpu_*; do
    name=${program##*/}
    [ "$name" != gpu_broken ] && [ -f "$program" ] && [ -x "$program" ] && ! grep -qx "${name#gpu_}" <<<"$kernels" && test_program "$name" 60
done
wait
test_program gpu_broken 60 # which breaks its device on purpose: beside nobody
wait

# Early starts of kernels are the part that nothing but a device can judge: if layers or the whole model are wrong with them, the visit
# goes on without, and the table says so; unless it is as wrong without them.
if [ "$device" = yes ] && grep -Eq '^gpu_(early|engine_cuda).FAILED' "$results" && [ "$build" = build/gpu ]; then
    build=build/gpu-late
    configure=("${configure[@]/#build\/gpu/$build}" -DBATON_CUDA_EARLY=OFF)
    step "build, no early starts" 120 bash -c "$(declare -f build_all); $(declare -p configure build); build_all" &&
        step "gpu_engine_cuda, no early starts" 60 "$build/tests/gpu_engine_cuda" || build=build/gpu
    export BATON_BUILD_DIR=$root/$build
fi

# ---- one prefill and one decode worker on the card, each test by itself ----

e2e() { # the beginning of a test's name
    [ "$packed" = yes ] && export PYTHONPATH=$pack/site
    # No plugins but one of what this Python happens to have: they may not go with the pytest of the pack.
    local plugins=(-o faulthandler_timeout=70)
    python3 -c 'import pytest_timeout' 2>/dev/null && plugins+=(-p pytest_timeout -o timeout=75)
    # A test that is killed leaves the log of its server behind.
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 TMPDIR=$logs/servers BATON_BUILD_DIR=$root/$build python3 -m pytest -q -rs "${plugins[@]}" -m gpu -k "$1" tests/e2e/test_gpu.py
}
e2e_tests=$(sed -n 's/^def \(test_[a-z0-9_]*\)(gpu.*/\1/p' tests/e2e/test_gpu.py 2>/dev/null)
[ -n "$e2e_tests" ] || missing e2e tests/e2e/test_gpu.py
many=$beside
[ "$beside" -le 3 ] || beside=3 # each has two workers on the card
for name in $e2e_tests; do
    step_beside "e2e ${name#test_}" 100 bash -c "$(declare -f e2e); $(declare -p packed pack root build logs); e2e $name"
done
wait
beside=$many

# ---- time: the goals first, each kernel by itself last ----

perf_gpu() { # step, budget, arguments
    if [ -x "$build/baton" ]; then step "$1" "$2" "$build/baton" perf gpu "${@:3}" --json; else missing "$1" "$build/baton"; fi
}
perf_gpu bench 120 --only -
if [ -x "$build/baton" ]; then step handover 60 env TMPDIR="$logs/servers" python3 tests/gpu/handover.py "$build/baton" --seconds 45; else missing handover "$build/baton"; fi
if [ ! -e bench/peer/torch_llama.py ]; then
    missing peer bench/peer/torch_llama.py
elif [ "$device" = no ] && ! python3 -c 'import torch' 2>/dev/null; then
    record peer SKIPPED 0 "no CUDA device, no PyTorch"
else
    step peer 90 env LD_LIBRARY_PATH="$outer_libraries" python3 bench/peer/torch_llama.py
fi
perf_gpu kernels 150 -

# ---- the sanitizer, a few tests side by side ----

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2>/dev/null | head -1)
if [ -z "$sanitizer" ]; then
    [ "$device" = yes ] && missing sanitizer compute-sanitizer || record sanitizer SKIPPED 0 "no CUDA device, no compute-sanitizer"
elif [ "$device" = no ]; then
    record sanitizer SKIPPED 0 "no CUDA device"
else
    # Calls that fail are the tests' own business: waits ask whether work is over, and the runtime asks the driver for what
    # an older one lacks, and each "no" would count as an error.
    options=(--target-processes all --report-api-errors no --error-exitcode 99 --print-limit 5)
    for tool in memcheck racecheck; do
        for name in $kernels; do
            [ -x "$build/tests/gpu_$name" ] || continue
            step_beside "$tool $name" 100 "$sanitizer" --tool $tool "${options[@]}" "$build/tests/gpu_$name"
        done
    done
    wait
fi

finish
