"""Cases by number: target, seed file and plan. A number is the same case on every machine."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz.judge import Verdict, judge
from fuzz.mutate import Plan, draw_plan, mutated
from fuzz.seeds import Seed, seeds

SHARES = {"dicom": 6, "nifti": 5, "hdf5": 4, "npy": 2, "manifest": 3, "checkpoint": 2, "store": 3}
"""Cases of each target among 25."""


@dataclass(frozen=True)
class Case:
    """One case: a seed file and its changes."""

    number: int
    seed: Seed
    plan: Plan

    def describe(self) -> dict[str, Any]:
        """Return the case as JSON values, for reports."""
        return {"case": self.number, "target": self.seed.target, "from": self.seed.name, "plan": asdict(self.plan)}


def make_case(seed: int, number: int) -> Case:
    """Sample a case."""
    source = random.Random(f"{seed}/{number}")  # noqa: S311
    target = source.choices(list(SHARES), list(SHARES.values()))[0]
    choice = source.choice(seeds(target))
    return Case(number, choice, draw_plan(target, source))


def run_case(case: Case, folder: Path, begin: Callable[[], object] = lambda: None) -> Verdict:
    """Write the files of a case into a folder of its own, call `begin`, judge them, and remove them."""
    files = mutated(case.seed, case.plan)
    place = folder / f"case{case.number}"
    try:
        for name, data in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        del files
        begin()
        return judge(case.seed, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
