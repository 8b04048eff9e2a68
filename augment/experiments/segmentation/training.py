"""Train and test one network of the experiment on segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import mix
from rephase.experiments.arms import REAL, ZERO, Arm
from rephase.experiments.corpora import Corpora
from rephase.experiments.loop import fit, is_of, people_of
from rephase.experiments.segmentation.config import REAL_TEST, ZERO_TEST, SegmentationConfig
from rephase.experiments.segmentation.labels import LabelledSlices, otsu
from rephase.experiments.segmentation.networks import Segmenter, make_network
from rephase.experiments.store import Job, Result, Score
from rephase.experiments.subjects import draw_subjects
from rephase.metrics import dice, hd95

_EXAMPLES = 2
_THRESHOLDS = np.linspace(0.02, 0.98, 49)
_THRESHOLD_VOLUMES = 12
"""Training volumes on which the threshold is chosen, evenly spread."""


class _Item(NamedTuple):
    """One slice: k-space and labels."""

    kspace: Tensor
    labels: Tensor


def to_item(kspace: Any, mask: Any, target: Any, attrs: dict[str, Any], name: str, number: int) -> _Item:  # noqa: ANN401
    """Convert a tuple of `LabelledSlices` to tensors: a transform."""
    return _Item(torch.from_numpy(kspace), torch.from_numpy(attrs["segmentation"]).float())


@dataclass(frozen=True)
class Volume:
    """One volume, `(slice height width)`: k-space, magnitude, labels, spacing."""

    name: str
    subject: str
    kspace: Tensor
    magnitude: NDArray[np.float32]
    labels: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


@dataclass
class Segmentation:
    """The experiment: see `rephase.experiments.jobs.Experiment`. It keeps the test data of its process.

    `labelled` says whether the labels are those of the manifest; otherwise the rule makes them.
    """

    config: SegmentationConfig
    corpora: Corpora
    device: str
    labelled: bool
    _tests: dict[str, list[Volume]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept data out of pickles."""
        return self.__dict__ | {"_tests": {}}

    def run(self, job: Job, weights: Path, start: Path | None) -> Result:
        """Train and test one network."""
        torch.manual_seed(job.seed)
        network = make_network(job.model, self.config.network, job.arm.magnitude_only).to(self.device)
        if start is not None:
            network.load_state_dict(load_file(start, device=self.device))
        sets, subjects = self._training_sets(job.arm, job.seed)
        # a data set alone is the synthetic one of a mixture without the other, so that arms are in equal orders
        share = job.arm.real_percent / 100 if len(sets) == 2 else 0.0
        data = mix(sets[-1], sets[0], share, job.seed)
        curve = fit(network, network.loss, data, self.config.training, job, self.device)
        save_file(network.state_dict(), weights)
        network.eval()
        threshold = self._choose_threshold(network, sets)
        names = [REAL, *([ZERO] if job.arm.label in (ZERO, REAL) else [])]
        scores, pictures = [], {}
        for name in names:
            for number, volume in enumerate(self.volumes(name)):
                found = self._map(network, volume.kspace) > threshold
                scores.append(_score(volume, found, name))
                if name == REAL and number < _EXAMPLES:
                    middle = len(found) // 2
                    pictures[volume.name] = _stripped(volume.magnitude[middle], found[middle])
        facts = {
            "updates": job.steps + (job.start.steps if job.start else 0),
            "parameters": sum(one.numel() for one in network.parameters()),
            "slices": len(data),
            "subjects": subjects,
            "threshold": threshold,
        }
        return Result(scores, curve, facts, pictures if job.seed == 0 else {})

    def thresholded(self) -> Result:
        """Return the scores of Otsu's threshold of the magnitude, and the pictures of the truth."""
        scores, pictures = [], {}
        for name in (REAL, ZERO):
            for number, volume in enumerate(self.volumes(name)):
                found = otsu(volume.magnitude)
                scores.append(_score(volume, found, name))
                if name == REAL and number < _EXAMPLES:
                    middle = len(found) // 2
                    pictures[volume.name] = _stripped(volume.magnitude[middle], found[middle])
                    pictures[f"truth {volume.name}"] = _stripped(volume.magnitude[middle], volume.labels[middle])
        return Result(scores, [], {"updates": 0, "parameters": 0, "slices": 0, "subjects": 0}, pictures)

    def volumes(self, name: str, *, test: bool = True) -> list[Volume]:
        """Return the volumes of a test corpus, which are kept, or of a training corpus, in order of their subjects."""
        if not test:
            return read_volumes(self._slices(self.corpora.train[name]))
        if name not in self._tests:
            self._tests[name] = read_volumes(self._slices(self.corpora.test[name]))
        return self._tests[name]

    def _slices(self, root: Path, random_angle: int | None = None, subjects: Sequence[str] = ()) -> LabelledSlices:
        where = partial(is_of, frozenset(subjects)) if subjects else None
        slices = KSpaceSlices(root, where=where, segmentation=self.labelled)
        rule = None if self.labelled else self.config.rule
        return LabelledSlices(slices, self.config.data.matrix, rule, to_item, random_angle=random_angle)

    def _training_sets(self, arm: Arm, seed: int) -> tuple[list[LabelledSlices], int]:
        """Return the data sets of an arm, the synthetic one first, and the number of its subjects."""
        sets = []
        subjects: set[str] = set()
        for name in (arm.corpus, REAL if arm.real_percent else None):
            if name is None:
                continue
            people = list(people_of(KSpaceSlices(self.corpora.train[name])).values())
            chosen = draw_subjects(people, arm.real_percent, seed) if name == REAL else sorted(set(people))
            sets.append(self._slices(self.corpora.train[name], seed if arm.random_angle else None, chosen))
            subjects |= set(chosen)
        return sets, len(subjects)

    def _choose_threshold(self, network: Segmenter, sets: Sequence[LabelledSlices]) -> float:
        """Return the threshold with the highest mean Dice of volumes that the network was trained on."""
        volumes = [one for slices in sets for one in read_volumes(slices, _THRESHOLD_VOLUMES)]
        curves = [dice_by_threshold(self._map(network, one.kspace), one.labels) for one in volumes]
        return round(float(_THRESHOLDS[int(np.argmax(np.mean(curves, axis=0)))]), 2)

    @torch.no_grad()
    def _map(self, network: Segmenter, kspace: Tensor) -> NDArray[np.float32]:
        parts = [network(part.to(self.device)).cpu() for part in torch.split(kspace, 8)]
        found: NDArray[np.float32] = torch.cat(parts).numpy()
        return found


def read_volumes(slices: LabelledSlices, limit: int = 0) -> list[Volume]:
    """Read whole volumes, in order of their subjects, at most `limit`, evenly spread; 0 for all."""
    people = slices.subjects()
    places = sorted(
        range(len(slices.volumes)), key=lambda place: (people[slices.volumes[place]], slices.volumes[place])
    )
    if limit and limit < len(places):
        places = [places[round(one)] for one in np.linspace(0, len(places) - 1, limit)]
    volumes = []
    for place in places:
        parts = [slices.read_parts(place, number) for number in range(int(slices.volume_slices[place]))]
        name, attributes = slices.volumes[place], slices.volume_attributes(place)
        volumes.append(
            Volume(
                name,
                people[name],
                torch.from_numpy(np.stack([one.kspace for one in parts])),
                np.stack([one.target for one in parts if one.target is not None]),
                np.stack([one.attributes["segmentation"] for one in parts]) > 0,
                attributes["spacing_mm"],
            )
        )
    return volumes


def dice_by_threshold(found: NDArray[np.float32], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice of `found > threshold` for each threshold that may be chosen."""
    above = [
        len(values) - np.searchsorted(np.sort(values), _THRESHOLDS, "right")
        for values in (found[labels], found.ravel())
    ]
    inside, everything = above
    total = everything + int(labels.sum())
    return np.where(total > 0, 2 * inside / np.maximum(total, 1), 1.0)


def _score(volume: Volume, found: NDArray[np.bool_], name: str) -> Score:
    """Score a mask over all slices of a volume; a distance to an empty mask counts as the volume's diagonal."""
    distance = hd95(volume.labels, found, volume.spacing_mm)
    if not math.isfinite(distance):
        distance = math.hypot(*(size * mm for size, mm in zip(found.shape, volume.spacing_mm, strict=True)))
    metrics = {"dice": dice(volume.labels, found), "hd95": distance}
    return Score(volume.name, volume.subject, REAL_TEST if name == REAL else ZERO_TEST, metrics)


def _stripped(magnitude: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the magnitude, black outside of the mask."""
    return np.asarray(np.where(mask, magnitude, 0), np.float32)


def label_problems(volumes: Sequence[Volume]) -> list[str]:
    """Return one line for each volume whose labels can hardly be its own."""
    problems = []
    for one in volumes:
        share = float(one.labels.mean())
        if share in (0.0, 1.0):
            what = "no pixel is labelled" if share == 0 else "every pixel is labelled"
            problems.append(f"{one.name}: {what}; expected a part of the volume; it counts as it is")
        elif float(one.magnitude[one.labels].mean()) <= float(one.magnitude[~one.labels].mean()):
            problems.append(
                f"{one.name}: the labelled pixels are no brighter than the others; expected the labels of this volume; "
                "compare its segmentation with its image"
            )
    return problems
