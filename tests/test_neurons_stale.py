"""Graphs that outlive their backward: a second backward, truncated BPTT, streams, checkpoints."""

import pytest
import snntorch
import torch
from _family import (
    FAMILY,
    RECURRENT,
    B,
    N,
    T,
    currents,
    each_kind,
    each_option,
    served,
)
from _nets import make_net, make_neuron, states_of
from torch import nn
from torch.utils.checkpoint import checkpoint

import snntorch_bpsta as snn

# --- a second backward through a stale state ------------------------------------------------------


def loss_of(net, cur, how):
    if how == "step":
        return torch.stack([net(c) for c in cur]).sum()
    if how == "sequence":
        return net[2](net[1].sequence(net[0](cur))[0]).sum()
    first, last = cur[:2], cur[2:]
    return loss_of(net, first, "step") + loss_of(net, last, "sequence")


HOWS = ("step", "sequence", "both")


@served(how=HOWS)
def test_a_stale_hidden_state_says_what_to_do(kind, option, how):
    net = make_net(snn, kind, option)
    loss_of(net, currents(T, B, N), how).backward()
    loss = loss_of(net, currents(T, B, N, seed=1), how)
    with pytest.raises(RuntimeError, match=r"snn\.reset") as error:
        loss.backward()
    assert "detach" in str(error.value) and "second time" in str(error.value)
    # What it says works.
    snn.reset(net)
    cur = currents(T, B, N, seed=2)
    expected = make_net(snn, kind, option)
    net.zero_grad()
    loss_of(net, cur, how).backward()
    loss_of(expected, cur, how).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), expected.parameters(), strict=True))


@each_kind
def test_the_host_does_not_say_what_to_do(kind):
    net = make_net(snntorch, kind)
    net(currents(B, N)).sum().backward()
    with pytest.raises(RuntimeError, match="second time") as error:
        net(currents(B, N)).sum().backward()
    assert "detach" not in str(error.value) and "reset" not in str(error.value)


@served(how=("step", "sequence"), first=(1, 3), second=(1, 3))
def test_windows_of_any_length(kind, option, how, first, second):
    net = make_net(snn, kind, option)
    loss_of(net, currents(first, B, N), how).backward()
    with pytest.raises(RuntimeError, match=r"snn\.reset"):
        loss_of(net, currents(second, B, N, seed=1), how).backward()


@served(how=("step", "sequence"))
def test_a_stale_state_that_the_user_holds(kind, option, how):
    """`mem` of the last batch handed on to the next, the other usual slip."""
    lif, fc = make_neuron(snn, kind, option), nn.Linear(N, N)

    def batch(states, seed):
        cur = fc(currents(T, B, N, seed=seed))
        if how == "sequence":
            out = lif.sequence(cur, *states)
            states = (out[0][-1], *out[1:]) if kind in RECURRENT else out[1:]
            return out[0].sum(), states
        loss = 0
        for c in cur:
            out = lif(c, *states)
            states = out[-len(FAMILY[kind].states) :]
            loss = loss + out[0].sum()
        return loss, states

    loss, states = batch((), seed=0)
    loss.backward()
    with pytest.raises(RuntimeError, match="detach") as error:
        batch(states, seed=1)[0].backward()
    assert "mem" in str(error.value) and "second time" in str(error.value)
    loss, states = batch(tuple(state.detach() for state in states), seed=1)
    loss.backward()


@served(how=HOWS)
def test_retain_graph_goes_on_working(kind, option, how):
    net, joint = make_net(snn, kind, option), make_net(snn, kind, option)
    cur = [currents(T, B, N, seed=seed) for seed in range(3)]
    for i, part in enumerate(cur):
        loss_of(net, part, how).backward(retain_graph=i < 2)
    sum(loss_of(joint, part, how) for part in cur).backward()
    for p, q in zip(net.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    if option == "off" and how == "step":
        host = make_net(snntorch, kind)
        for i, part in enumerate(cur):
            loss_of(host, part, how).backward(retain_graph=i < 2)
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), host.parameters(), strict=True))


def assign_detached(lif):
    for key, state in states_of(lif).items():
        setattr(lif, key, state.detach())


def detach_in_place(lif):
    for state in states_of(lif).values():
        state.detach_()


def detach_hidden(lif):
    lif.detach_hidden()


DETACH = {"detach": assign_detached, "detach_": detach_in_place, "detach_hidden": detach_hidden, "snn": snn.detach}


@served(
    way=("step detach", "both detach", "both detach_", "sequence detach_hidden", "step snn", "both snn", "sequence snn")
)
def test_truncated_bptt(kind, option, way):
    how, detach = way.split()
    if detach == "detach_hidden" and kind == "RSynaptic":
        pytest.skip("the host's detach_hidden forgets the spikes of RSynaptic")
    net, expected = make_net(snn, kind, option), make_net(snn, kind, option)
    states = None
    for seed in range(3):
        loss_of(net, currents(T, B, N, seed=seed), how).backward()
        DETACH[detach](net[1])
        # The same by a net that starts from these values.
        twin = make_net(snn, kind, option)
        for key, value in (states or {}).items():
            setattr(twin[1], key, value)
        loss_of(twin, currents(T, B, N, seed=seed), how).backward()
        for p, q in zip(expected.parameters(), twin.parameters(), strict=True):
            p.grad = q.grad if p.grad is None else p.grad + q.grad
        states = {key: state.detach().clone() for key, state in states_of(net[1]).items()}
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert net[0].weight.grad.count_nonzero()


@each_option
def test_steps_without_gradients_in_between(kind, option):
    """They leave states without a graph, and the host goes on from these."""
    net = make_net(snn, kind, option)
    loss_of(net, currents(T, B, N), "step").backward()
    with torch.no_grad():
        loss_of(net, currents(T, B, N, seed=1), "step")
    before = net[0].weight.grad.clone()
    loss_of(net, currents(T, B, N, seed=2), "step").backward()
    assert not torch.equal(net[0].weight.grad, before)


@each_option
def test_two_streams_through_one_neuron(kind, option):
    """The backward of one frees nothing of the other."""
    lif, fc = make_neuron(snn, kind, option), nn.Linear(N, N)
    zeros = tuple(torch.zeros(B, N) for _ in FAMILY[kind].states)
    states = {0: zeros, 1: zeros}

    def advance(stream, seed):
        out = lif(fc(currents(B, N, seed=seed)), *states[stream])
        states[stream] = out[-len(FAMILY[kind].states) :]
        return out[0].sum()

    first = [advance(0, 0), advance(1, 1), advance(0, 2)]
    second = advance(1, 3)
    (first[0] + first[2]).backward()
    (first[1] + second + advance(1, 4)).backward()
    states[0] = zeros
    third = advance(0, 5)
    with pytest.raises(RuntimeError, match="second time"):
        advance(1, 6).backward()
    third.backward()


@each_option
def test_an_error_in_a_forward_does_not_stick(kind, option):
    net = make_net(snn, kind, option)
    loss_of(net, currents(T, B, N), "step").backward()
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        net(currents(B, N + 1))
    snn.reset(net)
    loss_of(net, currents(T, B, N), "step").backward()
    loss_of(make_net(snn, kind, option), currents(T, B, N), "step").backward()


@each_option
def test_checkpointed_steps(kind, option):
    """torch.utils.checkpoint runs a step twice and through a graph of its own."""
    lif, fc = make_neuron(snn, kind, option), nn.Linear(N, N)

    def grads(call):
        fc.zero_grad()
        states, loss = tuple(torch.zeros(B, N) for _ in FAMILY[kind].states), 0
        for seed in range(T):
            out = call(lif, fc(currents(B, N, seed=seed)), *states)
            states = out[-len(states) :]
            loss = loss + out[0].sum()
        loss.backward()
        return fc.weight.grad.clone()

    plain = grads(lambda module, *args: module(*args))
    torch.testing.assert_close(grads(lambda module, *args: checkpoint(module, *args, use_reentrant=False)), plain)
