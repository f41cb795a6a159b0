#!/bin/sh
# check_nvcc.sh -- the PTX wrappers of sm_90a, in the kernels that test their twins, compile with nvcc.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
if [ ! -x "$nvcc" ]; then
    echo "nvcc is not on this machine"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for kernels in emu_hopper emu_kernels; do
    "$nvcc" -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I"$root" \
        -c "$root/tests/emu/selftest/$kernels.cu" -o "$work/out.o" >"$work/said" 2>&1 || {
        cat "$work/said"
        exit 1
    }
    if grep -i warning "$work/said"; then
        exit 1
    fi
done
