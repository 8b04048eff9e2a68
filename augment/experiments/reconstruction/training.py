"""Train and test one network of the experiment on reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import ColumnMask, MaskedSlices
from rephase.data.mix import mix
from rephase.diffusion.fourier import ifft2c
from rephase.experiments.arms import REAL, ZERO, Arm
from rephase.experiments.corpora import Corpora
from rephase.experiments.loop import fit, is_of, people_of
from rephase.experiments.reconstruction.config import METRICS, ReconstructionConfig, condition, crime_condition
from rephase.experiments.reconstruction.networks import make_network
from rephase.experiments.slices import ResizedSlices
from rephase.experiments.store import Job, Result, Score
from rephase.experiments.subjects import draw_subjects
from rephase.metrics import nmse, psnr, ssim

_EXAMPLES = 2
_METRICS = {"nmse": nmse, "ssim": ssim, "psnr": psnr}


class _Item(NamedTuple):
    """One undersampled slice: k-space, its columns, and the magnitude of all of it."""

    kspace: Tensor
    mask: Tensor
    target: Tensor


def to_item(kspace: Any, mask: Any, target: Any, attrs: dict[str, Any], name: str, number: int) -> _Item:  # noqa: ANN401
    """Convert a masked tuple of a loader to tensors: a transform."""
    return _Item(torch.from_numpy(kspace), torch.from_numpy(mask), torch.from_numpy(target))


@dataclass
class Reconstruction:
    """The experiment: see `rephase.experiments.jobs.Experiment`. It keeps the test data of its process."""

    config: ReconstructionConfig
    corpora: Corpora
    device: str
    _tests: dict[tuple[str, int], list[_Volume]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept data out of pickles."""
        return self.__dict__ | {"_tests": {}}

    def run(self, job: Job, weights: Path, start: Path | None) -> Result:
        """Train and test one network."""
        torch.manual_seed(job.seed)
        network = make_network(job.model, self.config.network, job.arm.magnitude_only).to(self.device)
        if start is not None:
            network.load_state_dict(load_file(start, device=self.device))
        data, num_subjects = self._training_slices(job.arm, job.seed)
        curve = self._train(network, data, job)
        save_file(network.state_dict(), weights)
        network.eval()
        names = [REAL, *([ZERO] if job.arm.label in (ZERO, REAL) else [])]
        scores, pictures = self._test(network, names)
        facts = {
            "updates": job.steps + (job.start.steps if job.start else 0),
            "parameters": sum(one.numel() for one in network.parameters()),
            "slices": len(data),
            "subjects": num_subjects,
        }
        return Result(scores, curve, facts, pictures if job.seed == 0 else {})

    def zero_filled(self) -> Result:
        """Return the scores of the image of the sampled columns alone, and the pictures of the truth."""
        scores, pictures = self._test(_ZeroFilled(), [REAL, ZERO])
        pictures |= {
            f"truth {volume.name}": volume.example for volume in self._volumes(REAL, self._highest)[:_EXAMPLES]
        }
        return Result(scores, [], {"updates": 0, "parameters": 0, "slices": 0, "subjects": 0}, pictures)

    @property
    def _highest(self) -> int:
        return max(self.config.accelerations)

    def _training_slices(self, arm: Arm, seed: int) -> tuple[Any, int]:
        """Return the slices of an arm, shuffled by `set_epoch`, and the number of its subjects."""
        factors = self.config.accelerations
        mask = ColumnMask("random", factors, tuple(_centre(factor) for factor in factors))
        masked = MaskedSlices(mask, to_item, training=True, seed=seed)
        sets = []
        subjects: set[str] = set()
        for name in (arm.corpus, REAL if arm.real_percent else None):
            if name is None:
                continue
            known = KSpaceSlices(self.corpora.train[name])
            people = list(people_of(known).values())
            chosen = draw_subjects(people, arm.real_percent, seed) if name == REAL else sorted(set(people))
            own = KSpaceSlices(self.corpora.train[name], where=partial(is_of, frozenset(chosen)))
            angle = seed if arm.random_angle else None
            sets.append(ResizedSlices(own, self.config.data.matrix, masked, random_angle=angle))
            subjects |= set(chosen)
        # a data set alone is the synthetic one of a mixture without the other, so that arms are in equal orders
        share = arm.real_percent / 100 if len(sets) == 2 else 0.0
        return mix(sets[-1], sets[0], share, seed), len(subjects)

    def _train(self, network: nn.Module, data: Any, job: Job) -> list[tuple[int, float]]:  # noqa: ANN401 - a data set
        def loss_of(kspace: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            # relative to the slice, so that dark volumes count as bright ones
            norm = target.square().mean(dim=(-2, -1)).sqrt() + 1e-12
            loss: Tensor = ((network(kspace, mask) - target).abs().mean(dim=(-2, -1)) / norm).mean()
            return loss

        return fit(network, loss_of, data, self.config.training, job, self.device)

    @torch.no_grad()
    def _test(self, network: nn.Module, names: list[str]) -> tuple[list[Score], dict[str, NDArray[np.float32]]]:
        scores, pictures = [], {}
        for name in names:
            for factor in self.config.accelerations:
                for number, volume in enumerate(self._volumes(name, factor)):
                    parts = [
                        network(
                            volume.kspace[place : place + 8].to(self.device), volume.mask.expand(8, -1)[: len(part)]
                        )
                        for place, part in _chunks(volume.kspace, 8)
                    ]
                    found = torch.cat(parts).cpu().numpy()
                    metrics = {metric: _METRICS[metric](volume.target, found) for metric in METRICS}
                    where = condition(factor) if name == REAL else crime_condition(factor)
                    scores.append(Score(volume.name, volume.subject, where, metrics))
                    if name == REAL and factor == self._highest and number < _EXAMPLES:
                        pictures[volume.name] = found[len(found) // 2]
        return scores, pictures

    def _volumes(self, name: str, factor: int) -> list[_Volume]:
        if (name, factor) not in self._tests:
            mask = ColumnMask("random", (factor,), (_centre(factor),))
            masked = MaskedSlices(mask, to_item)
            slices = ResizedSlices(KSpaceSlices(self.corpora.test[name]), self.config.data.matrix, masked)
            people, first, volumes = slices.subjects(), 0, []
            for volume, count in zip(slices.volumes, slices.volume_slices.tolist(), strict=True):
                items = [slices[place] for place in range(first, first + count)]
                kspace, masks, target = (torch.stack(part) for part in zip(*items, strict=True))
                volumes.append(_Volume(volume, people[volume], kspace, masks[:1].to(self.device), target.numpy()))
                first += count
            self._tests[name, factor] = sorted(volumes, key=lambda one: (one.subject, one.name))
        return self._tests[name, factor]


@dataclass(frozen=True)
class _Volume:
    """One undersampled test volume, `(slice height width)`; all slices have one mask."""

    name: str
    subject: str
    kspace: Tensor
    mask: Tensor
    target: NDArray[np.float32]

    @property
    def example(self) -> NDArray[np.float32]:
        """The middle slice of the truth."""
        middle: NDArray[np.float32] = self.target[len(self.target) // 2]
        return middle


class _ZeroFilled(nn.Module):
    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        return ifft2c(kspace).abs()


def _chunks(values: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    return ((start, values[start : start + size]) for start in range(0, len(values), size))


def _centre(factor: int) -> float:
    """Return fastMRI's share of fully sampled central columns: 8 % at 4-fold, 4 % at 8-fold undersampling."""
    return 0.32 / factor
