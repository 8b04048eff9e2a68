"""The pictures of a report: a few volumes as magnitude, phase, log k-space and phase histogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.pictures import (
    NUM_HUES,
    Picture,
    colour_wheel,
    phase_counts,
    phase_palette,
    picture_kspace,
    picture_magnitude,
    picture_phase,
    signal_mask,
)
from rephase.reports.facts import Candidate, describe_shape
from rephase.reports.html import Markup, element, histogram, section
from rephase.reports.samples import Sample, read_sample

_NUM_BINS = NUM_HUES // 2


def gallery(store: CorpusStore, chosen: Iterable[Candidate], num_volumes: int) -> Markup:
    """Show the chosen volumes, one slice each; a volume that cannot be read says so in its place."""
    shown = list(chosen)
    if not shown:
        words = "There is no committed volume to show." if not num_volumes else "No pictures were asked for."
        return section("pictures", "Pictures", element("p", words))
    words = (
        f"{len(shown)} of {num_volumes:,} volumes, spread over contrasts and matrices; of each the slice with the most "
        "signal near the middle, computed from the stored k-space. Pixels are not smoothed and stand as stored: height "
        "downwards, width to the right, at their true proportions. The orientation names the patient directions (LPS "
        "letters) in which slice, height and width grow."
    )
    return section("pictures", "Pictures", element("p", words), _legend(), *(_volume(store, one) for one in shown))


def _legend() -> Markup:
    label = "Colour circle of the phase: 0 to the right, pi/2 up, pi to the left, minus pi/2 down"
    wheel = element("image", href=colour_wheel().uri, x=50, y=22, width=100, height=100)
    places = ((156, 76, "start", "0"), (100, 16, "middle", "π/2"), (44, 76, "end", "±π"), (100, 138, "middle", "−π/2"))
    marks = (
        element("text", mark, x=x, y=y, text_anchor=anchor, font_size=13, fill="currentColor")
        for x, y, anchor, mark in places
    )
    circle = element("svg", wheel, *marks, viewBox="0 0 200 144", role="img", aria_label=label)
    words = (
        "Phase colours run once around the circle, brightest at 0 and darkest at ±π. Where the magnitude is below 5 % "
        "of the slice's 99th percentile the colour is faded, and grey where it is zero: phase of air means nothing."
    )
    return element("div", circle, element("p", words), class_="legend")


def _volume(store: CorpusStore, chosen: Candidate) -> Markup:
    title = element("h3", chosen.name)
    try:
        sample = read_sample(store, chosen.name)
    except VolumeError as error:
        return element("article", title, element("p", error, class_="fault"), class_="volume")
    facts = element("p", "; ".join(_facts(sample, chosen)), class_="soft")
    return element("article", title, facts, element("div", *_figures(sample), class_="pictures"), class_="volume")


def _facts(sample: Sample, chosen: Candidate) -> Iterator[str]:
    receipt = sample.receipt
    yield f"slice {sample.slice_index} of {chosen.num_slices} (counted from 0)"
    yield describe_shape(chosen.shape)
    yield f"{receipt['spacing_mm'][1]:.3g} × {receipt['spacing_mm'][2]:.3g} mm"
    yield f"orientation {receipt['orientation']}"
    yield from (receipt[key] for key in ("contrast", "anatomy", "split") if receipt[key] is not None)
    if receipt["field_t"] is not None:
        yield f"{receipt['field_t']:.3g} T"
    if receipt["te_ms"] is not None:
        yield f"TE {receipt['te_ms']:.4g} ms"
    yield f"phase: {receipt['phase_generator']}" + (f", {receipt['nfe']} evaluations" if receipt["nfe"] else "")
    if sample.image_source:
        yield f"phase of {sample.image_source}"


def _figures(sample: Sample) -> Iterator[Markup]:
    signal = signal_mask(sample.magnitude)
    where = f"slice {sample.slice_index} of volume {sample.name}"
    mm = sample.receipt["spacing_mm"]
    height, width = sample.magnitude.shape
    aspect = width * mm[2] / (height * mm[1])
    empty = "" if signal.any() else ", which is empty"
    magnitude = picture_magnitude(sample.magnitude)
    yield _figure("Magnitude", magnitude, f"Magnitude of {where}{empty}", aspect)
    yield _figure("Phase", picture_phase(sample.image, signal), f"Phase of {where}, colours as in the legend", aspect)
    kspace_aspect = mm[1] / mm[2]  # k-space reaches to 1 / (2 * spacing): the pixel's shape counts, not the matrix
    yield _figure("k-space", picture_kspace(sample.kspace), f"Logarithm of the k-space of {where}", kspace_aspect)
    yield _histogram(sample, int(signal.sum()), where)


def _figure(title: str, picture: Picture, alt: str, aspect: float) -> Markup:
    """Put a picture into a square frame, at its true proportions: the longer side fills the frame."""
    size = f"width:{100 * min(aspect, 1):.3f}%;height:{100 * min(1 / aspect, 1):.3f}%"
    thinned = f", every {picture.step}th pixel" if picture.step > 1 else ""
    return element(
        "figure",
        element("div", element("img", src=picture.uri, alt=alt, style=size), class_="frame"),
        element("figcaption", element("b", title), f" {picture.caption}{thinned}"),
    )


def _histogram(sample: Sample, num_pixels: int, where: str) -> Markup:
    caption = element("figcaption", element("b", "Phase histogram"), f" {num_pixels:,} pixels of the object")
    if not num_pixels:
        return element("figure", element("div", "no signal", class_="frame plain"), caption)
    counts = phase_counts(sample.image, signal_mask(sample.magnitude), _NUM_BINS)
    middle = NUM_HUES // _NUM_BINS // 2  # of the hues that a bin spans
    hues = phase_palette()[middle : NUM_HUES : NUM_HUES // _NUM_BINS].tolist()
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in hues]
    drawing = histogram(counts, colours, f"Histogram of the phase of {where}, from minus pi to pi")
    return element("figure", element("div", drawing, class_="frame plain"), caption)
