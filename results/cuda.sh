#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the GPU tests, the benchmarks (8 minutes on an H100), and MNIST with the paper's
# `small` network at full width, T = 16. SNNTORCH_BPSTA_DATA is the folder that holds MNIST; EPOCHS sizes the run; WHEELS is a
# folder of wheels to install from where nothing can be downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
if [[ -n ${WHEELS:-} ]]; then
  python -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
python -m pytest -q tests/test_cuda.py tests/test_triton_kernels.py tests/test_kernels.py tests/test_compile.py \
  tests/test_memory.py || failed=1
bash benchmarks/cuda.sh || failed=1
for variant in "--no-spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0.8"; do
  name=$(echo "$variant" | tr -d ' ')
  python -m snntorch_bpsta train --dataset mnist --accelerator gpu --precision bf16-mixed --batch-size 256 \
    --epochs "${EPOCHS:-10}" --warm-up identity --warm-up-epochs 2 --lr-warm-up-epochs 1 $variant \
    --out "results/cuda/mnist$name" || failed=1
done
exit $failed
