#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the GPU tests, the benchmarks (8 minutes on an H100), then MNIST with the paper's
# `small` network (T = 16) and CIFAR-10 with `middle` (T = 8 and 16), full width and all data, in bf16: baseline, BPSA and
# BPSA+BPTA. Kill it and call it again: what is done is not done again, and a run goes on after its last whole epoch.
# SNNTORCH_BPSTA_DATA is the folder that holds MNIST and CIFAR-10; MNIST_EPOCHS, CIFAR10_EPOCHS and SEEDS size the runs; WHEELS is
# a folder of wheels to install from where nothing can be downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
if [[ -n ${SNNTORCH_BPSTA_DATA:-} ]]; then
  SNNTORCH_BPSTA_DATA=$(python tests/layouts.py "$SNNTORCH_BPSTA_DATA" runs/data) || exit 1 # what is packed there, unpacked
fi
if [[ -n ${WHEELS:-} ]]; then
  python -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
if [[ ! -f results/cuda/tested ]]; then
  mkdir -p results/cuda
  # Most of the time is compilation, of a thousand kernels, one a core. Stopped at its time it still says what failed.
  cores=$(python -c "import xdist" 2>/dev/null && echo "-n auto")
  timeout -s INT "${TEST_SECONDS:-1200}" python -m pytest $cores -m "slow or not slow" tests/test_cuda.py tests/test_triton_kernels.py \
    tests/test_neurons_triton.py tests/test_compile.py tests/test_memory.py 2>&1 | tee results/cuda/tests.log &&
    bash benchmarks/cuda.sh && touch results/cuda/tested || failed=1
fi
one() { # name, then options
  local out=results/cuda/$1 resume=()
  shift
  [[ -f $out/result.json ]] && return
  [[ -f $out/last.ckpt ]] && resume=(--resume)
  python -m snntorch_bpsta train --accelerator gpu --precision bf16-mixed --warm-up identity --out "$out" "$@" "${resume[@]}" ||
    failed=1
}
for seed in $(seq 0 $((${SEEDS:-1} - 1))); do
  for variant in "--no-spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0.8"; do
    case $variant in *no-*) name=baseline ;; *0.8) name=bpsa+bpta ;; *) name=bpsa ;; esac
    one "mnist-T16-$name-$seed" --dataset mnist --batch-size 256 --epochs "${MNIST_EPOCHS:-20}" --warm-up-epochs 3 --seed "$seed" $variant
    for steps in 8 16; do
      one "cifar10-T$steps-$name-$seed" --dataset cifar10 --num-steps $steps --epochs "${CIFAR10_EPOCHS:-40}" --warm-up-epochs 8 \
        --seed "$seed" $variant
    done
  done
done
exit $failed
