"""What the scanner makes of one volume's complex image: its arrays in the corpus, and the facts of the simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.corpus.expansion import LAZY
from rephase.corpus.layout import MAGNITUDE_TOLERANCE, positive_zeros
from rephase.diffusion.fourier import ifft2c
from rephase.diffusion.generators import SliceKey
from rephase.errors import VolumeError
from rephase.pipeline.kspace import make_image, make_kspace, refuse_magnitude
from rephase.pipeline.magnitude import object_support
from rephase.pipeline.task import Task
from rephase.pipeline.worker import WorkerContext
from rephase.readers.volume import Volume
from rephase.scanner.expand import CoilMaps
from rephase.scanner.placement import ObjectGeometry, PlacedCoils, place_coils


@dataclass(frozen=True)
class ScannedVolume:
    """Arrays of a volume, and the attributes of its receipt that describe the scanner; `coil_array` is a fact."""

    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, Any] = field(default_factory=dict)
    coil_array: str | None = None


def scan_volume(
    task: Task,
    volume: Volume,
    magnitude: NDArray[np.float32],
    phasor: NDArray[np.complex64],
    worker: WorkerContext,
) -> ScannedVolume:
    """Scan the image `magnitude * phasor`, `(slice height width)`.

    Raises
    ------
    VolumeError
        If coils cannot be placed around the volume, or the result does not reproduce the magnitude.
    """
    recipe = worker.recipe
    if recipe.coils is None:
        return ScannedVolume({"kspace": make_kspace(magnitude, phasor), "reconstruction_esc": magnitude})
    placed = _place(task, volume, magnitude, worker)
    image = np.empty(magnitude.shape, np.complex64)
    for number, part in enumerate(phasor):
        image[number] = positive_zeros(make_image(magnitude[number], part))
    arrays: dict[str, NDArray[Any]] = {"reconstruction_rss": magnitude, "coil_coefficients": placed.coefficients}
    maps = CoilMaps(placed.coefficients, *magnitude.shape)
    limit = MAGNITUDE_TOLERANCE * float(magnitude.max())
    if recipe.storage == LAZY:
        for number, part in enumerate(image):
            refuse_magnitude(magnitude[number], np.abs(part), limit, number)
        arrays["image"] = image
    else:
        arrays["kspace"] = _expand(maps, image, magnitude, limit)
    array = f"{placed.facts['array']}{placed.facts['count']}"
    return ScannedVolume(arrays, {"storage": recipe.storage, "coils": placed.facts}, array)


def _expand(
    maps: CoilMaps, image: NDArray[np.complex64], magnitude: NDArray[np.float32], limit: float
) -> NDArray[np.complex64]:
    num_slices, height, width = image.shape
    kspace = np.empty((num_slices, maps.num_coils, height, width), np.complex64)
    for number, part in enumerate(image):
        kspace[number] = maps.kspace(part, number)
        squares = ifft2c(torch.from_numpy(kspace[number])).abs().square_().sum(dim=0)
        refuse_magnitude(magnitude[number], squares.sqrt_().numpy(), limit, number)
    return kspace


def _place(task: Task, volume: Volume, magnitude: NDArray[np.float32], worker: WorkerContext) -> PlacedCoils:
    assumed = str(volume.acquisition.get("spacing", "")).startswith("assumed")
    if assumed:
        raise VolumeError(
            "unsupported",
            f"{task.where}: its file states no spacing; --coils expects one, since coils are placed in mm; give a "
            "format with a header, such as NIfTI, or build it without coils",
        )
    key = SliceKey(worker.recipe.seed, task.row.volume_id, task.replica, 0)
    geometry = ObjectGeometry.of(object_support(magnitude), volume.affine)
    anatomy, field_t = task.row.anatomy or volume.anatomy, task.row.field_t or volume.field_t
    try:
        return place_coils(worker.recipe.coils or "", worker.bank, geometry, anatomy, field_t, key)
    except VolumeError as error:
        raise VolumeError(error.reason, f"{task.where}: {error}") from None
