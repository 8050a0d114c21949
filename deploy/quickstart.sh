#!/usr/bin/env bash
# From a fresh Debian 12 machine to a served model: install, build, run `baton serve` in the foreground.
#   deploy/quickstart.sh [--port N] [any option of `baton serve`]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

case " $* " in *" --help "*|*" -h "*)
    sed -n '2,3s/^# //p' "$0"
    exit 0;;
esac
"$root/deploy/install-packages.sh"
cd "$root"
echo "Building build/release/baton ..."
cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log >&2; rm -f build-configure.log; exit 1; }
rm -f build-configure.log
cmake --build --preset release --target baton -- --quiet
exec build/release/baton serve "$@"
