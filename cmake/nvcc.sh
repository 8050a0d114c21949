#!/bin/sh
# nvcc.sh LOG NVCC ARGUMENTS...: run the compiler; what ptxas reports of registers and spills goes to LOG, the rest to the
# terminal.
log=$1
shift
"$@" 2>"$log"
rc=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame|^ *$' "$log" >&2
exit $rc
