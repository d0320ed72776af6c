#!/usr/bin/env bash
# The CPU set as committed: bash benchmarks/cpu.sh [FOLDER of the results]
# One thread, but for the network. Wants a quiet machine, the peers (see README.md), a C++ compiler for torch.compile, 16 GB of
# memory and about an hour.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
python=${PYTHON:-python}
plot=$("$python" -c "import matplotlib" 2>/dev/null && echo --plot)

ask() {
  PYTHONPATH=$PWD "$python" -W ignore -m snntorch_bpsta bench "$@" --device cpu --out "$out" $plot
}

ask layer fused time neurons step
ask network compile --threads 2
ask memory cold
