"""Two threads that train two nets do not disturb each other, nor a process forked from them."""

import contextlib
import os
import select
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn

STEPS, BATCH = 10, 64  # as many that the kernels share the neurons out among threads of their own


@pytest.fixture(autouse=True, scope="module")
def two_threads():
    """Of PyTorch's and the kernels' own, beside those of Python."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def engine(seed, threshold):
    """All steps in one call."""
    neuron = dict(beta=0.9, threshold=threshold, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
    torch.manual_seed(seed)
    net = snn.MultiStep(nn.Linear(20, 256), snn.Leaky(**neuron), nn.Linear(256, 4), snn.Leaky(**neuron))
    return net, net


def loop(seed, threshold):
    """Step by step, with hidden states."""
    torch.manual_seed(seed)
    neuron = dict(beta=0.9, threshold=threshold, init_hidden=True, spatial_adj=True, temporal_alpha=0.8)
    net = nn.Sequential(nn.Linear(20, 256), snn.Leaky(**neuron), nn.Linear(256, 4), snn.Synaptic(alpha=0.5, **neuron))

    def forward(x):
        snn.reset(net)
        return torch.stack([net(step) for step in x])

    return net, forward


def host(seed, threshold):
    """Code that knows snnTorch alone."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(20, 256),
        snntorch.Leaky(beta=0.9, threshold=threshold, init_hidden=True),
        nn.Linear(256, 4),
        snntorch.Leaky(beta=0.9, threshold=threshold, init_hidden=True),
    )

    def forward(x):
        snn.reset(net)
        return torch.stack([net(step) for step in x])

    return net, forward


def train(build, seed, threshold, context=contextlib.nullcontext, turn=None):
    """A few optimiser steps: the losses, the weights, and the class of the first neuron. `turn`: waits for the others."""
    generator = torch.Generator().manual_seed(seed)
    with context():
        net, forward = build(seed, threshold)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses = []
        for _ in range(6):
            if turn is not None:
                turn()
            x = torch.rand(STEPS, BATCH, 20, generator=generator)
            y = torch.randint(0, 4, (BATCH,), generator=generator)
            loss = nn.functional.cross_entropy(forward(x).mean(0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    neurons = [type(module) for module in net.modules() if isinstance(module, snntorch.SpikingNeuron)]
    return losses, [parameter.detach().clone() for parameter in net.parameters()], neurons


def patched():
    return snn.patched(spatial_adj=True, temporal_alpha=0.8)


PAIRS = {
    "engine-and-engine": ((engine, 0, 0.5), (engine, 1, 0.7)),
    "engine-and-loop": ((engine, 0, 0.5), (loop, 1, 0.7)),
    "loop-and-loop": ((loop, 0, 0.5), (loop, 1, 0.7)),
    "compressed-and-not": ((engine, 0, 0.5, snn.compress_spikes), (engine, 1, 0.7)),
    "patched-and-not": ((host, 0, 0.5, patched), (host, 1, 0.7)),
    "patched-and-ours": ((host, 0, 0.5, patched), (loop, 1, 0.7)),
    "patched-twice": ((host, 0, 0.5, patched), (host, 1, 0.7, lambda: snn.patched(spatial_adj=True))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_threads_do_as_each_alone(name):
    alone = [train(*run) for run in PAIRS[name]]
    assert all(losses[0] != losses[-1] for losses, _, _ in alone), "it learns"
    barrier = threading.Barrier(2, timeout=120)
    with ThreadPoolExecutor(2) as pool:
        building = threading.Lock()

        def run(build, *rest):
            def locked(*arguments):  # the seed of the weights is the process's
                with building:
                    return build(*arguments)

            context = rest[2] if len(rest) > 2 else contextlib.nullcontext
            return train(locked, *rest[:2], context, barrier.wait)

        together = [future.result() for future in [pool.submit(run, *pair) for pair in PAIRS[name]]]
    for (losses, weights, neurons), (expected, expected_weights, expected_neurons) in zip(together, alone, strict=True):
        assert losses == expected and neurons == expected_neurons
        assert all(torch.equal(a, b) for a, b in zip(weights, expected_weights, strict=True))
    if name == "patched-and-not":
        assert alone[0][2] == [snn.Leaky] * 2 and alone[1][2] == [snntorch.Leaky] * 2
    assert not hasattr(snntorch.Leaky.__init__, "__wrapped__"), "nothing is left of patched"


def test_a_block_of_another_thread_may_end_first():
    """patched() of two threads that overlap: neither ends the other's."""
    entered, left = threading.Event(), threading.Event()

    def first():
        with snn.patched(spatial_adj=True):
            entered.set()
        left.set()

    with snn.patched(temporal_alpha=0.5):
        thread = threading.Thread(target=first)
        thread.start()
        assert entered.wait(60) and left.wait(60)
        neuron = snntorch.Leaky(beta=0.9)
        thread.join()
    assert type(neuron) is snn.Leaky and (neuron.spatial_adj, neuron.temporal_alpha) == (False, 0.5)
    assert type(snntorch.Leaky(beta=0.9)) is snntorch.Leaky


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_kernels_run_in_a_forked_process():
    """As in the workers of a DataLoader: the threads of the kernels are not there, and are not waited for."""
    neuron, x = snn.Leaky(beta=0.9, spatial_adj=True), torch.rand(20, 64, 256)
    expected = int(neuron.sequence(x)[0].detach().numpy().sum())
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.write(writing, str(int(neuron.sequence(x)[0].detach().numpy().sum())).encode())
        os._exit(0)
    os.close(writing)
    ready = select.select([reading], [], [], 60)[0]
    answer = os.read(reading, 100).decode() if ready else "nothing within 60 s"
    if not ready:
        os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reading)
    assert answer == str(expected)


def test_a_thread_goes_on_when_the_main_one_has_ended():
    """As in a script that starts its training in a thread, and ends. The kernels get no more threads of their own then."""
    code = """
        import threading, torch, snntorch_bpsta as snn
        torch.set_num_threads(2)
        neuron, x = snn.Leaky(beta=0.9, spatial_adj=True), torch.rand(20, 64, 256)

        def train():
            cur = x.clone().requires_grad_()
            neuron.sequence(cur)[0].sum().backward()
            return cur.grad

        expected, main = train(), threading.main_thread()

        def go_on():
            main.join()
            print(torch.equal(train(), expected))

        threading.Thread(target=go_on).start()
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert (out.stdout, out.returncode) == ("True\n", 0), out.stderr
