"""What :func:`snn.fold_time` returns is the net: copied, saved, moved, trained, with other shapes and in other modes."""

import copy
import io
import pickle
import warnings

import _loops_odd  # noqa: F401  (its rows)
import pytest
import snntorch
import torch
from _folding import assert_alike, assert_same, built, run, states
from _loops import NETWORKS, B, Dense, DenseSpikes, T, leaky, tutorial_net
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.layers import over_time

OURS = "dense-static", "dense-spikes", "synaptic", "recurrent-one-to-one", "conv-hidden", "segmentation", "two-loops"


def net_of(make=leaky):
    torch.manual_seed(0)
    return Dense(make)


def ours(**options):
    return snn.Leaky(beta=0.9, threshold=0.4, **options)


def assert_folded(fast, x, calls=4):
    """Equal to the net's own loop, and folded in the end."""
    nets = nn.ModuleList([fast._net])
    for call in range(calls):
        expected, grads = run(fast._net, nets, [x], call)
        got, ours_ = run(fast, nets, [x], call)
        assert_same(got, expected, "outputs")
        assert_same(ours_, grads, "gradients", 2e-4)
    assert fast.report().reason is None, fast.report()


# --- it is the net --------------------------------------------------------------------------------


def test_parameters_and_state_dict_are_those_of_the_net():
    net = net_of()
    fast = snn.fold_time(net)
    assert [id(p) for p in fast.parameters()] == [id(p) for p in net.parameters()]
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert list(fast.state_dict()) == list(net.state_dict())
    other = net_of(lambda: leaky(threshold=0.8))
    fast.load_state_dict(other.state_dict())
    assert net.lif1.threshold == 0.8
    assert fast.steps == T and fast.fc1 is net.fc1
    fast.steps = 2
    assert net.steps == 2
    fast.fc1 = nn.Linear(12, 20)
    assert net.fc1 is fast.fc1
    with pytest.raises(AttributeError, match="nothing"):
        _ = fast.nothing
    assert "FoldTime" in repr(fast) and "lif1" in repr(fast)


def test_train_and_eval_are_those_of_the_net():
    net = net_of()
    fast = snn.fold_time(net)
    assert fast.eval() is fast and not net.training and not net.fc1.training
    net.train()
    assert fast.training
    drop = NETWORKS["dropout"]
    loop, folded = built(drop)
    for mode in (True, False, True, False, False, True):
        loop[0].train(mode), folded[0].train(mode)
        assert_alike(loop, folded, drop.inputs, calls=2)


def test_hooks_of_the_net_run_once_a_call():
    net, seen = net_of(), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(output[0])))
    fast = snn.fold_time(net)
    for _ in range(4):
        fast(torch.rand(B, 12))
    assert seen == [T] * 4 and fast.report().reason is None


@pytest.mark.parametrize("on", ["net", "fold"])
@pytest.mark.parametrize("function", [False, True])
def test_backward_hooks_of_the_net(on, function):
    net, seen = net_of(), []
    fast = snn.fold_time(lambda x: net.forward(x), net) if function else snn.fold_time(net)
    where = fast if on == "fold" else net
    where.register_full_backward_hook(lambda module, into, out: seen.append(out[1].shape))
    for _ in range(4):
        fast(torch.rand(B, 12, requires_grad=True))[1].sum().backward()
    assert seen == ([] if function and on == "net" else [(T, B, 5)] * 4)


def test_sequences_of_every_length():
    """So many kinds that not each is recorded; those that come again are folded."""
    torch.manual_seed(0)
    net = DenseSpikes()
    fast, lengths = snn.fold_time(net), [*range(2, 18), 9, 9, 9, 30, 31, 9]
    with pytest.warns(UserWarning, match="of another kind, by their shapes"):
        for steps in lengths:
            x = torch.rand(steps, B, 12) * 2
            assert_same(fast(x), net(x), f"{steps} steps")
    assert fast.report().reason is None and fast._last.replayed


def test_moves_and_casts():
    net = net_of(ours)
    fast = snn.fold_time(net)
    assert_folded(fast, torch.rand(B, 12))
    assert fast.to(torch.float64) is fast and net.fc1.weight.dtype == torch.float64
    assert_folded(fast, torch.rand(B, 12, dtype=torch.float64))
    assert fast(torch.rand(B, 12, dtype=torch.float64))[0].dtype == torch.float64


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_are_their_own(how):
    net = net_of(ours)
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(3):
        fast(x)
    if how == "deepcopy":
        again = copy.deepcopy(fast)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(fast))
    else:
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert again._net is not net and again.fc1 is again._net.fc1
    with torch.no_grad():
        again.fc1.weight.mul_(2)
    assert not torch.equal(again.fc1.weight, net.fc1.weight)
    assert_folded(again, x)
    assert_folded(fast, x)


def test_several_nets():
    network = NETWORKS["gan"]
    torch.manual_seed(0)
    play, generator, critic = network.build()
    fast = snn.fold_time(play, generator, critic)
    assert len(list(fast.parameters())) == len([*generator.parameters(), *critic.parameters()])
    assert "0.0.weight" in fast.state_dict()
    fast.eval()
    assert not generator.training and not critic[0].training


# --- other calls ----------------------------------------------------------------------------------


def test_other_numbers_of_steps_and_samples():
    torch.manual_seed(0)
    fast = snn.fold_time(DenseSpikes())
    for steps, batch in ((T, B), (2, B), (T, 1), (9, 5), (T, B), (1, 2)):
        x = torch.rand(steps, batch, 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one step: nothing to fold
            for _ in range(3):
                assert_same(fast(x), fast._net(x), f"{steps} steps of {batch}")


def test_the_first_calls_of_each_kind_are_recorded_and_no_more(monkeypatch):
    calls, loop = [], snn.FoldTime._loop
    monkeypatch.setattr(snn.FoldTime, "_loop", lambda self, x: calls.append(len(x)) or loop(self, x))
    fast = snn.fold_time(DenseSpikes())
    for steps in (T, T, T, 4, 4, 4, T, 4):
        fast(torch.rand(steps, B, 12))
    assert calls == [T, T, 4, 4]
    calls.clear()
    trusting = snn.fold_time(DenseSpikes(), check=False)
    for _ in range(4):
        trusting(torch.rand(T, B, 12))
    assert calls == [T]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_and_with_them_again(mode):
    net = net_of()
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(2):
        with mode():
            for _ in range(4):
                assert_same(fast(x), net(x), "without gradients")
            assert fast.report().reason is None
        assert_folded(fast, x)


def test_hidden_states_left_in_inference_mode():
    torch.manual_seed(0)
    net = tutorial_net(2)
    fast, x = snn.fold_time(net, steps=True), torch.rand(T, B, 2, 10, 10)
    snn.reset(net)
    with torch.inference_mode():
        for _ in range(4):
            fast(x)
    snn.reset(net)
    for _ in range(4):
        fast(x)[1].sum().backward()
        snn.reset(net)
    assert fast.report().reason is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """The same types, and numbers as near as the type allows."""
    net = net_of(ours)
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(4):
        with torch.autocast("cpu", dtype=dtype):
            expected, got = net(x), fast(x)
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)
        got[1].float().sum().backward()
    assert fast.report().reason is None, fast.report()
    assert_folded(fast, x)


def test_states_from_call_to_call():
    """Truncated in time by windows: hidden states, and states in the hands of the user."""
    for name in ("states-in-attributes", "windows"):
        loop, fast = built(NETWORKS[name])
        results = []
        for function, nets in (loop, fast):
            snn.reset(nets)
            rows, mem = [], torch.zeros(B, 20)
            for window in range(5):
                torch.manual_seed(window)
                x = torch.rand(T, B, 12) * 2
                out = function(x, mem) if name == "windows" else (function(x), None)
                rows += [out[0], *states(nets)]
                mem = None if out[1] is None else out[1].detach()
            results.append(rows)
        assert_same(results[1], results[0], name)


def test_steps_go_on_from_the_hidden_states():
    pair = []
    for fold in (False, True):
        torch.manual_seed(0)
        net = tutorial_net(2)
        step = snn.fold_time(net, steps=True) if fold else net
        rows = []
        for call in range(4):
            torch.manual_seed(call)
            x = torch.rand(T, B, 2, 10, 10)
            out = step(x) if fold else tuple(map(torch.stack, zip(*(net(x_t) for x_t in x), strict=True)))
            rows += [*out, *states(net)]
            if call == 1:
                snn.reset(net)
        pair.append([t.detach() for t in rows])
    assert_same(pair[1], pair[0], "steps")


class ManyForms(Dense):
    """Spikes in a list, as a stack, and as that stack again."""

    def forward(self, x):
        mem1, mem2, rows = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rows.append(mem2)
        return rows, torch.stack(rows), torch.stack(rows), mem2


@pytest.mark.parametrize("grad", [False, True])
def test_results_may_be_written_to(grad):
    """As those of the loop: each has memory of its own, and none of it is needed for backward."""
    pair = []
    for fold in (False, True):
        torch.manual_seed(0)
        net = ManyForms()
        function, x = snn.fold_time(net) if fold else net, torch.rand(B, 12)
        for _ in range(4):
            net.zero_grad()
            with torch.set_grad_enabled(grad):
                rows, one, two, last = function(x)
                one.mul_(2)
                two[1:3] = 0
                assert last is rows[-1]
                rows[2].add_(5)
                out = [one, two, *rows, net.lif2.mem]
                if grad:
                    sum((t * (i + 1)).sum() for i, t in enumerate(out)).backward()
                    out = out + [p.grad for p in net.parameters() if p.grad is not None]
        assert not fold or function.report().reason is None
        pair.append([t.detach() for t in out])
    assert_same(pair[1], pair[0], "results", 1e-4)


def test_a_stack_may_be_written_to():
    net, other = net_of(ours), net_of(ours)
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for function in (other, fast, fast, fast):
        net.zero_grad()
        spk, mem = function(x)
        spk.mul_(0.5)
        mem.add_(spk)
        (spk.sum() + mem.sum()).backward()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()], "gradients", 1e-4)


def test_gradient_accumulation():
    net, other = net_of(), net_of()
    fast = snn.fold_time(net)
    for batch in range(5):
        x = torch.rand(B, 12, generator=torch.Generator().manual_seed(batch))
        fast(x)[1].sum().backward()
        other(x)[1].sum().backward()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()], "gradients", 1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_checkpoints(reentrant, check):
    """Of activations: what is computed again is what was computed."""
    net = net_of()
    fast = snn.fold_time(net, check=check)
    for call in range(5):
        x = torch.rand(B, 12).requires_grad_()
        out = torch.utils.checkpoint.checkpoint(fast, x, use_reentrant=reentrant)
        net.zero_grad()
        out[1].sum().backward()
        grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        net(x)[1].sum().backward()
        assert_same(grads, [p.grad for p in net.parameters() if p.grad is not None], f"call {call}", 1e-4)


def test_in_data_parallel_training(tmp_path):
    """One process of DDP."""
    import torch.distributed as dist

    net, other = net_of(ours), net_of(ours)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fast = snn.fold_time(net)
        parallel = nn.parallel.DistributedDataParallel(fast)
        for call in range(4):
            x = torch.rand(B, 12, generator=torch.Generator().manual_seed(call))
            for module in (parallel, other):
                module.zero_grad()
                module(x)[1].sum().backward()
            assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()], "gradients", 1e-4)
        assert fast.report().reason is None
    finally:
        dist.destroy_process_group()


def test_a_lightning_module():
    """Its forward has the loop; its trainer changes at every step, and says nothing about that."""
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning (extra: train) is missing")

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = Dense()
            self.fast = (snn.fold_time(self.net),)  # not a second time among the modules

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return self.fast[0](batch[0])[1].square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    lit = Lit()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(5 * B, 12)), batch_size=B)
    trainer = lightning.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(lit, data)
    assert lit.fast[0].report().reason is None and lit.fast[0].report().grouped == ("fc1", "lif1", "fc2", "lif2")
    whole, x = snn.fold_time(lit), torch.rand(B, 12)
    for _ in range(4):
        assert_same(whole(x), lit(x), "outputs")
    assert whole.report().reason is None


def test_compiled():
    """A graph of torch.compile has the net's own loop."""
    net = net_of()
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    compiled = torch.compile(fast, backend="eager")
    for _ in range(3):
        assert_same(compiled(x), net(x), "compiled")


def test_transforms_run_the_loop():
    net = net_of(ours)  # snnTorch's surrogates refuse transforms
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(3):
        fast(x)
    from torch.func import functional_call, grad

    def loss(module, parameters):
        return functional_call(module, parameters, (x,))[1].sum()

    parameters = {name: p.detach() for name, p in net.named_parameters()}
    got = grad(lambda p: loss(fast, p))(parameters)
    expected = grad(lambda p: loss(net, p))(parameters)
    assert_same(list(got.values()), list(expected.values()), "gradients")


def test_one_inside_another():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.lif = Dense(), leaky()

        def forward(self, x):
            rows, mem, out = self.inner(x)[1], self.lif.init_leaky(), []
            for row in rows:
                spk, mem = self.lif(row * 3, mem)
                out.append(spk)
            return torch.stack(out)

    plain, net = Two(), Two()
    net.inner = snn.fold_time(net.inner)
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(4):
        assert_same([fast(x), net(x)], [plain(x)] * 2, "outputs")
    assert fast.report().reason is None, fast.report()


@pytest.mark.parametrize("turn", [1, 500, 3000])
@pytest.mark.parametrize("name", OURS)
def test_turns_over_parts_of_time(name, turn, monkeypatch):
    monkeypatch.setattr(over_time, "TURN", turn)
    network = NETWORKS[name]
    loop, fast = built(network)
    assert_alike(loop, fast, network.inputs, calls=4)
    blocks = fast[0]._last.runner.plan.blocks
    assert turn > 1 or any(block.steps < len(block.units[0].members) for block in blocks)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in sorted(NETWORKS) if name not in ("dense-inhibition", "state-quant")])
def test_options_on(name):
    """Converted in place: the gradients are those of the converted net's own loop, the spikes those of snnTorch."""
    network = NETWORKS[name]
    options = {"spatial_adj": True, "temporal_alpha": 0.8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where an option has no meaning
        loop, _ = built(network)
        _, fast = built(network._replace(options=network.options | options))
        for net in loop[1]:
            snn.convert(net, **options)
        assert any(getattr(m, "spatial_adj", False) for m in fast[1].modules()) or name in ("slstm", "own-neuron")
        assert_alike(loop, fast, network.inputs, calls=3)
    assert fast[0].report().reason is None


def test_a_warm_up_and_its_end():
    network = NETWORKS["dropout"]
    options = {"spatial_adj": True, "warm_up": "surrogate"}
    loop, _ = built(network)
    _, fast = built(network._replace(options=network.options | options))
    for net in loop[1]:
        snn.convert(net, **options)
    assert {lif.warm_up for lif in fast[1].modules() if isinstance(lif, snn.Leaky)} == {"surrogate"}
    for warm_up in ("surrogate", None):
        for net in (*loop[1], fast[0]):
            snn.networks.set_warm_up(net, warm_up)
        assert_alike(loop, fast, network.inputs, calls=3)
        assert fast[0].report().reason is None


def test_joint_statistics():
    """Batch norm over all steps: as MultiStep takes it, and one move of the running averages."""

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.norm, self.lif = nn.Linear(12, 8), nn.BatchNorm1d(8), leaky()

        def forward(self, x):
            mem, out = self.lif.init_leaky(), []
            for x_t in x:
                spk, mem = self.lif(self.norm(self.fc(x_t)), mem)
                out.append(spk)
            return torch.stack(out)

    net, other = Norm(), Norm()
    fast = snn.fold_time(net, fold="joint")
    multistep = snn.MultiStep(other.fc, other.norm, snn.Leaky(beta=0.9, threshold=0.4))
    x = torch.rand(T, B, 12) * 3
    for _ in range(2):
        fast(x)
    other.norm.load_state_dict(net.norm.state_dict())
    assert_same([fast(x), net.norm.running_mean], [multistep(x), other.norm.running_mean], "joint")
    assert "norm" in fast.report().grouped


def test_snntorch_s_neurons_go_through_our_kernels(monkeypatch):
    """That is where the speed comes from."""
    from snntorch_bpsta.neurons import engine

    seen, multistep = [], engine.multistep
    monkeypatch.setattr(engine, "multistep", lambda *args: seen.append(args[1].input.shape) or multistep(*args))
    net = net_of()
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(2):
        fast(x)
    seen.clear()
    fast(x)
    assert sorted(seen) == [(1, B, 20), (T, B, 5)]  # the first has one current for all steps
    assert type(net.lif1) is snntorch.Leaky


# --- words ----------------------------------------------------------------------------------------


def test_the_report():
    network = NETWORKS["batch-norm"]
    _, (fast, _) = built(network)
    assert "has not been called" in str(fast.report())
    for _ in range(3):
        fast(*network.inputs())
    report = fast.report()
    assert {"fc1", "lif1", "fc2", "lif2"} <= set(report.grouped)
    assert 'fold="joint"' in report.stepped["norm"]
    assert "once for all steps: fc1" in str(report) and "step by step: norm" in str(report)
    measured = fast.report(*network.inputs())
    assert measured.speed_up > 0 and "times as fast" in str(measured)


REFUSED = {
    "no net": ((3,), {}, "net must be a torch.nn.Module"),
    "a class": ((Dense,), {}, "net must be"),
    "a function alone": ((len,), {}, "a function and behind it the nets that it calls"),
    "two nets": ((nn.ReLU(), nn.ReLU()), {}, "net must be a torch.nn.Module by itself"),
    "no module": ((len, 3), {}, "each of nets must be"),
    "steps": ((nn.ReLU(),), {"steps": 1}, "steps must be True or False"),
    "check": ((nn.ReLU(),), {"check": None}, "check must be True or False"),
    "fold": ((nn.ReLU(),), {"fold": "all"}, "fold must be one of 'steps', 'joint'"),
    "alpha": ((nn.ReLU(),), {"temporal_alpha": 2}, "temporal_alpha must be"),
    "spatial_adj": ((nn.ReLU(),), {"spatial_adj": "yes"}, "spatial_adj must be"),
    "warm_up": ((nn.ReLU(),), {"warm_up": "slow"}, "warm_up must be one of None, 'identity', 'surrogate'"),
    "folded": ((snn.fold_time(nn.ReLU()),), {}, "got FoldTime"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    args, options, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=words):
        snn.fold_time(*args, **options)


def test_a_net_without_a_loop_is_left_alone():
    fast = snn.fold_time(nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="no call is made more than once"):
        assert fast(torch.rand(4, 3)).shape == (4, 2)


def test_steps_take_a_tensor():
    fast = snn.fold_time(nn.Linear(3, 2), steps=True)
    with pytest.raises(TypeError, match="x must be a tensor"):
        fast([torch.rand(3)])
    with pytest.raises(ValueError, match="at least one time step"):
        fast(torch.rand(0, 3))


def test_spikes_have_the_type_of_snntorchs():
    """Its surrogates give float32, whatever the current is: unverified, the fold gave float64."""
    net = nn.Sequential(snntorch.Leaky(beta=0.5, init_hidden=True))
    x = torch.rand(4, 2, 3, dtype=torch.float64) * 2
    loop, fast = copy.deepcopy(net), snn.fold_time(net, steps=True, check=False)
    expected = torch.stack([loop(step) for step in x])
    got = fast(x)
    assert got.dtype == expected.dtype == torch.float32 and torch.equal(got, expected)
