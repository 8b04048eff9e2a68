"""New."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

WINDOW_S = 300.0


_FEWEST_S = 2.0


class Pace:
    """Counts at moments. Only a window of them is kept, so that what was skipped at the start does not count for ever.

    Parameters
    ----------
    window_s
        Seconds that count.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, moment: float, count: float) -> None:
        """Take in a count that only grows. Moments that do not grow by a fiftieth of the window replace the last."""
        if len(self._seen) > 1 and moment - self._seen[-2][0] < self._window_s / 50:
            self._seen.pop()
        self._seen.append((moment, count))
        while len(self._seen) > 2 and self._seen[1][0] <= moment - self._window_s:
            self._seen.popleft()

    def rate(self) -> float | None:
        """Give counts a second, None before anything can be said."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < _FEWEST_S:
            return None
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin)

    def seconds_left(self, left: float) -> float | None:
        """Give the seconds that so many more take, None where that cannot be said."""
        rate = self.rate()
        return left / rate if rate else None


@dataclass
class Build:
    """One build as its client tells of it, and how fast it goes."""

    told: dict[str, Any] = field(default_factory=dict)
    volumes: Pace = field(default_factory=Pace)
    slices: Pace = field(default_factory=lambda: Pace(60.0))
