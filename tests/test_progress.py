"""Progress in slices weighted by their pixels: the estimator on a simulated clock."""

from __future__ import annotations

import heapq
import json
from array import array

import numpy as np
import pytest

from rephase.progress import Estimator, InWork, Progress, Rate, makespan

SMALL = (10, 128 * 128)
LARGE = (100, 404 * 405)
"""Slices and pixels per slice: a volume has 1 and 100 units of work."""


class Simulation:
    """Workers that take volumes in order, and a clock. A slice takes as long as it has pixels."""

    def __init__(self, volumes, num_workers, known, fixed_s=0.0):
        self.now = 0.0
        self.volumes = volumes
        self.fixed_s = fixed_s
        self.costs = [fixed_s + 0.1 * slices * pixels / 16384 for slices, pixels in volumes]
        sizes = [float(slices * pixels) if known(number) else np.nan for number, (slices, pixels) in enumerate(volumes)]
        self.estimator = Estimator(array("d", sizes), num_workers, clock=lambda: self.now)
        self.free = [0.0] * num_workers
        self.spans = []
        for cost in self.costs:
            start = heapq.heappop(self.free)
            self.spans.append((start, start + cost))
            heapq.heappush(self.free, start + cost)
        self.end = max(self.free)

    def run(self, every_s=1.0):
        """Yield the progress and the true remaining time, every second."""
        events = sorted(
            [(start, 1, n) for n, (start, _) in enumerate(self.spans)]
            + [(end, 0, n) for n, (_, end) in enumerate(self.spans)]
        )
        place = 0
        tick = every_s
        while tick < self.end:
            while place < len(events) and events[place][0] <= tick:
                self.now, begins, n = events[place]
                slices, pixels = self.volumes[n]
                if begins:
                    self.estimator.start(f"v{n}", n)
                else:
                    self.estimator.finish(f"v{n}", "built", slices, slices * pixels, self.seconds(n))
                place += 1
            self.now = tick
            self.estimator.observe(self.working(), len(self.free))
            yield self.estimator.progress(moment=0.0), self.end - tick
            tick += every_s

    def seconds(self, n):
        return {"sample": self.costs[n] - self.fixed_s, "read": self.fixed_s, "waiting": 9.0}

    def working(self):
        for n, (start, end) in enumerate(self.spans):
            if start <= self.now < end:
                slices, pixels = self.volumes[n]
                begun = start + self.fixed_s
                done = int(slices * max(self.now - begun, 0.0) / (end - begun))
                yield InWork(f"v{n}", done, slices, slices * pixels)


ORDERS = {
    "small first": [SMALL] * 60 + [LARGE] * 6,
    "large first": [LARGE] * 6 + [SMALL] * 60,
    "mixed": ([LARGE] + [SMALL] * 10) * 6,
    "one large at the end": [SMALL] * 200 + [LARGE],
    "one large at the beginning": [LARGE] + [SMALL] * 200,
}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_the_remaining_time_is_known_after_a_tenth_of_the_work(order, num_workers):
    simulation = Simulation(ORDERS[order], num_workers, known=lambda _: True)
    checked = 0
    for progress, left in simulation.run():
        if 0.1 <= progress.share <= 0.9:
            assert progress.seconds_left == pytest.approx(left, rel=0.25), progress
            checked += 1
    assert checked > 10


def test_the_work_of_volumes_besides_their_slices_is_learned_from_different_sizes():
    simulation = Simulation(ORDERS["mixed"], 1, known=lambda _: True, fixed_s=3.0)  # three times that of a small one
    errors = [
        abs(progress.seconds_left / left - 1) for progress, left in simulation.run(2.0) if 0.2 < progress.share < 0.9
    ]
    assert len(errors) > 10 and np.median(errors) < 0.1 and np.mean(np.array(errors) < 0.25) > 0.8


def test_sizes_that_only_some_rows_state_are_extrapolated():
    order = np.random.default_rng(0).permutation([0] * 300 + [1] * 30)
    simulation = Simulation([(SMALL, LARGE)[one] for one in order], 2, known=lambda number: number % 3 == 0)
    errors = [
        abs(progress.seconds_left / left - 1) for progress, left in simulation.run(5.0) if 0.1 < progress.share < 0.6
    ]
    assert len(errors) > 50 and max(errors) < 0.25


def test_work_done_grows_within_a_volume_and_the_rate_has_no_spikes():
    simulation = Simulation([LARGE, LARGE], 1, known=lambda _: True)
    seen = [progress for progress, _ in simulation.run()]
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and max(np.diff(shares)) < 0.06
    rates = [progress.slices_per_s for progress in seen[5:]]
    assert max(rates) < 1.3 * min(rates)
    middle = seen[len(seen) // 4]
    assert str(middle.in_work[0]).startswith("v0: ") and "of 100 slices" in middle.line()


def test_committed_volumes_are_no_work():
    estimator = Estimator(array("d", [1e6] * 4), 1, clock=lambda: 0.0)
    for position in range(3):
        estimator.settle(position)
    for position in range(3):
        estimator.start(f"v{position}", position)
        estimator.finish(f"v{position}", "skipped", 5, None, {})
    estimator.start("v3", 3)
    assert estimator.progress().share == 0.0
    estimator.finish("v3", "built", 5, 10**6, {"sample": 1.0})
    progress = estimator.progress()
    assert (progress.share, progress.built, progress.skipped, progress.num_left) == (1.0, 1, 3, 0)


def test_a_volume_whose_worker_died_begins_again():
    now = 0.0
    estimator = Estimator(array("d", [1e6] * 2), 1, clock=lambda: now)
    estimator.start("v0", 0)
    for done in (10, 20, 0):
        now += 10.0
        estimator.observe([InWork("v0", done, 20, 10**6)], 1)
        progress = estimator.progress()
        assert progress.seconds_left is None or progress.seconds_left >= 0
    assert progress.share == 0.0


def test_volumes_left_out_are_not_left_to_do():
    estimator = Estimator(array("d", [1e6] * 5), 2, clock=lambda: 0.0)
    estimator.start("v2", 2)
    estimator.leave_out(5)
    assert (estimator.progress().not_retried, estimator.progress().num_left) == (4, 1)


def test_a_progress_is_read_back():
    progress = Progress(1.0, num_volumes=3, built=1, share=0.5, num_in_work=9, in_work=(InWork("head-12", 83, 256, 9),))
    again = Progress.from_json(json.loads(json.dumps(progress.to_json())))
    assert again == progress
    assert again.working_on() == "head-12: 83 of 256 slices, 8 more"
    assert again.speed() == "not known yet"


def test_workers_take_volumes_in_order():
    assert makespan([], np.array([1.0, 1.0, 4.0]), 2) == 5.0
    assert makespan([4.0], np.array([1.0, 1.0]), 2) == 4.0
    assert makespan([], np.ones(10_000), 4) == pytest.approx(2500)
    assert makespan([], np.ones(0), 3) == 0.0


def test_a_rate_is_that_of_the_last_minutes():
    rate = Rate(100.0)
    assert rate.per_second() is None
    for second in range(0, 51):
        rate.add(second, 1000 * second)  # what was skipped
    for second in range(51, 400):
        rate.add(second, 50_000 + 2 * (second - 50))
    assert rate.per_second() == pytest.approx(2.0)


def test_a_rate_keeps_few_moments():
    rate = Rate(100.0)
    for step in range(100_000):
        rate.add(step / 100, step)
    assert len(rate._seen) < 60
    assert rate.per_second() == pytest.approx(100.0, rel=0.01)
