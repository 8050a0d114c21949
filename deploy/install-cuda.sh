#!/usr/bin/env bash
# What the cuda preset is built with: nvcc 13, and the headers and libraries of cuBLAS 13 and NCCL 2.
#   deploy/install-cuda.sh [DIR]       DIR: build/cuda-toolkit, kept between runs
# Uses what is installed already (CUDA_HOME, /usr/local/cuda, nvcc on the PATH, NVIDIA's Python packages of this python3);
# what is missing is unpacked below DIR from the Python packages that deploy/cuda.txt pins.  What was found where is
# written to DIR/toolkit.cmake, which cmake/cuda.cmake reads.
#
# Only headers are needed to build: the program opens the libraries when the backend starts (engine/cuda/gpu_lib.h), so that
# it also runs where there are none.  They are kept beside the headers for that, and for the test that every function
# the program will ask for is in them, which needs no GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
mkdir -p "${1:-$root/build/cuda-toolkit}"
dir=$(cd "${1:-$root/build/cuda-toolkit}" && pwd)
started=$SECONDS

# Folders of Python packages, where NVIDIA's wheels put nvidia/cu13 and nvidia/nccl.
mapfile -t site < <(python3 -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("-packages")))')

newer_nvcc() { # root of a toolkit: has it nvcc 13 or newer, and the headers?
    local major
    [ -x "$1/bin/nvcc" ] && runtime_headers "$1" >/dev/null || return 1
    major=$("$1/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    [ "${major:-0}" -ge 13 ]
}

first() { # file, folders -> the folder that has it
    local file=$1 folder
    shift
    for folder; do
        [ -e "$folder/$file" ] && { echo "$folder"; return; }
    done
    return 1
}
runtime_headers() { first cuda_runtime_api.h "$1/include" "$1/targets/$(uname -m)-linux/include"; }
static_runtime() { first libcudart_static.a "$1/lib64" "$1/lib" "$1/targets/$(uname -m)-linux/lib" "${site[@]/%//nvidia/cu13/lib}" "$dir/lib"; }

toolkit() { # -> root of the toolkit with the compiler
    local on_path candidate
    on_path=$(readlink -f "$(command -v nvcc || true)" || true)
    for candidate in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda "${on_path%/bin/nvcc}" "${site[@]/%//nvidia/cu13}" "$dir"; do
        [ -n "$candidate" ] && newer_nvcc "$candidate" && { echo "$candidate"; return; }
    done
    return 1
}

header() { # file, text that it or its neighbour holds, folders -> folder
    local file=$1 text=$2 folder
    shift 2
    for folder; do
        [ -e "$folder/$file" ] && grep -qsE "$text" "$folder/$file" "$folder/cublas_api.h" && { echo "$folder"; return; }
    done
    return 1
}
cublas() { header cublasLt.h 'CUBLAS_VER_MAJOR 13' "$1/include" /usr/include "${site[@]/%//nvidia/cu13/include}" "$dir/include"; }
nccl() { header nccl.h 'NCCL_MAJOR 2' "$1/include" /usr/include "${site[@]/%//nvidia/nccl/include}" "$dir/include"; }

# fetch NAME...: download the pinned packages of these names and unpack what the build uses.
fetch() {
    local names=$1 wheels=$dir/wheels
    rm -rf "$wheels" && mkdir -p "$wheels"
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$wheels/venv" && PATH="$wheels/venv/bin:$PATH"
    fi
    echo "cuda: downloading $(grep -cE "^($names)==" "$here/cuda.txt") packages: $(grep -E "^($names)==" "$here/cuda.txt" | tr '\n' ' ')"
    grep -E "^($names)==" "$here/cuda.txt" >"$wheels/pins.txt"
    python3 -m pip download -q --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
        -d "$wheels" -r "$wheels/pins.txt" 2>&1 | { grep -v WARNING || true; } >&2 ||
        { echo "cuda: the download failed" >&2; return 1; }
    du -csh "$wheels"/*.whl | sed "s|$wheels/||;s/^/cuda:   /"
    python3 - "$dir" "$wheels"/*.whl <<'PY'
import pathlib, shutil, sys, zipfile

# The compiler works with cicc alone, and the runtime is linked statically.
SKIP = ("libnvvm.so", "libcudart.so", "libcublas.so", "libnvblas.so", "nccl_device", ".metadata", ".py")
target = pathlib.Path(sys.argv[1])
for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as z:
        for info in z.infolist():
            parts = pathlib.PurePosixPath(info.filename).parts
            if parts[0] == "nvidia" and len(parts) > 3:
                out = target.joinpath(*parts[2:])
            elif "licenses" in parts:
                out = target / "licenses" / parts[0] / parts[-1]
            else:
                continue
            if info.is_dir() or any(s in info.filename for s in SKIP):
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            out.unlink(missing_ok=True)
            with z.open(info) as src, open(out, "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
            if out.parent.name == "bin":
                out.chmod(0o755)
PY
    rm -rf "$wheels"
    ln -sfn lib "$dir/lib64"
}

# What was unpacked here came from other pins: begin again.
if [ -e "$dir/pins.txt" ] && ! cmp -s "$here/cuda.txt" "$dir/pins.txt"; then
    for part in bin include lib lib64 nvvm licenses pins.txt toolkit.cmake; do rm -rf "${dir:?}/$part"; done
fi

nvidia=$(toolkit) || { fetch 'nvidia-cuda-.*|nvidia-nvvm' && nvidia=$(toolkit); } || { echo "cuda: no nvcc 13 here, and none could be fetched" >&2; exit 1; }
missing=
static_runtime "$nvidia" >/dev/null || missing=nvidia-cuda-runtime
cublas "$nvidia" >/dev/null || missing=${missing:+$missing|}nvidia-cublas
nccl "$nvidia" >/dev/null || missing=${missing:+$missing|}nvidia-nccl-cu13
[ -z "$missing" ] || fetch "$missing"
static_runtime "$nvidia" >/dev/null && cublas=$(cublas "$nvidia") && nccl=$(nccl "$nvidia") || { echo "cuda: no libcudart_static.a, cublasLt.h 13 or nccl.h 2 here, and none could be fetched" >&2; exit 1; }
cp "$here/cuda.txt" "$dir/pins.txt"

# The libraries are looked for beside the headers and in Python's packages; where they are not, the loader's own search
# remains.
libraries=
for folder in "$nvidia/lib64" "$cublas/../lib64" "$cublas/../lib" "$nccl/../lib" "${site[@]/%//nvidia/cu13/lib}" "${site[@]/%//nvidia/nccl/lib}"; do
    compgen -G "$folder/libcublasLt.so.13" >/dev/null || compgen -G "$folder/libnccl.so.2" >/dev/null || continue
    folder=$(cd "$folder" && pwd -P)
    case ";$libraries;" in *";$folder;"*) ;; *) libraries=${libraries:+$libraries;}$folder ;; esac
done
cat >"$dir/toolkit.cmake" <<EOF
# Written by deploy/install-cuda.sh.
set(BATON_CUDA_NVCC "$nvidia/bin/nvcc")
set(BATON_CUDA_RUNTIME "$(static_runtime "$nvidia")/libcudart_static.a")
set(BATON_CUDA_INCLUDES "$(runtime_headers "$nvidia");$cublas;$nccl")
set(BATON_CUDA_LIBRARIES "$libraries") # folders of libcublasLt.so.13 and libnccl.so.2
EOF
echo "cuda: nvcc $("$nvidia/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') of $nvidia, cublasLt.h of $cublas, nccl.h of $nccl"
echo "cuda: libraries in ${libraries:-no folder known: the backend will need LD_LIBRARY_PATH}"
echo "cuda: $(du -sh "$dir" | cut -f1) in $dir, $((SECONDS - started)) s"
