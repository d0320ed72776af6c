"""Whatever fold_time is called with: a right result, or an error that names the argument."""

import contextlib
import copy

import pytest
import snntorch
import torch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import ANYTHING, NETS, OPTIONS, REFUSED, SEQUENCES, attempt, calls, copied, fuzz, mostly, optional, tensors
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta._torch import tree_leaves  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
FLAG = optional(True, False)


@fuzz("fold_time", "FoldTime", "FoldTime.report", "FoldReport", examples=150, draws=st.data(), arguments=calls(
    net=NETS, steps=FLAG, fold=optional("steps", "joint"), check=FLAG, **OPTIONS,
    warm_up=optional(None, "surrogate", "identity"),
))  # fmt: skip
def test_fold_time(draws, arguments):
    arguments = dict(arguments)
    net = arguments.pop("net")
    nets = draws.draw(st.sampled_from([(), (), (), (nn.Identity(),), (3,)]), label="nets")
    fast = attempt(snn.fold_time, net, *nets, **arguments)
    if fast is REFUSED:
        return
    options = {name: value for name, value in arguments.items() if name not in (*OPTIONS, "warm_up")}
    assert type(attempt(snn.FoldTime, net, *nets, **options)) is snn.FoldTime
    assert type(fast.report()) is snn.FoldReport and str(fast.report()) and repr(fast)
    x = draws.draw(mostly(tensors(SEQUENCES), ANYTHING), label="x")
    if not isinstance(net, nn.Module) or not isinstance(x, torch.Tensor):
        return
    if any(isinstance(module, snntorch.SLSTM) for module in net.modules()) and x.dim() < 3:
        return  # snnTorch's loop ends the process: torch's LSTMCell reads beyond the states of a step without a batch
    loop = copy.deepcopy(fast)._loop
    for _ in range(4):
        try:
            expected = loop(copied(x))
        except Exception as error:
            with contextlib.suppress(type(error)):
                fast(copied(x))
                raise AssertionError(f"no {type(error).__name__}") from error
            return
        got = fast(copied(x))
        for a, b in zip(tree_leaves(got), tree_leaves(expected), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            if x.dtype in (torch.float16, torch.bfloat16):
                continue  # the kernels' states are float32, so that a spike may differ
            if not a.is_meta:
                kind = torch.complex128 if a.is_complex() else torch.float64
                a, b = a.to_dense().to(kind), b.to_dense().to(kind)
                assert torch.allclose(a, b, equal_nan=True, rtol=1e-3, atol=1e-3)
