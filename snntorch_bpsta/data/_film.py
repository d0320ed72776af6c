"""The pixels of the simulated event camera."""

import numpy as np

from .._numba import njit


@njit()
def mix(weights, values):
    """``weights @ values`` for a few weights other than 0. On this thread: a BLAS would bring threads of its own, which get
    in the way of those that film beside it."""
    out = np.zeros((weights.shape[0], values.shape[1]))
    for i in range(weights.shape[0]):
        for k in range(weights.shape[1]):
            if weights[i, k] != 0:
                for j in range(values.shape[1]):
                    out[i, j] += weights[i, k] * values[k, j]
    return out


@njit(error_model="numpy")
def film(scene, samples, top, left, path, height, width, threshold, refractory, offset, x, y, t, p):
    """Events pixel by pixel into x, y, t, p, as many as there is room for; returns how many there are. `offset` is what a
    pixel has memorised at first, over what it sees; of one pixel for all, or of each."""
    count, room = 0, len(t)
    rows, columns = scene.shape
    steps = len(path) - 1
    low_x, high_x, low_y, high_y = path[:, 1].min(), path[:, 1].max(), path[:, 2].min(), path[:, 2].max()
    for i in range(height):
        for j in range(width):
            # what this pixel gets to see: nothing happens where it is all the same
            first_row = max(0, int(np.floor((i + 0.5 - high_y + top) * samples - 0.5)))
            first_column = max(0, int(np.floor((j + 0.5 - high_x + left) * samples - 0.5)))
            last_row = min(rows, int(np.ceil((i + 0.5 - low_y + top) * samples - 0.5)) + 1)
            last_column = min(columns, int(np.ceil((j + 0.5 - low_x + left) * samples - 0.5)) + 1)
            lowest, highest = np.inf, -np.inf
            for r in range(first_row, last_row):
                for c in range(first_column, last_column):
                    lowest, highest = min(lowest, scene[r, c]), max(highest, scene[r, c])
                if highest - lowest >= threshold:
                    break
            if highest - lowest < threshold:
                continue
            level, before, ready = 0.0, 0.0, -np.inf
            for step in range(steps + 1):
                v = min(max((i + 0.5 - path[step, 2] + top) * samples - 0.5, 0.0), rows - 1.001)
                u = min(max((j + 0.5 - path[step, 1] + left) * samples - 0.5, 0.0), columns - 1.001)
                r, c = int(v), int(u)
                v, u = v - r, u - c
                now = (1 - v) * ((1 - u) * scene[r, c] + u * scene[r, c + 1])
                now += v * ((1 - u) * scene[r + 1, c] + u * scene[r + 1, c + 1])
                if step == 0:
                    level = now + offset[min(i, offset.shape[0] - 1), min(j, offset.shape[1] - 1)]
                else:
                    begin, end = path[step - 1, 0], path[step, 0]
                    slope = (now - before) / (end - begin)
                    start = max(begin, ready)
                    while start <= end:
                        at_start = before + slope * (start - begin)
                        if at_start - level >= threshold or level - at_start >= threshold:
                            when = start  # it changed in the dead time
                        elif now - level >= threshold:
                            when = begin + (level + threshold - before) / slope
                        elif level - now >= threshold:
                            when = begin + (level - threshold - before) / slope
                        else:
                            break
                        seen = before + slope * (when - begin)
                        if count < room:
                            x[count], y[count], t[count], p[count] = j, i, int(when), seen > level
                        count += 1
                        level = seen
                        start = when + max(refractory, 1e-3)
                        ready = start
                before = now
    return count
