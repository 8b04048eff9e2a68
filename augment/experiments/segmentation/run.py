"""`rephase evaluate segmentation`: corpora, labels, trainings, conclusions, page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rephase.errors import RequestError
from rephase.experiments.arms import NATURAL, REAL, parse_arms
from rephase.experiments.conclusions import Outcome, Study, conclude
from rephase.experiments.corpora import check_single_coil, make_corpora
from rephase.experiments.jobs import default_workers, run_jobs
from rephase.experiments.leaks import leaks_of
from rephase.experiments.provenance import code_digest, notes_on, settings_of
from rephase.experiments.report import write
from rephase.experiments.request import Request
from rephase.experiments.segmentation.config import METRICS, REAL_TEST, ZERO_TEST, SegmentationConfig
from rephase.experiments.segmentation.findings import findings
from rephase.experiments.segmentation.labels import MANIFEST_TEXT, RULE_TEXT, has_labels
from rephase.experiments.segmentation.training import Segmentation, label_problems
from rephase.experiments.store import ResultStore, all_jobs
from rephase.experiments.subjects import read_rows

UNTRAINED = "otsu"


def evaluate(request: Request, config: SegmentationConfig) -> Outcome:
    """Train all arms, test them on real k-space, and write `segmentation.json`, `.md` and `.html` to the output.

    Raises
    ------
    RequestError
        If the data do not allow it; one line for each reason.
    """
    rows = read_rows(
        request.manifest,
        request.train_split,
        request.test_split,
        request.magnitudes,
        config.data.volumes_per_subject,
    )
    labelled = has_labels(rows)
    arms = parse_arms(request.arms or config.arms)
    notes = []
    if labelled:  # photographs have no such labels
        left_out = [arm.label for arm in arms if NATURAL in arm.corpora]
        arms = [arm for arm in arms if arm.label not in left_out]
        notes.append(f"{', '.join(left_out)}: left out, since photographs have no segmentation")
    notes += notes_on(rows, arms, config.seeds, config.statistics)
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
    experiment = Segmentation(config, corpora, request.device, labelled)
    notes += _check_labels(experiment, request)
    store = ResultStore(request.output / "results", _dependencies(config, settings, labelled), corpora.digests())
    jobs = all_jobs(arms, config.models, config.seeds, config.training.steps, config.training.finetune_steps)
    study = Study(
        experiment="segmentation",
        metrics=METRICS,
        conditions=(REAL_TEST,),
        crimes=((ZERO_TEST, REAL_TEST),),
        untrained=UNTRAINED,
        comparisons=config.comparisons,
        statistics=config.statistics,
        must_beat_untrained=False,  # labels by the rule are close to a threshold
    )
    baseline = experiment.thresholded()
    results = run_jobs(jobs, experiment, store, workers)
    outcome = conclude(
        study,
        results,
        baseline,
        settings=settings | {"config": asdict(config), "labels": "manifest" if labelled else "rule"},
        leaks=leaks_of(corpora, names, request.checkpoint),
        notes=[*notes, *corpora.skipped],
        skipped=bool(corpora.skipped),
    )
    outcome = replace(outcome, findings=findings(outcome, MANIFEST_TEXT if labelled else RULE_TEXT))
    write(outcome, request.output)
    return outcome


def _check_labels(experiment: Segmentation, request: Request) -> list[str]:
    """Return a line for each volume with implausible labels.

    Raises
    ------
    RequestError
        If nothing is labelled in the training or in the test data.
    """
    notes = []
    for test, split in ((False, request.train_split), (True, request.test_split)):
        volumes = experiment.volumes(REAL, test=test)
        if not any(one.labels.any() for one in volumes):
            raise RequestError(
                f"{request.manifest}: no pixel is labelled in the split {split!r}; expected labels above 0; correct "
                "the column segmentation"
                if experiment.labelled
                else f"{request.manifest}: the rule labels no pixel in the split {split!r}; expected images that are "
                "not empty; fill in the column segmentation"
            )
        notes += label_problems(volumes)
    return notes


def _dependencies(config: SegmentationConfig, settings: Mapping[str, Any], labelled: bool) -> dict[str, Any]:
    """Return what the result of a training depends on, besides its job and data: not what is only concluded from it."""
    kept = {name: asdict(config)[name] for name in ("network", "training", "rule")}
    del kept["training"]["finetune_steps"]
    code = code_digest(
        (
            "rephase.experiments.slices",
            "rephase.experiments.loop",
            "rephase.experiments.reconstruction.networks",
            *(f"rephase.experiments.segmentation.{name}" for name in ("labels", "networks", "training")),
        )
    )
    common = {"matrix": config.data.matrix, "labelled": labelled, "machine": settings["machine"], "code_sha256": code}
    return kept | common
