"""An all-to-all recurrence."""


def not_covered(neuron, call):
    return "an all-to-all recurrence"


def run(recurrence, t, c):
    raise NotImplementedError
