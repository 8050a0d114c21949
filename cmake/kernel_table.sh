#!/bin/sh
# kernel_table.sh OUT LOG...: the registers, stack and spills of every kernel, one line each, from the logs of cmake/nvcc.sh.
out=$1
shift
{
    printf '%-24s %9s %5s %6s %12s %12s %8s  %s\n' file target regs stack spill_store spill_load shared kernel
    for log; do
        awk -v file="$(basename "$log" .log)" '
            /Compiling entry function/ { split($0, q, "\047"); name = q[2]; target = q[4] }
            /bytes stack frame/ { stack = $1; store = $5; load = $9 }
            /Used [0-9]+ registers/ {
                regs = shared = 0
                for (i = 1; i <= NF; i++) {
                    if ($i == "Used") regs = $(i + 1)
                    if ($i == "bytes" && $(i + 1) ~ /^smem/) shared = $(i - 1)
                }
                printf "%-24s %9s %5s %6s %12s %12s %8s  %s\n", file, target, regs, stack, store, load, shared, name
            }' "$log"
    done | c++filt
} >"$out"
