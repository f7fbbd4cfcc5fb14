"""Perfect knowledge: the pods that are worth their price for a load that is known."""

import numpy as np

# Steps whose values stay in the cache.
_AT_ONCE = 64


def worthwhile(
    demand: np.ndarray, serving: np.ndarray, prices: tuple[float, float], change: float, every: int = 1
) -> np.ndarray:
    """The pods that should serve at each step, so that the cost of the whole demand is lowest.

    The n-th pod serves the part of the load between n - 1 and n. Whether it should serve is a choice of its
    own, with two states and a price to begin; dynamic programming from the end finds the best one (Bellman
    1957). A pod that should serve never has one below it that should not.

    Parameters
    ----------
    demand:
        Load in pods, float64 ``[steps, series]``; the steps are a multiple of ``every``.
    serving:
        Pods that serve before the first step, int64 ``[series]``.
    prices:
        Of a pod-step of unserved load, and of an idle one.
    change:
        Idle pod-steps that it takes to begin and to end to serve.
    every:
        Steps between two changes.

    Returns
    -------
    int64 ``[steps / every, series]``.
    """
    under, over = prices
    lowest = np.minimum(np.floor(demand.min(axis=0)).astype(np.int64), serving)
    highest = np.maximum(np.ceil(demand.max(axis=0)).astype(np.int64), serving)
    # The pods in between, one lane each; all below always serve, all above never.
    count = np.maximum(highest - lowest, 1)
    begins = np.cumsum(count) - count
    series = np.repeat(np.arange(len(count)), count)
    below = lowest[series] + np.arange(len(series)) - begins[series]
    both, price = np.float32(under + over), np.float32(change * over)
    scaled, lower = (demand * both).astype(np.float32), (below * both).astype(np.float32)
    # What it would save from a step on to serve rather than not to.
    saved = np.zeros(len(series), np.float32)
    on, stays = (np.empty((len(demand) // every, len(series)), bool) for _ in range(2))
    size = _AT_ONCE // every
    for stop in range(len(on), 0, -size):
        first = max(stop - size, 0)
        each = np.take(scaled[first * every : stop * every], series, axis=1)
        each -= lower
        np.maximum(each, 0, out=each)
        np.minimum(each, both, out=each)
        part = each.reshape(-1, every, len(series)).sum(axis=1) if every > 1 else each
        part -= np.float32(over * every)
        for step in range(stop - first - 1, -1, -1):
            np.maximum(saved, 0, out=saved)
            np.minimum(saved, price, out=saved)
            saved += part[step]
            part[step] = saved
        np.greater(part, price, out=on[first:stop])
        np.greater(part, 0, out=stays[first:stop])
    state = below < serving[series]
    for step in range(len(on)):
        state |= on[step]
        state &= stays[step]
        on[step] = state
    found: np.ndarray = np.add.reduceat(on.view(np.int8), begins, axis=1, dtype=np.int32) + lowest
    return found
