"""`rephase evaluate reconstruction`: corpora, trainings, conclusions, page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rephase.experiments.arms import parse_arms
from rephase.experiments.conclusions import Outcome, Study, conclude
from rephase.experiments.corpora import check_single_coil, make_corpora
from rephase.experiments.jobs import default_workers, run_jobs
from rephase.experiments.leaks import leaks_of
from rephase.experiments.provenance import code_digest, notes_on, settings_of
from rephase.experiments.reconstruction.config import (
    METRICS,
    ReconstructionConfig,
    condition,
    crime_condition,
)
from rephase.experiments.reconstruction.training import Reconstruction
from rephase.experiments.report import write
from rephase.experiments.request import Request
from rephase.experiments.store import ResultStore, all_jobs
from rephase.experiments.subjects import read_rows


def evaluate(request: Request, config: ReconstructionConfig) -> Outcome:
    """Train all arms, test them on real k-space, and write `reconstruction.json`, `.md` and `.html` to the output.

    Raises
    ------
    RequestError
        If the data do not allow it; one line for each reason.
    """
    arms = parse_arms(request.arms or config.arms)
    rows = read_rows(
        request.manifest,
        request.train_split,
        request.test_split,
        request.magnitudes,
        config.data.volumes_per_subject,
    )
    notes = notes_on(rows, arms, config.seeds, config.statistics)
    names = list(dict.fromkeys(name for arm in arms for name in arm.corpora))
    workers = request.workers or default_workers(request.device)
    corpora = make_corpora(
        rows,
        names,
        request.output / "corpora",
        num_pictures=config.data.pictures,
        checkpoint=request.checkpoint,
        workers=request.workers,
    )
    check_single_coil(corpora)
    settings = settings_of(corpora, rows, request.device)
    experiment = Reconstruction(config, corpora, request.device)
    store = ResultStore(request.output / "results", _dependencies(config, settings), corpora.digests())
    jobs = all_jobs(arms, config.models, config.seeds, config.training.steps, config.training.finetune_steps)
    study = Study(
        experiment="reconstruction",
        metrics=METRICS,
        conditions=tuple(condition(factor) for factor in config.accelerations),
        crimes=tuple((crime_condition(factor), condition(factor)) for factor in config.accelerations),
        untrained="zero-filled",
        comparisons=config.comparisons,
        statistics=config.statistics,
    )
    baseline = experiment.zero_filled()
    results = run_jobs(jobs, experiment, store, workers)
    outcome = conclude(
        study,
        results,
        baseline,
        settings=settings | {"config": asdict(config)},
        leaks=leaks_of(corpora, names, request.checkpoint),
        notes=[*notes, *corpora.skipped],
        skipped=bool(corpora.skipped),
    )
    write(outcome, request.output)
    return outcome


def _dependencies(config: ReconstructionConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the result of a training depends on, besides its job and data: not what is only concluded from it."""
    kept = {name: asdict(config)[name] for name in ("accelerations", "network", "training")}
    del kept["training"]["finetune_steps"]
    code = code_digest(
        (
            "rephase.experiments.slices",
            "rephase.experiments.loop",
            *(f"rephase.experiments.reconstruction.{name}" for name in ("networks", "training")),
        )
    )
    return kept | {"matrix": config.data.matrix, "machine": settings["machine"], "code_sha256": code}
