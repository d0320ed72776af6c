#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the GPU tests, and MNIST with the paper's `small` network at full width, T = 16.
# SNNTORCH_BPSTA_DATA is the folder that holds MNIST; EPOCHS sizes the run.
set -euo pipefail
python -m pytest -q tests/test_cuda.py
for variant in "--no-spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0" "--spatial-adj --temporal-alpha 0.8"; do
  name=$(echo "$variant" | tr -d ' ')
  python -m snntorch_bpsta train --dataset mnist --accelerator gpu --precision bf16-mixed --batch-size 256 \
    --epochs "${EPOCHS:-10}" --warm-up identity --warm-up-epochs 2 --lr-warm-up-epochs 1 $variant \
    --out "results/cuda/mnist$name"
done
