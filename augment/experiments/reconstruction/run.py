"""`rephase evaluate reconstruction`: corpora, trainings, conclusions, page."""

from __future__ import annotations

from rephase.experiments.arms import parse_arms
from rephase.experiments.conclusions import Outcome, Study
from rephase.experiments.frame import prepare, rows_of, run
from rephase.experiments.reconstruction.config import METRICS, ReconstructionConfig, condition, crime_condition
from rephase.experiments.reconstruction.training import Reconstruction
from rephase.experiments.report import write
from rephase.experiments.request import Request


def evaluate(request: Request, config: ReconstructionConfig) -> Outcome:
    """Train all arms, test them on real k-space, and write `reconstruction.json`, `.md` and `.html` to the output.

    Raises
    ------
    RequestError
        If the data do not allow it; one line for each reason.
    """
    arms = parse_arms(request.arms or config.arms)
    prepared = prepare(request, config, rows_of(request, config), arms)
    experiment = Reconstruction(config, prepared.corpora, request.device)
    study = Study(
        experiment="reconstruction",
        metrics=METRICS,
        conditions=tuple(condition(factor) for factor in config.accelerations),
        crimes=tuple((crime_condition(factor), condition(factor)) for factor in config.accelerations),
        untrained="zero-filled",
        comparisons=config.comparisons,
        statistics=config.statistics,
    )
    outcome = run(
        prepared,
        study,
        experiment,
        experiment.zero_filled(),
        sections=("accelerations", "network"),
        modules=("unet", "reconstruction.networks", "reconstruction.training"),
        facts={},
    )
    write(outcome, request.output)
    return outcome
