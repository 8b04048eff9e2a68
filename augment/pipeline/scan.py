"""What the scanner makes of one volume's complex image: its arrays in the corpus, and the facts of the simulation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.corpus.expansion import LAZY
from rephase.corpus.invariants import centre_crop
from rephase.corpus.layout import MAGNITUDE_TOLERANCE, positive_zeros
from rephase.diffusion.fourier import ifft2c
from rephase.diffusion.generators import SliceKey
from rephase.errors import VolumeError
from rephase.pipeline.kspace import make_image, make_kspace, refuse_magnitude
from rephase.pipeline.magnitude import object_support
from rephase.pipeline.recipe import Recipe
from rephase.pipeline.task import Task
from rephase.pipeline.worker import WorkerContext
from rephase.readers.volume import Volume
from rephase.scanner.acquisition import MASKED_SPLIT, parse_acquisition, parse_mask
from rephase.scanner.expand import CoilMaps
from rephase.scanner.masks import ColumnMask, seed_of
from rephase.scanner.noise import Noise, head_covariance, noise_floor, noise_level
from rephase.scanner.placement import ObjectGeometry, PlacedCoils, place_coils
from rephase.scanner.sampling import Sampling, sampled_kspace


@dataclass(frozen=True)
class ScannedVolume:
    """Arrays of a volume, the attributes and facts of its receipt that describe the scanner, and its target if new."""

    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    target: NDArray[np.float32] | None = None


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
    key = SliceKey(recipe.seed, task.row.volume_id, task.replica, 0)
    placed = None if recipe.coils is None else _place(task, volume, magnitude, worker, key)
    sampling, mask = _sampling(task, recipe, magnitude)
    if placed is None and recipe.noise is None and sampling is None and mask is None:
        return ScannedVolume({"kspace": make_kspace(magnitude, phasor), "reconstruction_esc": magnitude})
    image = np.empty(magnitude.shape, np.complex64)
    for number, part in enumerate(phasor):
        image[number] = positive_zeros(make_image(magnitude[number], part))
        refuse_magnitude(magnitude[number], np.abs(image[number]), MAGNITUDE_TOLERANCE * float(magnitude.max()), number)
    maps = None if placed is None else CoilMaps(placed.coefficients, *magnitude.shape)
    arrays: dict[str, NDArray[Any]] = {}
    attributes: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    if placed is not None:
        arrays["coil_coefficients"] = placed.coefficients
        attributes |= {"storage": recipe.storage, "coils": placed.facts}
        facts["coil_array"] = f"{placed.facts['array']}{placed.facts['count']}"
    if sampling is not None:
        attributes |= {
            "oversampling": sampling.height / len(magnitude[0]),
            "encoding_size": [sampling.height, sampling.width, 1],
            "padding_left": sampling.left,
            "padding_right": sampling.right,
        }
        facts["readout_start"] = sampling.top or None
        facts["elliptical"] = sampling.elliptical or None
    if mask is not None:
        arrays["mask"] = mask
    noise = None if recipe.noise is None else _noise(recipe, magnitude, maps, key)
    if noise is not None:
        if noise.covariance is not None:
            arrays["noise_covariance"] = noise.covariance
        if recipe.prescan is not None:
            samples = noise.prescan(recipe.prescan)
            arrays["noise_scan"] = positive_zeros(samples if samples.ndim == 2 else samples[None])
        attributes["noise_sigma"] = noise.level.sigma
        facts |= {
            "noise_along": noise.level.along,
            "noise_floor": noise_floor(magnitude),
            "prewhitened": recipe.noise_covariance in (None, "identity"),
            "target_noise": recipe.target,
        }
    target = magnitude
    if recipe.storage != LAZY:
        arrays["kspace"] = _expand(maps, noise, image, magnitude, sampling, mask)
    if noise is not None and recipe.target == "noisy":
        whole = None if sampling is None else replace(sampling, top=0, left=0, right=sampling.width, elliptical=False)
        target = np.empty_like(magnitude)
        full = sampling is None and mask is None and "kspace" in arrays
        for number, part in enumerate(image):
            kspace = arrays["kspace"][number] if full else sampled_kspace(part, number, maps, noise, whole)
            target[number] = centre_crop(root_sum_of_squares(kspace), part.shape)
    if recipe.storage == LAZY:
        arrays["image"] = image
    arrays["reconstruction_rss" if maps is not None else "reconstruction_esc"] = target
    return ScannedVolume(arrays, attributes, facts, target)


def root_sum_of_squares(kspace: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the magnitude of k-space `([coil] height width)`, of several coils the root sum of squares."""
    images = ifft2c(torch.from_numpy(kspace)).abs()
    combined: NDArray[np.float32] = (images if images.ndim == 2 else images.square_().sum(dim=0).sqrt_()).numpy()
    return combined


def _noise(recipe: Recipe, magnitude: NDArray[np.float32], maps: CoilMaps | None, key: SliceKey) -> Noise:
    snr = None if recipe.noise == "measured" else float(recipe.noise or 0)
    support = object_support(magnitude)
    signal = float(np.median(magnitude[support])) if support.any() else 0.0
    level = noise_level(snr, signal, noise_floor(magnitude))
    if maps is None:
        return Noise(level, key, None)
    match recipe.noise_covariance:
        case "head8":
            covariance = head_covariance(maps, len(magnitude) // 2, key)
        case "identity" | None:
            covariance = np.eye(maps.num_coils, dtype=np.complex64)
        case numbers:
            parts = np.array(numbers, np.float64)
            covariance = (parts[..., 0] + 1j * parts[..., 1]).astype(np.complex64)
    return Noise(level, key, covariance)


def _expand(
    maps: CoilMaps | None,
    noise: Noise | None,
    image: NDArray[np.complex64],
    magnitude: NDArray[np.float32],
    sampling: Sampling | None,
    mask: NDArray[np.float32] | None,
) -> NDArray[np.complex64]:
    num_slices, height, width = image.shape
    limit = MAGNITUDE_TOLERANCE * float(magnitude.max())
    coils = () if maps is None else (maps.num_coils,)
    rows = height if sampling is None else sampling.height
    kspace = np.empty((num_slices, *coils, rows, width), np.complex64)
    whole = noise is None and mask is None and (sampling is None or sampling.is_full)
    for number, part in enumerate(image):
        kspace[number] = sampled_kspace(part, number, maps, noise, sampling, mask)
        if whole:
            found = centre_crop(root_sum_of_squares(kspace[number]), part.shape)
            refuse_magnitude(magnitude[number], found, limit, number)
    return kspace


def _sampling(
    task: Task, recipe: Recipe, magnitude: NDArray[np.float32]
) -> tuple[Sampling | None, NDArray[np.float32] | None]:
    """Return what of k-space is sampled, and the volume's mask; None for all of it."""
    _, height, width = magnitude.shape
    sampling = mask = None
    if recipe.acquisition is not None:
        found = Sampling.of(parse_acquisition(recipe.acquisition), height, width)
        sampling = None if found.is_plain and found.is_full else found
    if recipe.mask is not None and task.row.split in (None, MASKED_SPLIT):
        spec = parse_mask(recipe.mask)
        # the seed that fastMRI's code would take for the exported file
        mask = ColumnMask(spec.kind, (spec.acceleration,), (spec.centre,))(width, seed_of(f"{task.name}.h5"))
        if sampling is not None:
            mask[: sampling.left] = mask[sampling.right :] = 0
    return sampling, mask


def _place(
    task: Task, volume: Volume, magnitude: NDArray[np.float32], worker: WorkerContext, key: SliceKey
) -> PlacedCoils:
    assumed = str(volume.acquisition.get("spacing", "")).startswith("assumed")
    if assumed:
        raise VolumeError(
            "unsupported",
            f"{task.where}: its file states no spacing; --coils expects one, since coils are placed in mm; give a "
            "format with a header, such as NIfTI, or build it without coils",
        )
    geometry = ObjectGeometry.of(object_support(magnitude), volume.affine)
    anatomy, field_t = task.row.anatomy or volume.anatomy, task.row.field_t or volume.field_t
    try:
        return place_coils(worker.recipe.coils or "", worker.bank, geometry, anatomy, field_t, key)
    except VolumeError as error:
        raise VolumeError(error.reason, f"{task.where}: {error}") from None
