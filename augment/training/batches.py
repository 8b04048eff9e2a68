"""Real complex slices as training batches, with physical augmentation."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rephase.diffusion.fourier import fft2c, ifft2c, resize_kspace
from rephase.diffusion.physics.grid import from_grid, grid_size
from rephase.diffusion.physics.phase_noise import measure_noise
from rephase.diffusion.processes.objective import Batch
from rephase.pipeline.sampling import conditions_of
from rephase.readers.volume import Volume

NOISE_RANGE = (0.003, 0.05)
"""Standard deviation of the added noise relative to the 99th percentile of the magnitude."""
CROP_SIZES = (32, 48, 64, 80, 96, 112, 128)


@dataclass(frozen=True)
class TrainingSlice:
    """A complex slice `(height width)` and its acquisition; NaN if unknown.

    `te_ms` is the dephasing time (`rephase.sequences`), 0 for a spin echo.

    `group` is its session: slices of large groups are sampled less often.
    """

    image: Tensor
    spacing_mm: tuple[float, float]
    te_ms: float
    field_t: float
    group: str = ""


def slices_of(volume: Volume, group: str = "") -> list[TrainingSlice]:
    """Return the slices with signal of a volume with real phase.

    Raises
    ------
    ValueError
        If the volume has no phase.
    """
    image = complex_image(volume)
    dephasing_ms = conditions_of(volume).dephasing_ms
    te_ms = math.nan if dephasing_ms is None else dephasing_ms
    field_t = volume.field_t if volume.field_t is not None else math.nan
    spacing = volume.spacing_mm[1:]
    return [TrainingSlice(one, spacing, te_ms, field_t, group) for one in image if bool((one.abs() > 0).any())]


def complex_image(volume: Volume) -> Tensor:
    """Return magnitude and real phase of a volume as one image, complex64 `(slice height width)`.

    Raises
    ------
    ValueError
        If the volume has no phase.
    """
    if volume.phase is None:
        raise ValueError("the volume has no phase; a training row needs a `phase` or `kspace` column")
    return torch.polar(torch.from_numpy(volume.magnitude), torch.from_numpy(volume.phase))


def on_grid(one: TrainingSlice, grid_mm: float) -> TrainingSlice:
    """Resample a slice to the grid on which slices of its spacing are sampled; see `rephase.diffusion.physics.grid`."""
    own = (one.image.shape[0], one.image.shape[1])
    grid = grid_size(*own, one.spacing_mm, grid_mm)
    if grid == own:
        return one
    dy, dx = (step * size / new for step, size, new in zip(one.spacing_mm, own, grid, strict=True))
    return replace(one, image=from_grid(one.image, *grid), spacing_mm=(dy, dx))


class TrainingSlices:
    """Batches of augmented slices, each a function of the seed and the step alone.

    A batch contains slices of one size, as many as fit into `pixels`; noise is added to the fraction `noisy` of them. A
    group of n slices is sampled in proportion to sqrt(n), between equal weights of slices (a few large sessions
    dominate) and of sessions (single volumes are repeated). Large slices are in more batches, since few of them fit
    into one.
    """

    def __init__(self, slices: list[TrainingSlice], pixels: int, seed: int, noisy: float = 0.25) -> None:
        if not slices:
            raise ValueError("no slice to train on")
        self.slices, self.pixels, self.seed, self.noisy = slices, pixels, seed, noisy
        counts = Counter(one.group for one in slices)
        shares = np.array([counts[one.group] ** -0.5 for one in slices])
        self.shares = shares / shares.sum()
        weights = shares * [one.image.numel() for one in slices]
        self.firsts = weights / weights.sum()
        self.sizes = np.array([one.image.shape for one in slices])

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        first = self.slices[random.choice(len(self.slices), p=self.firsts)]
        height, width = first.image.shape
        alike = np.flatnonzero((self.sizes == (height, width)).all(axis=1))
        shares = self.shares[alike] / self.shares[alike].sum()
        coarse = min(first.spacing_mm) < 2.0 and random.random() < 0.3
        if coarse:
            scale = random.uniform(0.5, 0.8)
            height, width = (max(2 * round(size * scale / 2), 2) for size in (height, width))
        crop = _crop_size(random, height, width) if random.random() < 0.3 else None
        size = crop or (height, width)
        count = max(1, min(32, self.pixels // (size[0] * size[1])))
        transposed = bool(random.random() < 0.5)
        matrix = (height, width) if coarse else None
        rows = [
            augment_slice(self.slices[random.choice(alike, p=shares)], random, matrix, crop, transposed, self.noisy)
            for _ in range(count)
        ]
        images, conditions, places, sigmas = zip(*rows, strict=True)
        return Batch(torch.stack(images), torch.stack(conditions), torch.stack(places), torch.stack(sigmas))


def augment_slice(
    one: TrainingSlice,
    random: np.random.Generator,
    coarse: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    transposed: bool,
    noisy: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Augment a slice by coarser resolution, field of view, flips, transposition, conjugation, noise.

    Flips and `transposed` together include all rotations by 90 degrees. Global and linear phase are not changed, since
    fixing the gauge removes both.

    Returns
    -------
    image, conditions, place_mm, sigma
        Complex `(height width)`, `(4)`, the offset of its centre in the slice along height and width, `(2)`, and the
        noise of real and imaginary part, `()`.
    """
    image, (dy, dx), (y, x) = one.image, one.spacing_mm, (0.0, 0.0)
    # of the whole slice: a crop may have no air
    sigma = float(measure_noise(image.abs()[None]))
    if coarse is not None:
        dy, dx = dy * image.shape[0] / coarse[0], dx * image.shape[1] / coarse[1]
        sigma *= math.sqrt(coarse[0] * coarse[1] / image.numel())
        image = ifft2c(resize_kspace(fft2c(image), *coarse))
    if crop is not None:
        image, y, x = _crop_with_signal(image, crop, random)
    if random.random() < 0.5:
        image, y = image.flip(-2), -y
    if random.random() < 0.5:
        image, x = image.flip(-1), -x
    if transposed:
        image, dy, dx, y, x = image.transpose(-2, -1), dx, dy, x, y
    if random.random() < 0.5:
        image = image.conj().resolve_conj()
    if random.random() < noisy:
        image, level = _add_noise(image, random)
        sigma = math.hypot(sigma, level)
    conditions = torch.tensor([dy, dx, one.te_ms, one.field_t], dtype=torch.float32)
    return image, conditions, torch.tensor([y * dy, x * dx], dtype=torch.float32), torch.tensor(sigma)


def _add_noise(image: Tensor, random: np.random.Generator) -> tuple[Tensor, float]:
    """Add complex noise, as in a shorter acquisition, to magnitude and phase; return its level, too."""
    level = math.exp(random.uniform(math.log(NOISE_RANGE[0]), math.log(NOISE_RANGE[1]))) * float(
        image.abs().quantile(0.99)
    )
    normals = torch.from_numpy(random.standard_normal((*image.shape, 2), dtype=np.float32))
    return image + level * torch.view_as_complex(normals), level


def _crop_size(random: np.random.Generator, height: int, width: int) -> tuple[int, int] | None:
    sizes = [size for size in CROP_SIZES if size <= min(height, width)]
    if not sizes:
        return None
    size = int(random.choice(sizes))
    return size, size


def _crop_with_signal(image: Tensor, crop: tuple[int, int], random: np.random.Generator) -> tuple[Tensor, float, float]:
    """Return a random crop that is not mostly air (8 attempts), and the offset of its centre in pixels."""
    air = 0.05 * float(image.abs().amax())
    spare = [size - part for size, part in zip(image.shape, crop, strict=True)]
    for _ in range(8):
        top, left = (int(random.integers(most + 1)) for most in spare)
        part = image[top : top + crop[0], left : left + crop[1]]
        if float((part.abs() > air).float().mean()) > 0.3:
            break
    return part, top - spare[0] / 2.0, left - spare[1] / 2.0
