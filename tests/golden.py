"""What the engine and the neurons compute, as hashes of bytes, before a move and after it.

``python tests/golden.py OUT.json`` writes them, from any checkout (its root first in PYTHONPATH); ``python
tests/golden.py A.json B.json`` names what is no longer the same to the bit, outputs and gradients apart. Hashes do
not travel: one machine, one numba, one torch.
"""

import hashlib
import itertools
import json
import sys
import warnings

T, B, N = 7, 3, 37
RESETS = ("zero", "subtract", "none")
NEURONS = {
    "Leaky": {"beta": 0.9, "threshold": 0.5},
    "Lapicque": {"beta": 0.5, "threshold": 0.3},
    "RLeaky": {"beta": 0.9, "linear_features": N, "threshold": 0.5},
    "Synaptic": {"alpha": 0.8, "beta": 0.7, "threshold": 0.5},
    "RSynaptic": {"alpha": 0.8, "beta": 0.7, "linear_features": N, "threshold": 0.5},
    "Alpha": {"alpha": 0.9, "beta": 0.4, "threshold": 0.2},
}
ADJUSTED = {
    "off": {},
    "spatial": {"spatial_adj": True},
    "temporal": {"temporal_alpha": 0.8},
    "both": {"spatial_adj": True, "temporal_alpha": 0.8},
}
HOST = {
    "": {},
    "delay": {"reset_delay": False},
    "inhibition": {"inhibition": True},
    "learn": {"learn_beta": True, "learn_threshold": True},
    "hidden": {"init_hidden": True},
}
EXTRAS = {
    "": {}, "relu": {"relu": True}, "record": {"record_mem": True}, "bf16": {"save": "bfloat16"}, "compact": {"save":
    "compact"}, "inplace": {"inplace": True}, "const": {"num_steps": T}, "graded": {"graded_spikes_factor": 0.7},
}  # fmt: skip
LEARNT = {"": (0.9, 0.5), "beta": ("one", 0.5), "threshold": (0.9, "one"), "wide": ("each", "each")}


def digest(*tensors):
    import torch

    found = hashlib.sha1()
    for x in tensors:
        if x is None:
            found.update(b"None")
            continue
        x = x.detach().contiguous().reshape(-1)
        found.update(f"{x.dtype}{tuple(x.shape)}".encode() + x.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def current(*shape, seed=0, dtype=None):
    import torch

    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 0.4
    return values.to(dtype or torch.float32).requires_grad_()


def graded(out, leaves, weights):
    import torch

    loss = sum((x.float() * weight).sum() for x, weight in zip(out, weights, strict=True))
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def at_the_door():
    """``lif_multistep``: name -> hashes of outputs and of gradients, or the refusal."""
    import torch

    import snntorch_bpsta as snn

    surrogate = snn.surrogate
    surrogates = {
        "spatial": {"spatial_adj": True}, "atan": {}, "rectangle": {"spike_grad": surrogate.rectangle(0.8)},
        "sigmoid": {"spike_grad": surrogate.sigmoid(slope=6)}, "triangular": {"spike_grad":
        surrogate.triangular(threshold=0.6)}, "escape": {"spike_grad": surrogate.spike_rate_escape(beta=0.9,
        slope=1.3)}, "sfs": {"spike_grad": surrogate.SFS(slope=3.1, B=-0.2)},
    }  # fmt: skip
    wide = {"beta": torch.linspace(0.5, 0.95, N), "threshold": torch.linspace(0.3, 0.6, N)}
    kinds = [("cpu", kind) for kind in (torch.float32, torch.float64, torch.bfloat16)] + [("reference", torch.float32)]
    for (impl, dtype), name, reset, extra, learnt in itertools.product(kinds, surrogates, RESETS, EXTRAS, LEARNT):
        values, leaves = {}, []
        for key, value, one in zip(("beta", "threshold"), LEARNT[learnt], (0.9, 0.5), strict=True):
            if isinstance(value, str):
                value = (torch.tensor(one) if value == "one" else wide[key].clone()).requires_grad_()
                leaves.append(value)
            values[key] = value
        x, mem = current(1 if extra == "const" else T, B, N, dtype=dtype), current(B, N, seed=1, dtype=dtype)
        options = surrogates[name] | EXTRAS[extra] | values
        options |= {"temporal_alpha": 0.0 if reset == "none" else 0.8, "reset_mechanism": reset, "impl": impl}
        key = f"door {impl} {dtype} {name} {reset} {extra} {learnt}"
        try:
            out = snn.functional.lif_multistep(x * 1, mem, **options)
        except (NotImplementedError, ValueError) as error:
            yield key, f"{type(error).__name__}: {str(error)[:90]}"
            continue
        weights = [current(*y.shape, seed=2 + k).detach() for k, y in enumerate(out)]
        yield key, [digest(*out), digest(*graded(out, [x, mem, *leaves], weights))]


def of_neurons():
    """Steps and sequences of the six, also in half precision."""
    import torch

    import snntorch_bpsta as snn

    ways = ("steps", "sequence", "half")
    for name, adjusted, host, reset, way in itertools.product(NEURONS, ADJUSTED, HOST, RESETS, ways):
        torch.manual_seed(0)
        key = f"{name} {adjusted} {host} {reset} {way}"
        try:
            neuron = getattr(snn, name)(**NEURONS[name], **ADJUSTED[adjusted], **HOST[host], reset_mechanism=reset)
            dtype = torch.bfloat16 if way == "half" else torch.float32
            neuron = neuron.to(dtype)
            x = current(T, B, N, dtype=dtype)
            if way == "sequence":
                out = neuron.sequence(x)
            else:
                states, rows, after = (), [], ()
                for cur in x.unbind(0):
                    step = neuron(cur, *states)
                    step = step if isinstance(step, tuple) else (step,)
                    rows.append(step[0])
                    after = step[1:]
                    states = () if host == "hidden" else step if name.startswith("R") else after
                out = (torch.stack(rows), *after)
            weights = [current(*out[0].shape, seed=2).detach(), *(torch.ones_like(y).float() for y in out[1:])]
            yield key, [digest(*out), digest(*graded(out, [x, *neuron.parameters()], weights))]
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            yield key, f"{type(error).__name__}: {str(error)[:90]}"


def compare(before, after):
    """Print what differs; the number of cases whose outputs do."""
    outputs, gradients = [], []
    for key, old in before.items():
        new = after.get(key)
        if old == new:
            continue
        same = isinstance(old, list) and isinstance(new, list) and old[0] == new[0]
        (gradients if same else outputs).append(key)
    refused = sum(isinstance(value, str) for value in before.values())
    print(
        f"{len(before)} cases, {refused} of them refusals: {len(outputs)} outputs and {len(gradients)} gradients differ"
    )
    for kind, keys in (("output", outputs), ("gradient", gradients)):
        for key in keys:
            print(f"  {kind} {key}: {before[key]} -> {after.get(key)}")
    return len(outputs)


def main(arguments):
    if len(arguments) == 2:
        before, after = (json.load(open(name, encoding="utf-8")) for name in arguments)
        return 1 if compare(before, after) else 0
    if len(arguments) != 1:
        print(__doc__)
        return 2
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with open(arguments[0], "w", encoding="utf-8") as out:
        json.dump(dict(itertools.chain(at_the_door(), of_neurons())), out, indent=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
