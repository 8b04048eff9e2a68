"""An experiment from its request to its page: what does not depend on what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from typing import Any, ClassVar, Protocol

from rephase.experiments.arms import Arm
from rephase.experiments.conclusions import Outcome, Study, conclude
from rephase.experiments.corpora import Corpora, check_single_coil, make_corpora
from rephase.experiments.jobs import Experiment, default_workers, run_jobs
from rephase.experiments.leaks import leaks_of
from rephase.experiments.provenance import code_digest, notes_on, settings_of
from rephase.experiments.request import Request
from rephase.experiments.settings import DataConfig, StatisticsConfig, TrainingConfig
from rephase.experiments.store import Result, ResultStore, all_jobs
from rephase.experiments.subjects import Rows, read_rows


class ExperimentConfig(Protocol):
    """What the settings of every experiment have. (A base class would hide the descriptions of its fields.)"""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def seeds(self) -> int:
        """Trainings of each arm."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the networks."""
        ...

    @property
    def data(self) -> DataConfig:
        """Which data are used."""
        ...

    @property
    def training(self) -> TrainingConfig:
        """Optimisation."""
        ...

    @property
    def statistics(self) -> StatisticsConfig:
        """Bootstrap over seeds and subjects."""
        ...


@dataclass(frozen=True)
class Prepared:
    """Arms and corpora of an experiment, machine and data of its outcome, and what its user should be told."""

    request: Request
    config: ExperimentConfig
    arms: list[Arm]
    corpora: Corpora
    settings: Mapping[str, Any]
    notes: Sequence[str]


def rows_of(request: Request, config: ExperimentConfig) -> Rows:
    """Return the rows that an experiment is about."""
    return read_rows(
        request.manifest,
        request.train_split,
        request.test_split,
        request.magnitudes,
        config.data.volumes_per_subject,
    )


def prepare(request: Request, config: ExperimentConfig, rows: Rows, arms: list[Arm]) -> Prepared:
    """Build the corpora of all arms, if they are not there.

    Raises
    ------
    RequestError
        If the data do not allow it; one line for each reason.
    """
    notes = notes_on(rows, arms, config.seeds, config.statistics)
    corpora = make_corpora(
        rows,
        _corpora_of(arms),
        request.output / "corpora",
        num_pictures=config.data.pictures,
        checkpoint=request.checkpoint,
        workers=request.workers,
    )
    check_single_coil(corpora)
    return Prepared(request, config, arms, corpora, settings_of(corpora, rows, request.device), notes)


def run(
    prepared: Prepared,
    study: Study,
    experiment: Experiment,
    baseline: Result,
    *,
    sections: Sequence[str],
    modules: Sequence[str],
    facts: Mapping[str, Any],
) -> Outcome:
    """Train and test what is not done yet, and draw the conclusions.

    Parameters
    ----------
    prepared
        Arms and corpora.
    study
        What is concluded.
    experiment
        Trains and tests one network.
    baseline
        What needs no training.
    sections, modules, facts
        What a kept result depends on, besides job, data and machine: sections of the settings, modules below
        `rephase.experiments`, and further facts, which the settings of the outcome have too.
    """
    request, config = prepared.request, prepared.config
    everything = asdict(config)
    kept = {name: everything[name] for name in sections}
    kept["training"] = {key: value for key, value in everything["training"].items() if key != "finetune_steps"}
    code = code_digest(f"rephase.experiments.{name}" for name in ("slices", "loop", *modules))
    kept |= {"matrix": config.data.matrix, "machine": prepared.settings["machine"], "code_sha256": code, **facts}
    store = ResultStore(request.output / "results", kept, prepared.corpora.digests())
    jobs = all_jobs(prepared.arms, config.models, config.seeds, config.training.steps, config.training.finetune_steps)
    return conclude(
        study,
        run_jobs(jobs, experiment, store, request.workers or default_workers(request.device)),
        baseline,
        settings={**prepared.settings, "config": everything, **facts},
        leaks=leaks_of(prepared.corpora, _corpora_of(prepared.arms), request.checkpoint),
        notes=[*prepared.notes, *prepared.corpora.skipped],
        skipped=bool(prepared.corpora.skipped),
    )


def _corpora_of(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for name in arm.corpora))
