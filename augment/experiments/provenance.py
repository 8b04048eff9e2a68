"""What the figures of an experiment depend on, and what its user should be told about the data."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rephase.errors import RequestError
from rephase.experiments.arms import Arm
from rephase.experiments.corpora import Corpora
from rephase.experiments.settings import StatisticsConfig
from rephase.experiments.subjects import Rows, subject_of
from rephase.pages import counted
from rephase.pipeline.environment import machine_facts


def settings_of(corpora: Corpora, rows: Rows, device: str) -> dict[str, Any]:
    """Return machine, versions, counts and hashes of the data: equal in every run with equal results."""
    machine = {name: value for name, value in machine_facts(device).items() if name != "load"}
    sizes = {
        name: {"volumes": len(chosen), "subjects": len({subject_of(row) for row in chosen})}
        for name, chosen in (("train", rows.train), ("test", rows.test), ("magnitudes", rows.magnitudes))
    }
    return {
        "machine": machine,
        "rephase": importlib.metadata.version("rephase"),
        "rows": sizes,
        "corpora_sha256": corpora.digests(),
    }


def code_digest(modules: Iterable[str]) -> str:
    """Return a digest of the source of modules, on which kept results depend."""
    from importlib.util import find_spec

    digest = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(name)
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def notes_on(rows: Rows, arms: Sequence[Arm], seeds: int, statistics: StatisticsConfig) -> list[str]:
    """Return what the numbers of subjects and seeds do not allow.

    Raises
    ------
    RequestError
        If an arm takes a share of one training subject.
    """
    notes = []
    train, test = ({subject_of(row) for row in chosen} for chosen in (rows.train, rows.test))
    shares = [arm.label for arm in arms if 0 < (arm.start or arm).real_percent < 100 or 0 < arm.real_percent < 100]
    if len(train) == 1 and shares:
        raise RequestError(
            f"{rows.manifest}: 1 training subject ({next(iter(train))}); expected 2 or more for {', '.join(shares)}, "
            "which take a share of them; add subjects, or leave these arms out"
        )
    percents = sorted({arm.real_percent for arm in arms if 0 < arm.real_percent < 100})
    for percent in percents:
        count = max(1, round(percent * len(train) / 100))
        if count > percent * len(train) / 100 * 1.5:
            notes.append(
                f"real@{percent:g}: {counted(count, 'subject')} of {len(train)}, {100 * count / len(train):.0f} %, "
                "since one is the least"
            )
    if len(test) < statistics.subjects:
        notes.append(
            f"{counted(len(test), 'test subject')}: no intervals and no verdicts, which need {statistics.subjects}"
        )
    elif seeds == 1:
        notes.append("one seed: the intervals are over test subjects alone, and say nothing of another training")
    return notes
