"""The images of a report: one slice per volume as magnitude, phase, log k-space and phase histogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.pictures import (
    NUM_HUES,
    Picture,
    phase_counts,
    phase_palette,
    picture_kspace,
    picture_magnitude,
    picture_phase,
    signal_mask,
)
from rephase.reports.facts import Candidate, describe_facts
from rephase.reports.samples import Sample, read_middle, read_sample

_NUM_BINS = NUM_HUES // 2
_THUMBNAIL = 128


@dataclass(frozen=True)
class Figure:
    """A picture with its title and text alternative; `aspect` is its true width divided by its height."""

    title: str
    picture: Picture
    alt: str
    aspect: float


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram in a drawing of 256 x 256 units; `colour` is the colour of its phase."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class VolumeImages:
    """The images of one volume, or the error why it cannot be shown."""

    name: str
    error: str = ""
    where: str = ""
    facts: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    planes: tuple[Figure, ...] = ()
    histogram: tuple[Bar, ...] = ()
    num_pixels: int = 0


def gallery(store: CorpusStore, chosen: Iterable[Candidate]) -> list[VolumeImages]:
    """Read and render the chosen volumes."""
    return [_draw(store, one) for one in chosen]


def _draw(store: CorpusStore, chosen: Candidate) -> VolumeImages:
    try:
        sample = read_sample(store, chosen.name)
    except VolumeError as error:
        return VolumeImages(chosen.name, error=str(error))
    signal = signal_mask(sample.magnitude)
    num_pixels = int(signal.sum())
    where = f"slice {sample.slice_index} of volume {sample.name}"
    mm = sample.receipt["spacing_mm"]
    height, width = sample.magnitude.shape
    aspect = width * mm[2] / (height * mm[1])
    kspace_aspect = mm[1] / mm[2]  # k-space extends to 1 / (2 * spacing), so only the pixel's shape matters
    empty = "" if num_pixels else ", which is empty"
    phase = picture_phase(sample.image, signal)
    return VolumeImages(
        chosen.name,
        where=where,
        facts=tuple(_facts(sample, chosen)),
        figures=(
            Figure("Magnitude", picture_magnitude(sample.magnitude), f"Magnitude of {where}{empty}", aspect),
            Figure("Phase", phase, f"Phase of {where}, colours as in the legend", aspect),
            Figure("k-space", picture_kspace(sample.kspace), f"Logarithm of the k-space of {where}", kspace_aspect),
        ),
        planes=tuple(_planes(sample)),
        histogram=_histogram(phase_counts(sample.image, signal, _NUM_BINS)) if num_pixels else (),
        num_pixels=num_pixels,
    )


def _planes(sample: Sample) -> Iterator[Figure]:
    """Yield magnitude and phase across the slices, in which jumps of the phase between slices are seen."""
    planes, mm = sample.planes, sample.receipt["spacing_mm"]
    if planes is None:
        return
    for image, title, step_mm in (
        (planes.along_row, f"at row {planes.row}", mm[2]),
        (planes.along_column, f"at column {planes.column}", mm[1]),
    ):
        magnitude = np.abs(image)
        aspect = image.shape[1] * step_mm / (image.shape[0] * planes.step * mm[0])
        where = f"{title} of volume {sample.name}, slices downwards"
        yield Figure(f"Magnitude {title}", picture_magnitude(magnitude), f"Magnitude {where}", aspect)
        yield Figure(f"Phase {title}", picture_phase(image, signal_mask(magnitude)), f"Phase {where}", aspect)


def montage(store: CorpusStore, chosen: Iterable[Candidate]) -> list[tuple[str, Figure, Figure]]:
    """Return name, magnitude and phase of the middle slice of volumes, as thumbnails; unreadable ones are left out."""
    found = []
    for one in chosen:
        try:
            number, magnitude, image, mm = read_middle(store, one.name)
        except VolumeError:  # `verify` lists it
            continue
        step = -(-max(magnitude.shape) // _THUMBNAIL)
        magnitude, image = magnitude[::step, ::step], image[::step, ::step]
        aspect = magnitude.shape[1] * mm[2] / (magnitude.shape[0] * mm[1])
        where = f"thumbnail, slice {number} of volume {one.name}"
        phase = picture_phase(image, signal_mask(magnitude))
        found.append(
            (
                one.name,
                Figure("", picture_magnitude(magnitude), f"Magnitude, {where}", aspect),
                Figure("", phase, f"Phase, {where}", aspect),
            )
        )
    return found


def _facts(sample: Sample, chosen: Candidate) -> Iterator[str]:
    yield f"slice {sample.slice_index} of {chosen.num_slices} (counted from 0)"
    yield from describe_facts(sample.receipt)
    if sample.image_source:
        yield f"phase of {sample.image_source}"


def _histogram(counts: NDArray[np.int64]) -> tuple[Bar, ...]:
    """Return the bars of counts over the phase from -pi to pi: a margin of 8 units, the axis at 226."""
    middle = NUM_HUES // _NUM_BINS // 2  # of the hues that a bin spans
    hues = phase_palette()[middle : NUM_HUES : NUM_HUES // _NUM_BINS].tolist()
    step = 240 / len(counts)
    heights = (214 * counts / max(int(counts.max()), 1)).tolist()
    return tuple(
        Bar(8 + number * step, 226 - height, step + 0.1, height, f"#{red:02x}{green:02x}{blue:02x}")
        for number, (height, (red, green, blue)) in enumerate(zip(heights, hues, strict=True))
    )
