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
mkdir -p build
cmake --preset release >build/configure-release.log 2>&1 || { cat build/configure-release.log >&2; exit 1; }
cmake --build --preset release --target baton -- --quiet
exec build/release/baton serve "$@"
