"""`rephase evaluate segmentation`: corpora, labels, trainings, conclusions, page."""

from __future__ import annotations

from dataclasses import replace

from rephase.errors import RequestError
from rephase.experiments.arms import NATURAL, REAL, parse_arms
from rephase.experiments.conclusions import Outcome, Study
from rephase.experiments.frame import prepare, rows_of, run
from rephase.experiments.report import write
from rephase.experiments.request import Request
from rephase.experiments.segmentation.config import METRICS, REAL_TEST, ZERO_TEST, SegmentationConfig
from rephase.experiments.segmentation.findings import findings
from rephase.experiments.segmentation.labels import MANIFEST_TEXT, RULE_TEXT, has_labels
from rephase.experiments.segmentation.training import Segmentation, label_problems

UNTRAINED = "otsu"


def evaluate(request: Request, config: SegmentationConfig) -> Outcome:
    """Train all arms, test them on real k-space, and write `segmentation.json`, `.md` and `.html` to the output.

    Raises
    ------
    RequestError
        If the data do not allow it; one line for each reason.
    """
    rows = rows_of(request, config)
    labelled = has_labels(rows)
    arms = parse_arms(request.arms or config.arms)
    notes = []
    if labelled:  # photographs have no such labels
        left_out = [arm.label for arm in arms if NATURAL in arm.corpora]
        arms = [arm for arm in arms if arm.label not in left_out]
        notes.append(f"{', '.join(left_out)}: left out, since photographs have no segmentation")
    prepared = prepare(request, config, rows, arms)
    experiment = Segmentation(config, prepared.corpora, request.device, labelled)
    notes += [*prepared.notes, *_check_labels(experiment, request)]
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
    outcome = run(
        replace(prepared, notes=notes),
        study,
        experiment,
        experiment.thresholded(),
        sections=("network", "rule"),
        modules=("unet", "segmentation.labels", "segmentation.networks", "segmentation.training"),
        facts={"labels": "manifest" if labelled else "rule"},
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
