"""Hidden states that must not be gone on from, of a freed graph or in a recomputation: errors that say what to do, where
PyTorch's do not or there are none."""

from __future__ import annotations

import torch

from .._torch import backward_pass, is_freed, is_transforming, keeps_graph
from ..functional.operator import STALE

_RECOMPUTED = (
    "a neuron goes on from its hidden states inside a backward pass, as activation checkpointing runs it again, and these "
    "states are not those that the first run began with: the gradients would be wrong. Checkpoint the whole sequence, with "
    "snn.reset(net) first in the checkpointed function; or hold the states yourself (init_hidden=False), and pass them"
)


class Watched:
    """Looks at the states that a neuron goes on from."""

    def _check_recomputed(self):
        """Refuse hidden states written outside of the backward pass that is under way in this thread."""
        now = backward_pass()
        if now != -1 and any(self._written_in.get(name) != now for name in self._states):
            raise RuntimeError(_RECOMPUTED)

    def _guard(self, states):
        """`states` with a hook on those whose graph is freed, and whether they begin a new graph."""
        mem = states[-1]
        goes_on = mem.grad_fn is not None and (mem is self.mem or self._handed_out("mem") is mem)
        if self._graph is not None and self._graph[0] and torch.is_grad_enabled():
            states = [
                _hooked(state) if (goes_on or state is getattr(self, name)) and _is_freed(state.grad_fn) else state
                for name, state in zip(self._states, states, strict=True)
            ]  # one by one: RSynaptic.reset_hidden of snnTorch forgets the spike
        return states, not goes_on

    def _watch(self, *outputs):
        """Note when a backward pass frees the graph that these first outputs begin."""
        self.__dict__["_graph"] = graph = [False]
        if is_transforming():
            return

        def note(grad):
            graph[0] = graph[0] or not keeps_graph()

        for output in outputs:
            if output.requires_grad:
                output.register_hook(note)


def _hooked(state):
    state = state.view_as(state)  # the state itself may live on elsewhere
    state.register_hook(_refuse)
    return state


def _refuse(grad):
    raise RuntimeError(STALE)


def _is_freed(node):
    """Whether a backward pass has freed what the graph behind `node` needs to be gone through again."""
    todo, seen = [node], set()
    while todo and len(seen) < 100:
        node = todo.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if is_freed(node):
            return True
        todo += [before for before, _ in node.next_functions]
    return False
