"""What a horizontal pod autoscaler remembers: its recommendations, and the changes that it made."""

import numpy as np


class Extreme:
    """The largest (or smallest) of each lane's newest values, in about three array operations a decision.

    Values come in blocks of the window's length: a window spans the end of one block and the beginning of the
    next, so running extremes of both are enough (van Herk 1992, Gil & Werman 1993).

    Parameters
    ----------
    length:
        Decisions in the window, the newest included.
    lanes:
        Number of lanes.
    pick:
        ``np.maximum`` or ``np.minimum``.
    """

    def __init__(self, length: int, lanes: int, pick: np.ufunc) -> None:
        self._pick = pick
        self._nothing = -np.inf if pick is np.maximum else np.inf
        # Row i of the last block holds the extreme of its rows i and later.
        self._last = np.full((length, lanes), self._nothing)
        self._block = np.empty((length, lanes))
        self._running = np.empty(lanes)
        self._at = 0

    def add(self, values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
        """Add values, float64 ``[lanes]``, and return the extremes of the window.

        Parameters
        ----------
        counted:
            Whether each lane has a value now, bool ``[lanes]``; None if all have one.
        """
        row, length = self._block[self._at], len(self._block)
        row[:] = values if counted is None else np.where(counted, values, self._nothing)
        if self._at == 0:
            self._running[:] = row
        else:
            self._pick(self._running, row, out=self._running)
        self._at += 1
        if self._at < length:
            return self._pick(self._running, self._last[self._at])  # type: ignore[no-any-return]
        for i in range(length - 2, -1, -1):
            self._pick(self._block[i], self._block[i + 1], out=self._block[i])
        self._block, self._last, self._at = self._last, self._block, 0
        return self._running.copy()


class Changes:
    """The changes of one direction that the controller remembers.

    It drops a change only when a new one takes its place: the last in its list that is as old as every period
    of its own direction. The policies of the other direction may look back further, and miss it from then on.

    Parameters
    ----------
    longest:
        Longest period of the policies of this direction, in seconds.
    interval:
        Seconds between decisions.
    """

    def __init__(self, longest: int, interval: int, lanes: int) -> None:
        slots = max(1, -(-longest // interval))
        self._longest = longest
        # The slots of a lane lie side by side: only a few lanes change at a time.
        self._amount = np.zeros((lanes, slots))
        self._second = np.full((lanes, slots), -np.inf)
        self._used = np.zeros(lanes, np.int64)

    def add(self, second: int, amount: np.ndarray) -> None:
        """Remember changes made now, float64 ``[lanes]``; lanes without a change hold 0 or less."""
        lanes = np.flatnonzero(amount > 0)
        if lanes.size:
            at = self._second.take(lanes, axis=0)
            outdated = (second - at >= self._longest) & np.isfinite(at)
            replaces = outdated.any(axis=1)
            last = at.shape[1] - 1 - np.argmax(outdated[:, ::-1], axis=1)
            slot = np.where(replaces, last, self._used[lanes])
            self._amount[lanes, slot], self._second[lanes, slot] = amount[lanes], second
            self._used[lanes] += ~replaces

    def within(self, period: int, second: int, lanes: np.ndarray) -> np.ndarray:
        """Replicas changed in the last ``period`` seconds in some lanes, float64."""
        recent = second - self._second.take(lanes, axis=0) < period
        return np.asarray(np.einsum("ij,ij->i", self._amount.take(lanes, axis=0), recent))
