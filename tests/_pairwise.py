"""Few rows in place of a full product: every two values of any two options meet in one of them at least."""

import itertools

import pytest


def pairwise(allowed=lambda row: True, **options):
    """Rows, as dicts, of one value per option.

    A pair of values that no allowed row has is left out. Greedy: the row with the most pairs that are still missing comes
    next, of several the first in the order of the product. So the rows are the same in every run.

    Args:
        allowed: Whether a row, a dict, may be taken.
        options: Name -> its values.
    """
    names = list(options)
    bits, rows = {}, []
    for values in itertools.product(*(range(len(values)) for values in options.values())):
        row = {name: options[name][value] for name, value in zip(names, values, strict=True)}
        if allowed(row):
            pairs = itertools.combinations(enumerate(values), min(2, len(names)))
            rows.append((row, sum(1 << bits.setdefault(pair, len(bits)) for pair in pairs)))
    missing, chosen = (1 << len(bits)) - 1, []
    while missing:
        row, pairs = max(rows, key=lambda row: (row[1] & missing).bit_count())
        chosen.append(row)
        missing &= ~pairs
    return chosen


def cases(allowed=lambda row: True, **options):
    """``pytest.mark.parametrize`` over the pairwise rows of the options, which the test takes by name.

    An id has the values in order, of a switch its name where it is on.
    """
    rows = pairwise(allowed, **options)
    ids = ["-".join(filter(None, map(word, row, row.values()))) for row in rows]
    return pytest.mark.parametrize(list(options), [tuple(row.values()) for row in rows], ids=ids)


def word(name, value):
    """An option in an id."""
    if isinstance(value, bool):
        return name if value else ""
    return str(value) if isinstance(value, str) else f"{name}={value}"
