#!/usr/bin/env bash
# The CPU set: bash benchmarks/cpu.sh [FOLDER of the results]
# One thread, but for `compile`. Wants a quiet machine, the peers (see README.md), a C++ compiler for torch.compile, 16 GB of
# memory and about an hour. LIMIT is the time in seconds for a competitor of each case, COMPILE_STEPS the longest loop that
# torch.compile is given, BASELINE another checkout of this repository to race.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
python=${PYTHON:-python}
plot=$("$python" -c "import matplotlib" 2>/dev/null && echo --plot)

ask() {
  PYTHONPATH=$PWD "$python" -W ignore -m benchmarks "$@" --device cpu --out "$out" --seconds "${LIMIT:-6}" \
    --compile-steps "${COMPILE_STEPS:-16}" ${BASELINE:+--baseline "$BASELINE"} $plot
}

ask layer fused family
ask network sparse
ask onm
ask loops
ask memory step call time neurons cold
ask compile --threads 2
