"""Results of an experiment by arm and seed, on disk, so that an interrupted run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.experiments.arms import Arm
from rephase.files import replacing, sha256


@dataclass(frozen=True)
class Job:
    """One training and its test.

    Attributes
    ----------
    arm
        What is trained on.
    model
        Name of the network.
    seed
        Seed of the weights, the order of the slices, the masks, and the real subjects.
    steps
        Updates.
    start
        The job whose weights it starts from; None for random weights.
    """

    arm: Arm
    model: str
    seed: int
    steps: int
    start: Job | None = None

    @property
    def label(self) -> str:
        """The arm, with the number of updates where one arm has several."""
        return f"{self.arm.label}, {self.steps} updates" if self.start is not None else self.arm.label


@dataclass(frozen=True)
class Score:
    """The metrics of one test volume under one condition."""

    volume: str
    subject: str
    condition: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """What a job gives.

    Attributes
    ----------
    scores
        One for each test volume and condition.
    curve
        (update, training loss), a few points.
    facts
        Further facts for the tables, such as the number of parameters and of training slices.
    pictures
        Images `(height width)` of the example slices, by name.
    seconds
        CPU time; not part of what a repeated run must equal.
    """

    scores: list[Score]
    curve: list[tuple[int, float]]
    facts: Mapping[str, Any]
    pictures: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class ResultStore:
    """A folder of results, each under a digest of all that it depends on.

    Attributes
    ----------
    folder
        Where results and weights are.
    settings
        What all jobs have in common: configuration and code.
    data
        Digests of the corpora, `train-<name>` and `test-<name>`; a job depends on those of its arm, and of the tests.
    """

    folder: Path
    settings: Mapping[str, Any]
    data: Mapping[str, str] = field(default_factory=dict)

    def key(self, job: Job) -> str:
        """Return the digest of a job: settings, data, arm, network, seed, updates, and the job that it starts from."""
        own = {f"train-{name}" for name in job.arm.corpora}
        data = {name: digest for name, digest in self.data.items() if name in own or name.startswith("test-")}
        return sha256(json.dumps([self.settings, data, asdict(job)], sort_keys=True).encode())[:20]

    def load(self, job: Job) -> Result | None:
        """Return the result of a job; None if it is missing or damaged."""
        try:
            document = json.loads(self._path(job, "json").read_text("utf-8"))
            scores = [Score(**one) for one in document["scores"]]
            curve = [(int(step), float(loss)) for step, loss in document["curve"]]
            with np.load(self._path(job, "npz"), allow_pickle=False) as file:
                pictures = {name: file[name] for name in file.files}
            return Result(scores, curve, document["facts"], pictures, float(document["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, job: Job, result: Result) -> None:
        """Write a result; the JSON, which makes it count, last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(job, "npz")) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **result.pictures)
        document = {
            "job": asdict(job),
            "scores": [asdict(one) for one in result.scores],
            "curve": result.curve,
            "facts": result.facts,
            "seconds": result.seconds,
        }
        with replacing(self._path(job, "json")) as partial:
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def weights(self, job: Job) -> Path:
        """Return the path of the weights of a job."""
        return self._path(job, "safetensors")

    def _path(self, job: Job, suffix: str) -> Path:
        return self.folder / f"{self.key(job)}.{suffix}"


def all_jobs(
    arms: list[Arm], models: tuple[str, ...], seeds: int, steps: int, finetune_steps: tuple[int, ...]
) -> list[Job]:
    """Return the jobs of an experiment: those that others start from first, all arms of a seed before the next seed."""
    jobs: dict[Job, None] = {}
    for seed in range(seeds):
        for model in models:
            for arm in arms:
                if arm.start is None:
                    jobs[Job(arm, model, seed, steps)] = None
                    continue
                start = Job(arm.start, model, seed, steps)
                jobs[start] = None
                jobs |= {Job(arm, model, seed, count, start): None for count in finetune_steps}
    return list(jobs)
