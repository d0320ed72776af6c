#!/usr/bin/env bash
# Every run of this folder. Start it from the repository root with SNNTORCH_BPSTA_DATA set to the folder that holds
# MNIST, N-MNIST and CIFAR-10 (digits need none). Runs that a results file holds already are not done again.
set -euo pipefail
mkdir -p results
compare() { # name, then options
  local name=$1
  shift
  bpsta compare "$@" --jobs "${JOBS:-2}" --accelerator cpu --out "results/$name.json"
}
warm_up() { # kind, epochs
  if [ "$1" = none ]; then echo "--warm-up none --warm-up-epochs 0"; else echo "--warm-up $1 --warm-up-epochs $2"; fi
}
for readout in spikes current; do
  for kind in none identity surrogate; do
    compare "digits-$readout-$kind" --dataset digits --seeds 5 --readout $readout $(warm_up $kind 6)
  done
done
for readout in spikes current; do
  for kind in none identity; do
    compare "nmnist-$readout-$kind" --dataset nmnist --seeds 3 --width 0.125 --num-steps 4 --epochs 20 \
      --readout $readout $(warm_up $kind 5)
  done
done
for readout in spikes current; do
  for kind in none identity; do
    compare "mnist-$readout-$kind" --dataset mnist --seeds 3 --width 0.125 --num-steps 4 --epochs 4 \
      --lr-warm-up-epochs 1 --limit 10000 --test-limit 2000 --readout $readout $(warm_up $kind 2)
  done
done
study() { # name, data set, then options
  local name=$1 dataset=$2
  shift 2
  bpsta study "$name" --dataset "$dataset" --seeds 5 --jobs "${JOBS:-2}" --accelerator cpu "$@" \
    --out "results/studies/$name-$dataset.json"
}
for name in ablation causes energy alpha gradients; do
  study $name digits
done
study latency digits --epochs 15 --warm-up-epochs 3
study ablation nmnist_simulated --width 0.125 --num-steps 4 --epochs 6 --lr-warm-up-epochs 1 --warm-up identity \
  --warm-up-epochs 2 --limit 10000 --test-limit 1000 --also-test nmnist
study ablation nmnist --width 0.125 --num-steps 4 --epochs 20 --warm-up identity --warm-up-epochs 5 \
  --also-test nmnist_simulated
study ablation cifar10 --width 0.125 --num-steps 4 --epochs 6 --lr-warm-up-epochs 1 --warm-up identity --warm-up-epochs 2 \
  --batch-size 64 --no-augment --limit 4000 --test-limit 1000
for name in causes learning_rate; do
  study $name nmnist --width 0.125 --num-steps 4 --epochs 20 --warm-up identity --warm-up-epochs 5
done
study readout nmnist --width 0.125 --num-steps 4 --epochs 20
bpsta study ablation --dataset nmnist_simulated --width 0.125 --num-steps 4 --epochs 6 --lr-warm-up-epochs 1 --warm-up identity \
  --warm-up-epochs 2 --limit 10000 --test-limit 1000 --also-test nmnist --lr 0.003 --seeds 5 --jobs "${JOBS:-2}" \
  --accelerator cpu --out results/studies/ablation-nmnist_simulated-lr.json
bpsta study simulator --out results/studies/simulator.json
