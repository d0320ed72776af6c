"""A neuron and the pooling behind it, both ways: by the kernels, and by PyTorch behind them."""

import math

import torch
from _engine import F32, F64, LAYOUTS, currents, parameters, weights
from _family import float_surrogate

import snntorch_bpsta as snn
from snntorch_bpsta.functional import multistep as door
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.pool import Pool
from snntorch_bpsta.functional.record import Call, Neuron

STEP = (3, 4, 7, 10)
SURROGATES = {
    "spatial_adj": {"spatial_adj": True},
    "ArcTangent": {"spike_grad": snn.surrogate.ArcTangent(1.3)},
    "fast_sigmoid": {"spike_grad": snn.surrogate.fast_sigmoid(slope=3.1)},
    "triangular": {"spike_grad": snn.surrogate.triangular(threshold=0.6)},
    "of one's own": {"spike_grad": float_surrogate},
}
WIDE = {"numbers": (), "channel": (4, 1, 1), "neuron": STEP[1:]}


def run(
    where, cell="Leaky", reset="zero", surrogate="spatial_adj", kind="max", window=(2, 2), dtype=F32, layout="dense",
    wide="numbers", learn=False, given=False, record=False, constant=False, relu=False, inplace=False, save=None,
    delay=True, factor=1.0, shape=(5, *STEP), loss="all", impl="cpu",
):  # fmt: skip
    """Outputs and gradients by name; `where` the pooling is done: "inside" or by PyTorch "behind"."""
    names = [name for name in CELLS[cell].states if name != "spk"]
    device = "cuda" if impl == "triton" and torch.cuda.is_available() else "cpu"  # or Triton's interpreter
    x = currents(*((1, *shape[1:]) if constant else shape), scale=1.5, low=-0.4).to(device, dtype)
    leaves = {"input": x.requires_grad_()}
    if given:
        leaves |= {
            name: currents(*shape[1:], seed=3 + k).to(device, dtype).requires_grad_()
            for k, name in enumerate(CELLS[cell].states)
        }
    state = F64 if dtype == F64 else F32
    values = {k: v.to(device, state).requires_grad_(learn) for k, v in parameters(cell, WIDE[wide]).items()}
    neuron = Neuron(
        cell, reset_mechanism=reset, reset_delay=delay, residual=0.8 if reset != "none" and delay else 0.0,
        factor=torch.tensor(factor, dtype=state, device=device), **SURROGATES[surrogate], **values,
    )  # fmt: skip
    done = Pool(kind, window)
    call = Call(
        LAYOUTS[layout](leaves["input"] * 1), tuple(leaves.get(name) for name in CELLS[cell].states),
        shape[0] if constant else None, relu, inplace, tuple(names) if record else (), save, impl, False,
        done if where == "inside" else None,
    )  # fmt: skip
    spk, *states = door.multistep(neuron, call)
    if where == "behind":
        spk = done(spk.flatten(0, 1)).unflatten(0, spk.shape[:2])
    out = dict(zip(("spk", *names), (spk, *states), strict=True))
    wanted = {"all": out, "spk": ["spk"], "states": names}[loss]
    total = sum(
        (out[name] * weights(*out[name].shape, seed=7 + k).to(out[name])).sum() for k, name in enumerate(wanted)
    )
    leaves |= {name: value for name, value in values.items() if learn}
    grads = torch.autograd.grad(total, leaves.values(), allow_unused=True)
    return out | {"d" + name: grad for name, grad in zip(leaves, grads, strict=True)}


def same(**options):
    """Both ways, compared; the outputs."""
    got, expected = run("inside", **options), run("behind", **options)
    if not math.isfinite(options.get("factor", 1.0)):  # which NaN of a window gets a gradient is nobody's business
        expected = {name: value for name, value in expected.items() if name[0] != "d"}
    for name, value in expected.items():
        if value is None:
            assert got[name] is None, name
        else:
            assert torch.equal(got[name].nan_to_num(nan=7e7), value.nan_to_num(nan=7e7)), name
            assert got[name].dtype == value.dtype
    if options.get("layout") == "channels last" and min(expected["spk"].shape) > 1:
        assert got["spk"].stride() == expected["spk"].stride()
    return got
