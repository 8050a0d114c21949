#!/usr/bin/env bash
# What a GPU machine without our packages and without a network needs to run tests/gpu/run.sh, in one file:
#   tests/gpu/pack.sh      on the build machine (Debian 12, x86-64) -> tests/gpu/pack/pack.tar.gz, which git ignores
# In it:  sysroot/   headers and shared libraries of our Debian packages, without the C library: to build there
#         prebuilt/  baton and the programs of ctest -L gpu as built here: for when that build fails
#         wheels/    the openai client and pytest, for Python 3.12
#         cuda/      the headers of cuBLASLt and NCCL
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
limit_mib=60
stage=build/gpu-pack
triplet=$(gcc -print-multiarch)
libs=$stage/sysroot/usr/lib/$triplet

deploy/install-cuda.sh
cmake --preset cuda >/dev/null
cmake --build --preset cuda --target baton gpu_tests cuda_kernels -- --quiet

rm -rf "$stage"
mkdir -p "$libs" "$stage/prebuilt/bin" "$stage/prebuilt/tests" "$stage/cuda/include" tests/gpu/pack

# Development files: what our packages install, without static libraries and documents.  Boost serves the emulation alone.
for package in $(grep -E -- '-dev$|^node-llhttp$' deploy/packages.txt | grep -v boost); do
    dpkg -L "$package" | grep -E "^/usr/(include|share/include|share/llhttp|lib/$triplet|share/pkgconfig|lib/pkgconfig)/" | grep -vE '\.(a|la|cmake)$' |
        while read -r file; do [ ! -d "$file" ] && echo "$file"; done
done >"$stage/files" || true
tar -C / --ignore-failed-read -cf - -T <(sed 's|^/||' "$stage/files") | tar -C "$stage/sysroot" -xf -
mkdir -p "$stage/sysroot/usr/bin"
cp -L "$(command -v protoc-c)" "$(command -v pkg-config)" "$stage/sysroot/usr/bin/"

# Shared libraries: those, what they and the programs need, and UCX's transport through another process's memory.
programs=(build/cuda/baton)
while read -r program; do programs+=("$program"); done < <(find build/cuda/tests -maxdepth 1 -type f -executable \( -name 'gpu_*' -o -name engine_gpu_lib_test \) | sort)
mkdir -p "$libs/ucx"
cp -a "/usr/lib/$triplet"/ucx/libuct_cma.so* "$libs/ucx/"
find "$libs" -type l | while read -r link; do # some are absolute
    target=$(basename "$(readlink "$link")")
    ln -sfn "$target" "$link"
    target=/usr/lib/$triplet/$target
    [ -e "$target" ] || target=/lib/$triplet/$(basename "$target")
    [ -e "$target" ] && echo "$target"
done >"$stage/needed"
{ printf '%s\n' "${programs[@]}" "$stage"/sysroot/usr/bin/*; cat "$stage/needed"; } | while read -r file; do
    ldd "$file" | awk '$3 ~ /^\// { print $3 }'
done | sort -u >>"$stage/needed"
grep -vE '/(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' "$stage/needed" | sort -u | while read -r file; do
    cp -L "$file" "$libs/$(basename "$file")"
done

# The programs find the libraries through a script of their name; exec keeps the process id.
for program in "${programs[@]}"; do
    name=$(basename "$program")
    strip -o "$stage/prebuilt/bin/$name" "$program"
    place=$stage/prebuilt/tests/$name up=../..
    [ "$name" != baton ] || { place=$stage/prebuilt/baton up=..; }
    cat >"$place" <<EOF
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
LD_LIBRARY_PATH="\$here/$up/sysroot/usr/lib/$triplet\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$here/$up/prebuilt/bin/$name" "\$@"
EOF
    chmod +x "$place"
done
cp build/cuda/cuda/kernels.txt "$stage/prebuilt/"

cuda_header() { # name: from the first folder the build takes it from
    sed -n 's/^set(BATON_CUDA_INCLUDES "\(.*\)")/\1/p' build/cuda-toolkit/toolkit.cmake | tr ';' '\n' |
        while read -r folder; do [ -e "$folder/$1" ] && { cp -L "$folder/$1" "$stage/cuda/include/"; break; }; done || true
}
for header in cublasLt.h cublas_api.h nccl.h; do cuda_header "$header"; done

grep -v '^numpy' tests/requirements.txt >"$stage/requirements.txt"
python3 -m pip download -q --disable-pip-version-check --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -d "$stage/wheels" -r "$stage/requirements.txt" 2>&1 | { grep -v WARNING || true; } >&2

tar -C "$stage" -czf tests/gpu/pack/pack.tar.gz sysroot prebuilt wheels cuda
du -sh "$stage"/{sysroot,prebuilt,wheels,cuda} | sed "s|$stage/||"
size=$(stat -c %s tests/gpu/pack/pack.tar.gz)
echo "pack: $((size / 1048576)) MiB in tests/gpu/pack/pack.tar.gz, ${#programs[@]} programs"
[ "$size" -le $((limit_mib * 1048576)) ] || { echo "pack: more than $limit_mib MiB" >&2; exit 1; }
