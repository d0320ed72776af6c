#!/usr/bin/env bash
# The CUDA set, within 8 minutes on one H100: bash benchmarks/cuda.sh [FOLDER of the results]
# Needs torch, triton, and this repository; nothing of it has to be installed. WHEELS is a folder with wheels of snntorch and
# of peers, which are installed from there without an index, each by itself. A peer that is missing is named in the tables.
# BASELINE is another checkout of this repository to race.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
python=${PYTHON:-python}
if [[ -n ${WHEELS:-} ]]; then
  for wheel in "$WHEELS"/*.whl; do
    "$python" -m pip install --quiet --no-index --no-deps "$wheel" || echo "could not install $wheel"
  done
fi
plot=$("$python" -c "import matplotlib" 2>/dev/null && echo --plot)

# ask SECONDS QUESTION... OPTIONS: a question that is stopped at its time keeps the rows it has, and all end by 8 minutes
ask() {
  local left=$((470 - SECONDS))
  local limit=$(($1 < left ? $1 : left))
  ((limit > 5)) || { echo "no time left for: ${*:2}"; return; }
  PYTHONPATH=$PWD timeout "$limit" "$python" -W ignore -m benchmarks "${@:2}" --device cuda --out "$out" \
    ${BASELINE:+--baseline "$BASELINE"} $plot
  echo "== ${*:2}: exit code $? at $SECONDS s"
}

ask 150 layer fused --seconds 2 --compile-steps 16
ask 80 family call --seconds 1
ask 100 network memory step --seconds 1
ask 60 loops --seconds 1
ask 60 onm --seconds 1 --rounds 5
ask 30 sparse --seconds 1
ask 70 time neurons --seconds 2
ask 70 compile --seconds 2
ask 90 cold --rounds 2
