"""Cross-validation over groups of sessions: a model for every fold, judged on the groups that it was not trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rephase.diffusion.phases import baseline_phases
from rephase.errors import RequestError
from rephase.evaluation.candidates import MODEL, REGRESSION, Choice, make_contestants
from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.result import Evaluation
from rephase.evaluation.run import Request, Sampled, finish, sample
from rephase.evaluation.sampling import Contestant
from rephase.evaluation.sessions import divide_groups
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.training.config import TrainConfig
from rephase.training.config import read_config as read_train_config
from rephase.training.fit_baseline import fit_smooth
from rephase.training.train import train

_PATHS = ("path", "phase", "kspace", "segmentation")


def cross_validate(
    request: Request, choice: Choice, config: EvaluationConfig, recipe: Path, num_folds: int
) -> Evaluation:
    """Train, fit the smooth baseline, and sample for every fold; compare what all folds gave together.

    Every row of the manifest is judged once, by a model that saw no row of its group. Trainings live in the output
    folder and go on after an interruption.

    Raises
    ------
    RequestError
        The request names weights or a split, which the folds make themselves; or there is nothing to divide.
    """
    output = _check(request, choice)
    base = read_train_config(recipe, TrainConfig)
    folds = divide(request, num_folds)
    parts: list[Sampled] = []
    contestants: list[Contestant] = []
    for number, held_out in enumerate(folds):
        folder = output / f"fold-{number}"
        manifest = write_fold(request, held_out, folder / "manifest.csv")
        checkpoint = train(replace(base, manifest=manifest, output=folder / "run", split="train"), request.device)
        fit_smooth(manifest, "train", folder / "smooth.json")
        contestants = make_contestants(
            replace(
                choice,
                generators=choice.generators or (MODEL, *baseline_phases()),
                checkpoint=checkpoint,
                smooth=folder / "smooth.json",
            )
        )
        parts.append(sample(replace(request, manifest=manifest, split="val", output=folder), contestants, config))
    merged = Sampled(
        [one for part in parts for one in part.volumes],
        {key: codes for part in parts for key, codes in part.codes.items()},
        [one for part in parts for one in part.scores],
        [one for part in parts for one in part.left_out],
    )
    return finish(request, [replace(one, identity=f"{len(folds)} folds") for one in contestants], config, merged)


def divide(request: Request, num_folds: int) -> list[frozenset[str]]:
    """Divide the groups of the manifest's rows into folds of about equal numbers of rows.

    Raises
    ------
    RequestError
        There are fewer than two folds, or fewer groups than folds.
    """
    groups = [group_of(row, request.group_column) for row in _rows(request)]
    count = len(set(groups))
    if num_folds < 2 or count < num_folds:
        raise RequestError(
            f"{request.manifest}: {count} groups of rows for {num_folds} folds; expected 2 folds or more, and a "
            "group for each; give another --folds"
        )
    return divide_groups(groups, num_folds)


def group_of(row: ManifestRow, column: str | None) -> str:
    """What a row must not be parted from: the named column's value, else the subject, else nothing but itself."""
    return dict(row.extra).get(column or "") or row.subject_id or row.volume_id


def write_fold(request: Request, held_out: frozenset[str], path: Path) -> Path:
    """Write the manifest again: the groups held out are its split `val`, all others `train`; paths are absolute."""
    rows = _rows(request)
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


def _rows(request: Request) -> Sequence[ManifestRow]:
    return list(read_manifest(request.manifest, () if request.group_column is None else (request.group_column,)))


def _check(request: Request, choice: Choice) -> Path:
    if request.output is None:
        raise RequestError("--cross-validate trains models; expected a folder for them; give -o FOLDER")
    given = {
        "--checkpoint": choice.checkpoint,
        "--against": choice.against,
        "--smooth": choice.smooth,
        "--regression": choice.regression or (REGRESSION in (choice.generators or ())) or None,
        "--split": request.split,
    }
    for name, value in given.items():
        if value is not None:
            raise RequestError(f"{name} does not go with --cross-validate, which makes its own; leave one out")
    return request.output
