"""``python -m benchmarks``: our speed and memory, beside the floor, the peers and an earlier state of this repository. This
module is names only."""

QUESTIONS = {
    "layer": "one layer, forward and backward, at five sizes: all peers",
    "fused": "ReLU and layer in one pass and in place, against ReLU and then the layer",
    "family": "all six neurons over whole sequences against snnTorch's loops, and over Leaky's time",
    "loops": "networks with a user's loop over time, as they are and through fold_time; and the first call of it",
    "network": "one training step of a small convolutional network, in both memory formats and by part, and without neurons",
    "sparse": "a training step of a convolution behind spiking neurons over the firing rate: skipping zeros, and dense",
    "onm": "the public comparison of Open Neuromorphic: Linear(n, n) and a LIF, batch 16, T 500, forward and backward apart",
    "memory": "bytes kept for backward per neuron and step; peak of a training step of `middle`",
    "time": "ns per neuron and step over T at a fixed amount of work",
    "neurons": "ns per neuron and step over the amount of work at a fixed T",
    "compile": "torch.compile of a network: seconds to compile, ms per step",
    "cold": "seconds from a new process to the first result, and of the import",
    "step": "one Leaky.forward of ours against the host's, and a user's own loop over 16 steps",
    "call": "the fixed cost of a call: us of a small sequence beside torch.relu's, and how many calls of ours it makes",
}
