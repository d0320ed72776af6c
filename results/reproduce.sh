#!/usr/bin/env bash
# Every run of this folder. Start it from the repository root with SNNTORCH_BPSTA_DATA set to the folder that holds
# MNIST, N-MNIST and CIFAR-10 (digits need none); what is packed there is unpacked into runs/data. Runs that a results file holds
# already are not done again.
set -euo pipefail
source=$SNNTORCH_BPSTA_DATA
SNNTORCH_BPSTA_DATA=$(python tests/layouts.py "$SNNTORCH_BPSTA_DATA" runs/data)
export SNNTORCH_BPSTA_DATA
study() { # folder, study, then options
  local folder=$1 name=$2
  shift 2
  bpsta study "$name" --jobs "${JOBS:-2}" --accelerator cpu "$@" --out "results/$folder"
}
warm_up() { # kind, epochs
  if [ "$1" = none ]; then echo "--warm-up none --warm-up-epochs 0"; else echo "--warm-up $1 --warm-up-epochs $2"; fi
}
for readout in spikes current; do
  for kind in none identity surrogate; do
    study "compare-digits-$readout-$kind" compare --dataset digits --seeds 5 --readout $readout $(warm_up $kind 6)
  done
done
for readout in spikes current; do
  for kind in none identity; do
    study "compare-nmnist-$readout-$kind" compare --dataset nmnist --seeds 3 --width 0.125 --num-steps 4 --epochs 20 \
      --readout $readout $(warm_up $kind 5)
  done
done
for readout in spikes current; do
  for kind in none identity; do
    study "compare-mnist-$readout-$kind" compare --dataset mnist --seeds 3 --width 0.125 --num-steps 4 --epochs 4 \
      --lr-warm-up-epochs 1 --limit 10000 --test-limit 2000 --readout $readout $(warm_up $kind 2)
  done
done
for name in ablation causes energy gradients; do
  study $name-digits $name --dataset digits
done
study alpha-digits alpha --dataset digits --settings "alpha = 0,alpha = 0.2,alpha = 0.5,alpha = 0.8,alpha = 1"
study latency-digits latency --dataset digits --epochs 15 --warm-up-epochs 3
simulated="--dataset nmnist_simulated --width 0.125 --num-steps 4 --epochs 6 --lr-warm-up-epochs 1 --warm-up identity
  --warm-up-epochs 2 --limit 10000 --test-limit 1000 --also-test nmnist"
study ablation-nmnist_simulated ablation $simulated
study ablation-nmnist_simulated-lr ablation $simulated --lr 0.003
nmnist="--dataset nmnist --width 0.125 --num-steps 4 --epochs 20"
study ablation-nmnist ablation $nmnist --warm-up identity --warm-up-epochs 5 --also-test nmnist_simulated
study ablation-cifar10 ablation --dataset cifar10 --width 0.125 --num-steps 4 --epochs 6 --lr-warm-up-epochs 1 \
  --warm-up identity --warm-up-epochs 2 --batch-size 64 --no-augment --limit 4000 --test-limit 1000
for name in causes learning_rate; do
  study $name-nmnist $name $nmnist --warm-up identity --warm-up-epochs 5
done
study readout-nmnist readout $nmnist
bpsta study simulator --out results/simulator-nmnist
bpsta study credit --out results/credit-pulse
bpsta study tutorials --jobs "${JOBS:-2}" --settings "1 hidden,2 hidden,3 hidden,population code,regression" --out results/tutorials-digits
bpsta study braille --jobs "${JOBS:-2}" --out results/braille-letters
study silent-digits silent --dataset digits
# All of MNIST: the last 5,000 training images decide on the learning rate.
[ -d runs/data-validation/MNIST ] || python results/mnist.py runs/data runs/data-validation
mnist="--dataset mnist --width 0.125 --num-steps 4 --warm-up identity --lr-warm-up-epochs 1 --augment --variants baseline,bpsa,bpsa-hidden"
study learning_rate-mnist-validation learning_rate $mnist --data-root runs/data-validation --epochs 5 --warm-up-epochs 1 --lr 0.003 \
  --limit 10000 --test-limit 5000 --seeds 1
study pareto-mnist pareto $mnist --data-root runs/data --settings "penalty 0" --batch-size 64 --epochs 10 --warm-up-epochs 2 --lr 0.001 --seeds 3
# On 20,000 recordings of N-MNIST, where they are there in their packed form: what PLAN.md fixed beforehand.
[ -f "$source/NMNIST/nmnist_1ms_test.npz" ] || exit 0
held=runs/data/nmnist-holdout chosen=runs/data/nmnist-validation
[ -d $held ] || python results/nmnist.py "$source/NMNIST" $held
[ -d $chosen ] || python results/nmnist.py "$source/NMNIST" $chosen --validation 2000
narrow="--dataset nmnist --width 0.125 --warm-up identity --lr-warm-up-epochs 1"
study learning_rate-nmnist-validation learning_rate $narrow --data-root $chosen --num-steps 4 --lr 0.003 --epochs 12 \
  --warm-up-epochs 2 --limit 15000 --test-limit 2000 --seeds 1
narrow="$narrow --data-root $held --epochs 15 --warm-up-epochs 3 --test-limit 3000"
four="penalty 0,penalty 0.3,penalty 1,penalty 3"
study pareto-nmnist pareto $narrow --num-steps 4 --limit 17000 --settings "$four" --variants baseline --lr 0.009
study pareto-nmnist pareto $narrow --num-steps 4 --limit 17000 --settings "$four" --variants bpsa,bpsa-hidden --lr 0.001
# At half the resolution: T = 16, arc tangent, another leak.
half="--dataset nmnist --frame-size 17x17 --network 64C3-MP2-128C3-MP2-256C3-AP4-512FC-10Voting --width 0.125 --warm-up identity
  --lr-warm-up-epochs 1 --limit 5000"
rates="$half --data-root $chosen --epochs 12 --warm-up-epochs 2 --test-limit 2000 --lr 0.003 --seeds 1"
half="$half --data-root $held --epochs 15 --warm-up-epochs 3 --test-limit 3000"
study learning_rate-nmnist-half-4-validation learning_rate $rates --num-steps 4 --variants baseline,atan,bpsa,bpsa+leak,bpsa-hidden
study learning_rate-nmnist-half-16-validation learning_rate $rates --num-steps 16 --variants baseline,atan,bpsa,bpsa-hidden
study learning_rate-nmnist-half-16-fast-validation learning_rate $rates --num-steps 16 --beta 0.5 --variants baseline,bpsa-hidden
sixteen="$half --num-steps 16"
study pareto-nmnist-half-16 pareto $sixteen --settings "$four" --lr 0.027 --variants baseline --seeds 3
study pareto-nmnist-half-16 pareto $sixteen --settings "$four" --lr 0.003 --variants bpsa-hidden --seeds 3
study pareto-nmnist-half-16 pareto $sixteen --settings "penalty 0" --lr 0.003 --variants bpsa-hidden --seeds 3,4
costs="on accumulates 3,on accumulates 10"
study pareto-nmnist-half-16-accumulates pareto $sixteen --settings "penalty 10,on accumulates 1,$costs" --lr 0.027 --variants baseline --seeds 3
study pareto-nmnist-half-16-accumulates pareto $sixteen --settings "$costs" --lr 0.027 --variants baseline --seeds 3,4
half="$half --num-steps 4 --seeds 3"
study pareto-nmnist-half-4 pareto $half --settings "$four" --lr 0.027 --variants baseline,atan
study pareto-nmnist-half-4 pareto $half --settings "$four" --lr 0.003 --variants bpsa,bpsa+leak,bpsa-hidden
signs="--limit 5000 --variants bpsa --seeds 3"
study alpha-nmnist alpha $narrow $signs --num-steps 4 --settings "alpha = 0,alpha = -0.5,alpha = 0.5"
study alpha-nmnist-lr alpha $narrow $signs --num-steps 4 --lr 0.003 --settings "alpha = 0,alpha = -0.5,alpha = 0.5"
study alpha-nmnist-16 alpha $narrow $signs --num-steps 16 --settings "alpha = 0,alpha = -0.5,alpha = 0.5"
