"""Grouped k-fold cross-validation: a model per fold, evaluated on the groups that it was not trained on."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from rephase.config import read_config
from rephase.diffusion.phases import baseline_phases
from rephase.errors import RequestError
from rephase.evaluation.candidates import MODEL, REGRESSION, Candidate, CandidateOptions, make_candidates
from rephase.evaluation.comparison import Evaluation
from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.run import Request, Sampled, finish, read_rows, sample
from rephase.evaluation.sessions import divide_groups
from rephase.manifests.record import ManifestRow
from rephase.training.config import TrainConfig
from rephase.training.fit_baseline import fit_smooth
from rephase.training.train import train

_PATHS = ("path", "phase", "kspace", "segmentation")


def cross_validate(
    request: Request, choice: CandidateOptions, config: EvaluationConfig, recipe: Path, num_folds: int
) -> Evaluation:
    """Train, fit the smooth baseline and sample for each fold; compare all folds together.

    Each row of the manifest, but those of split `test`, is sampled once, by a model trained without its group. Trained
    weights are kept in the output folder and resumed after an interruption.

    Raises
    ------
    RequestError
        If the request names weights or a split, which the folds define, or has too few groups.
    """
    output = _check(request, choice)
    base = read_config(recipe, TrainConfig)
    folds = divide(request, num_folds)
    parts: list[Sampled] = []
    candidates: list[Candidate] = []
    for number, held_out in enumerate(folds):
        folder = output / f"fold-{number}"
        manifest = write_fold(request, held_out, folder / "manifest.csv")
        checkpoint = train(replace(base, manifest=manifest, output=folder / "run", split="train"), request.device)
        fit_smooth(manifest, "train", folder / "smooth.json")
        candidates = make_candidates(
            replace(
                choice,
                generators=choice.generators or (MODEL, *baseline_phases()),
                checkpoint=checkpoint,
                smooth=folder / "smooth.json",
            )
        )
        parts.append(sample(replace(request, manifest=manifest, split="val", output=folder), candidates, config))
    merged = Sampled(
        [one for part in parts for one in part.volumes],
        {key: codes for part in parts for key, codes in part.codes.items()},
        [one for part in parts for one in part.scores],
        [one for part in parts for one in part.skipped],
    )
    return finish(request, [replace(one, identity=f"{len(folds)} folds") for one in candidates], config, merged)


def divide(request: Request, num_folds: int) -> list[frozenset[str]]:
    """Divide the groups of the manifest into folds with about equal numbers of rows.

    Raises
    ------
    RequestError
        If fewer than two folds are requested, or there are fewer groups than folds.
    """
    groups = [group_of(row, request.group_column) for row in read_rows(request)]
    count = len(set(groups))
    if num_folds < 2 or count < num_folds:
        raise RequestError(
            f"{request.manifest}: {count} groups of rows for {num_folds} folds; expected at least 2 folds and as "
            "many groups; change --folds"
        )
    return divide_groups(groups, num_folds)


def group_of(row: ManifestRow, column: str | None) -> str:
    """Return the group of a row: the value of the named column, else `subject_id`, else `volume_id`."""
    return dict(row.extra).get(column or "") or row.subject_id or row.volume_id


def write_fold(request: Request, held_out: frozenset[str], path: Path) -> Path:
    """Write the manifest of a fold: held-out groups have split `val`, others `train`; paths are absolute."""
    rows = read_rows(request)
    with request.manifest.open(encoding="utf-8-sig", newline="") as file:
        fields = list(csv.DictReader(file, skipinitialspace=True).fieldnames or ())
        file.seek(0)
        lines = {line["volume_id"]: line for line in csv.DictReader(file, skipinitialspace=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*fields, *(["split"] if "split" not in fields else [])])
        writer.writeheader()
        for row in rows:
            line = lines[row.volume_id] | {name: getattr(row, name) or "" for name in _PATHS if name in fields}
            writer.writerow(line | {"split": "val" if group_of(row, request.group_column) in held_out else "train"})
    return path


def _check(request: Request, choice: CandidateOptions) -> Path:
    if request.output is None:
        raise RequestError("--cross-validate: no folder for the trainings; add -o FOLDER")
    given = {
        "--checkpoint": choice.checkpoint,
        "--against": choice.against,
        "--smooth": choice.smooth,
        "--regression": choice.regression or (REGRESSION in (choice.generators or ())) or None,
        "--split": request.split,
    }
    for name, value in given.items():
        if value is not None:
            raise RequestError(
                f"{name}: cannot be combined with --cross-validate, which has its own; remove one of them"
            )
    return request.output
