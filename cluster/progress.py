"""The progress of a build, and rates over a sliding window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

WINDOW_S = 300.0
_SHORTEST_S = 2.0


class Rate:
    """The rate of a growing count over the last seconds, so that volumes skipped at the start do not count for long.

    Parameters
    ----------
    window_s
        Length of the window in seconds.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, moment: float, count: float) -> None:
        """Add the count at a moment in seconds; at most about 50 moments of the window are kept."""
        if len(self._seen) > 1 and moment - self._seen[-2][0] < self._window_s / 50:
            self._seen.pop()
        self._seen.append((moment, count))
        while len(self._seen) > 2 and self._seen[1][0] <= moment - self._window_s:
            self._seen.popleft()

    def per_second(self) -> float | None:
        """Return the rate per second, None before two seconds have been seen."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < _SHORTEST_S:
            return None
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin)

    def seconds_left(self, count: float) -> float | None:
        """Return the seconds that another `count` will take, None if the rate is unknown or zero."""
        rate = self.per_second()
        return count / rate if rate else None


@dataclass
class Build:
    """A build as its client reports it, and its rates.

    `progress` has `corpus`, `total`, `done`, `failed`, `slices`, `last_failures` and `ended`.
    """

    progress: dict[str, Any] = field(default_factory=dict)
    volumes: Rate = field(default_factory=Rate)
    slices: Rate = field(default_factory=lambda: Rate(60.0))
