"""The progress of a build in slices weighted by their pixels: one estimator, one snapshot, one wording everywhere."""

from __future__ import annotations

import heapq
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.text import format_seconds

WINDOW_S = 300.0
"""Window of the rate from which the remaining time follows."""
SHOWN_WINDOW_S = 60.0
"""Window of the slices per second that are shown."""
VOLUME_PIXELS = 1 << 14
"""Work of a volume besides its slices (reading, committing), in pixels, until the build has shown it: 128 x 128."""

_SHORTEST_S = 2.0
_TAIL = 2000
"""Volumes at the end of a manifest whose distribution over the workers is followed one by one."""
_SHOWN_IN_WORK = 8
_MOST_VOLUME_PIXELS = 4e6
_SAMPLING = 1.0
"""Share of sampling in the time of a volume, until a volume has finished."""


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
        """Return the rate per second, None before two seconds have been seen; 0 if a lost worker took its work back."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < _SHORTEST_S:
            return None
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return max(last - first, 0.0) / (end - begin)


@dataclass(frozen=True)
class InWork:
    """A volume that a worker is building; `num_slices` and `pixels` are 0 until it has been read.

    `done` counts slices whose phase was sampled, `pixels` those of all slices.
    """

    name: str
    done: int = 0
    num_slices: int = 0
    pixels: int = 0

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> InWork:
        """Return the volume of an entry of `rephase.counters.Counters.snapshot`, which names its build, too."""
        return cls(**{name: value for name, value in document.items() if name != "build"})

    def __str__(self) -> str:
        if not self.num_slices:
            return f"{self.name}: reading"
        return f"{self.name}: {self.done} of {self.num_slices} slices"


@dataclass(frozen=True)
class Progress:
    """The progress of a build at one moment.

    Attributes
    ----------
    moment
        Seconds since 1970.
    num_volumes, built, skipped, failed, not_retried
        Volumes requested, those with an outcome, and those that failed in an earlier run and are left out.
    num_slices
        Slices of the volumes built.
    share
        Share of this run's work that is done, in slices weighted by their pixels.
    slices_per_s, seconds_left
        Over the last minute; None if unknown.
    num_in_work, in_work
        Number of volumes being built, and the first of them.
    """

    moment: float
    num_volumes: int = 0
    built: int = 0
    skipped: int = 0
    failed: int = 0
    not_retried: int = 0
    num_slices: int = 0
    share: float = 0.0
    slices_per_s: float | None = None
    seconds_left: float | None = None
    num_in_work: int = 0
    in_work: tuple[InWork, ...] = ()

    @property
    def num_done(self) -> int:
        """Number of volumes with an outcome."""
        return self.built + self.skipped + self.failed + self.not_retried

    @property
    def num_left(self) -> int:
        """Number of volumes without an outcome."""
        return max(self.num_volumes - self.num_done, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the progress as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Progress:
        """Return the progress of a JSON object; TypeError or KeyError if it is none."""
        in_work = tuple(InWork(**one) for one in document["in_work"])
        return cls(**{**document, "in_work": in_work})

    def speed(self) -> str:
        """Format rate and remaining time: `5.2 slices/s, about 3 min left, until 2026-01-01 10:00 UTC`."""
        parts = [] if self.slices_per_s is None else [f"{self.slices_per_s:.1f} slices/s"]
        if self.seconds_left is not None:
            end = datetime.fromtimestamp(self.moment, UTC) + timedelta(seconds=self.seconds_left)
            parts.append(f"about {format_seconds(self.seconds_left)} left, until {end:%Y-%m-%d %H:%M} UTC")
        return ", ".join(parts) or "not known yet"

    def working_on(self, most: int = _SHOWN_IN_WORK) -> str:
        """Format what is in work: `head-12: 83 of 256 slices, head-13: reading`."""
        shown = [str(one) for one in self.in_work[:most]]
        more = self.num_in_work - len(shown)
        return ", ".join([*shown, *([f"{more} more"] if more > 0 and shown else [])]) or "nothing"

    def line(self) -> str:
        """Format the progress as one short line, for a bar."""
        parts = [f"{self.num_done} of {self.num_volumes} volumes"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.slices_per_s is not None:
            parts.append(f"{self.slices_per_s:.1f} slices/s")
        if self.seconds_left is not None:
            parts.append(f"{format_seconds(self.seconds_left)} left")
        return ", ".join(parts) + (f" | {self.working_on(1)}" if self.in_work else "")


def makespan(begun: Sequence[float], costs: NDArray[np.float64], slots: int) -> float:
    """Return how long workers take for volumes that each of them takes in order, as soon as it is free.

    Parameters
    ----------
    begun
        Costs left of volumes that are being built.
    costs
        Costs of the others in their order. All but the last 2,000 are taken as spread evenly.
    slots
        Number of workers.
    """
    free = [0.0] * slots
    for cost in sorted(begun, reverse=True):
        heapq.heapreplace(free, free[0] + cost)
    tail = costs[-_TAIL:]
    even = float(costs[: len(costs) - len(tail)].sum())
    level = (sum(free) + even) / slots
    free = [max(level, one) if even else one for one in free]
    heapq.heapify(free)
    for cost in tail.tolist():
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def mean_known(pixels: array[float]) -> float:
    """Return the mean of the known sizes, 0 if there are none."""
    known = np.frombuffer(pixels)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else 0.0


def fill_unknown(pixels: NDArray[np.float64] | float, mean: float) -> NDArray[np.float64]:
    """Return sizes with a mean in place of the unknown ones."""
    return np.where(np.isnan(pixels), mean, pixels)


class VolumeCost:
    """The work of a volume besides its slices, in pixels, as least squares find it in what volumes took.

    A volume of `p` pixels takes `rate * p + fixed` seconds. Observations count by their relative errors; those of equal
    sizes alone cannot tell the two apart, so one weak observation says `fixed = rate * VOLUME_PIXELS`.
    """

    def __init__(self) -> None:
        self._normal = np.zeros((2, 2))
        self._right = np.zeros(2)
        self._scale = 0.0
        self._num_volumes = 0
        self._sampled_pixels = self._sampling_s = 0.0

    def add_volume(self, pixels: float, seconds: float) -> None:
        """Add a volume that was built in so many seconds of work."""
        row = np.array([pixels, 1.0]) / (pixels + VOLUME_PIXELS)
        self._normal += np.outer(row, row)
        self._right += row * seconds / (pixels + VOLUME_PIXELS)
        self._scale += seconds / (pixels + VOLUME_PIXELS)
        self._num_volumes += 1

    def add_sampling(self, pixels: float, seconds: float) -> None:
        """Add slices that were sampled in this time, in the midst of a volume."""
        self._sampled_pixels += pixels
        self._sampling_s += seconds

    def pixels(self) -> float:
        """Return the work of a volume besides its slices, in pixels."""
        if not self._num_volumes:
            return VOLUME_PIXELS
        prior = 0.1 * np.array([1.0, -1.0 / VOLUME_PIXELS])
        normal, right = self._normal + np.outer(prior, prior), self._right.copy()
        if self._sampled_pixels:
            normal[0, 0] += 1.0
            right[0] += self._sampling_s / self._sampled_pixels
        rate, fixed = np.linalg.solve(normal, right)
        if rate <= 0.01 * self._scale / self._num_volumes:
            return VOLUME_PIXELS
        return float(min(max(fixed / rate, 0.0), _MOST_VOLUME_PIXELS))


@dataclass
class Estimator:
    """Estimates the progress of a run from what its client learns; not thread-safe.

    Volumes have positions, in the order in which they start. The cost of a volume is its number of pixels (of all
    slices) and those of `VolumeCost`; that of a volume of unknown size is the mean of the known ones.

    Parameters
    ----------
    pixels
        Pixels by position, NaN where unknown; the estimator changes it.
    num_workers
        Number of workers.
    clock
        Returns seconds.
    """

    pixels: array[float]
    num_workers: int = 1
    clock: Callable[[], float] = time.monotonic
    _started: dict[str, int] = field(default_factory=dict)
    _next: int = 0
    _in_work: dict[str, InWork] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=lambda: {"built": 0, "skipped": 0, "failed": 0, "not_retried": 0})
    _cost_of_volume: VolumeCost = field(default_factory=VolumeCost)
    _finished: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _sampled: dict[str, tuple[float, int]] = field(default_factory=dict)
    _num_slices: int = 0
    _stage_s: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __post_init__(self) -> None:
        self._settled = bytearray(len(self.pixels))
        self._moment = self.clock()
        self._slot_s = 0.0
        window_s = WINDOW_S * max(self.num_workers, 1)
        self._work, self._volumes = Rate(window_s), Rate(window_s)
        self._slices = Rate(SHOWN_WINDOW_S)

    def learn(self, position: int, pixels: float) -> None:
        """Note the size of a volume, as a header states it or a worker has read it."""
        self.pixels[position] = pixels

    def settle(self, position: int) -> None:
        """Note that a volume needs no work, as it is committed."""
        self._settled[position] = 1

    def start(self, name: str, position: int) -> None:
        """Note that a volume was handed to the cluster; those before it that were not are left out."""
        self.leave_out(position)
        self._next = position + 1
        self._started[name] = position

    def leave_out(self, end: int) -> None:
        """Note that all volumes before this position that have not started are left out."""
        self._counts["not_retried"] += max(end - self._next, 0)
        self._next = max(self._next, end)

    def finish(self, name: str, status: str, num_slices: int, pixels: int | None, seconds: Mapping[str, float]) -> None:
        """Count an outcome. Only volumes that were built count as work: others take hardly any time."""
        self._advance()
        position = self._started.pop(name, None)
        self._in_work.pop(name, None)
        self._sampled.pop(name, None)
        self._counts[status] += 1
        if position is not None and pixels:
            self.learn(position, pixels)
        if status != "built":
            return
        known = pixels or (self.pixels[position] if position is not None else np.nan)
        known = mean_known(self.pixels) if np.isnan(known) else known
        active_s = sum(value for stage, value in seconds.items() if stage not in ("waiting", "lookup"))
        self._finished[0] += known
        self._finished[1] += 1
        self._num_slices += num_slices
        self._stage_s[0] += seconds.get("sample", 0.0)
        self._stage_s[1] += active_s
        self._cost_of_volume.add_volume(known, active_s)

    def observe(self, in_work: Iterable[InWork], num_workers: int) -> None:
        """Note what the workers are doing, and how many they are."""
        self._advance()
        self.num_workers = max(num_workers, 1)
        self._in_work = {one.name: one for one in in_work if one.name in self._started}
        for one in self._in_work.values():
            if one.pixels:
                self.learn(self._started[one.name], one.pixels)
            moment, done = self._sampled.get(one.name, (0.0, 0))
            if one.done > done > 0:
                self._cost_of_volume.add_sampling(
                    one.pixels * (one.done - done) / one.num_slices, self._moment - moment
                )
            if one.done != done:
                self._sampled[one.name] = (self._moment, one.done)

    def progress(self, moment: float | None = None) -> Progress:
        """Return the progress now; `moment` is in seconds since 1970."""
        self._advance()
        mean, fixed = mean_known(self.pixels), self._cost_of_volume.pixels()
        sizes = {name: fill_unknown(self.pixels[position], mean) for name, position in self._started.items()}
        parts = {name: self._part(one) for name, one in self._in_work.items()}
        # apart, since the cost of a volume besides its slices becomes better known
        pixels = self._finished[0] + sum(float(sizes[name]) * part for name, part in parts.items())
        volumes = self._finished[1] + sum(parts.values())
        sampled = self._num_slices + sum(self._in_work[name].num_slices * part for name, part in parts.items())
        left = [(float(size) + fixed) * (1 - parts.get(name, 0.0)) for name, size in sizes.items()]
        waiting = ~np.frombuffer(self._settled, dtype=bool)[self._next :]
        costs = fill_unknown(np.frombuffer(self.pixels)[self._next :][waiting], mean) + fixed
        done = pixels + fixed * volumes
        whole = done + sum(left) + float(costs.sum())
        self._work.add(self._slot_s, pixels)
        self._volumes.add(self._slot_s, volumes)
        self._slices.add(self._moment, sampled)
        per_slot = (self._work.per_second() or 0.0) + fixed * (self._volumes.per_second() or 0.0)
        per_slot = per_slot or (done / self._slot_s if self._slot_s > _SHORTEST_S else 0.0)
        first = sorted(self._in_work.values(), key=lambda one: -one.done)
        return Progress(
            moment=time.time() if moment is None else moment,
            num_volumes=len(self.pixels),
            **self._counts,
            num_slices=self._num_slices,
            share=done / whole if whole else 1.0,
            slices_per_s=self._slices.per_second(),
            seconds_left=makespan(left, costs, self.num_workers) / per_slot if per_slot else None,
            num_in_work=len(first),
            in_work=tuple(first[:_SHOWN_IN_WORK]),
        )

    def _advance(self) -> None:
        """Count the time of the workers that have work: a rate per worker holds when fewer of them are busy, too."""
        now = self.clock()
        busy = min(len(self._in_work) or len(self._started), self.num_workers)
        self._slot_s += busy * (now - self._moment)
        self._moment = now

    def _part(self, one: InWork) -> float:
        sampling = self._stage_s[0] / self._stage_s[1] if self._stage_s[1] else _SAMPLING
        return sampling * one.done / one.num_slices if one.num_slices else 0.0
