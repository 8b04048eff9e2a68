"""`rephase view`: one volume of a corpus as an HTML file to look through: magnitude, phase, k-space, three planes."""

from __future__ import annotations

import base64
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError
from rephase.files import private_folder, replacing
from rephase.pages import render
from rephase.pictures import DECADES, NOTHING, NUM_HUES, colour_wheel, phase_index, phase_palette, signal_mask
from rephase.reports.facts import describe_facts
from rephase.reports.report import output_path
from rephase.reports.samples import VolumeReader, readable

MOST_PIXELS = 6_000_000
"""Pixels of each kind in a page; larger volumes are subsampled, since averages of phase would be wrong."""

_ROUNDING_OF_MAXIMUM = 1e-5
_SHOWN_NAMES = 200


@dataclass(frozen=True)
class Stack:
    """Slices of one kind as bytes, `(slice height width)`, deflated and in base64."""

    data: str
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, slices: list[NDArray[np.uint8]]) -> Stack:
        """Pack slices."""
        values = np.stack(slices)
        num_slices, height, width = values.shape
        return cls(base64.b64encode(zlib.compress(values.tobytes(), 6)).decode("ascii"), (num_slices, height, width))


def write_view(
    root: str | os.PathLike[str],
    volume: str | None = None,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a page of one volume: one HTML file without external resources, which any browser opens.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    volume
        Name of the volume; the first one if None.
    out
        Path of the file. Default: `<corpus>.run/view-<volume>.html` next to the corpus.
    progress
        Called with (slices read, slices in total).

    Returns
    -------
    out
        Path of the file.

    Raises
    ------
    RequestError
        If there is no such volume, it cannot be read, or `out` cannot be written.
    """
    store = CorpusStore.open(root)
    names = store.names()
    if not names:
        raise RequestError(f"{store.root}: no volume is committed; expected at least one; see 'rephase status'")
    name = names[0] if volume is None else volume
    if name not in names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise RequestError(f"{store.root}: no volume {name!r}; expected one of {shown}")
    path = output_path(store.root, out, f"view-{name}.html")
    try:
        page = _page(store, name, names, progress)
    except VolumeError as error:
        raise RequestError(str(error)) from None
    if out is None:
        private_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _page(store: CorpusStore, name: str, names: list[str], progress: Callable[[int, int], None] | None) -> str:
    receipt = store.receipt(name)
    if receipt is None:
        raise VolumeError("missing", f"volume {name}: is no longer committed")
    reader = VolumeReader(store, name, receipt)
    height, width, _ = receipt["recon_size"]
    step, slice_step = thinning(reader.num_slices, height, width)
    white = float(receipt["max"]) or 1.0
    stacks: tuple[list[NDArray[np.uint8]], ...] = ([], [], [])
    source = ""
    with readable(store, name):
        for number in range(0, reader.num_slices, slice_step):
            magnitude, image, source, kspace = reader.slice_images(number)
            for stack, shown in zip(stacks, _shown(magnitude, image, kspace, white), strict=True):
                stack.append(np.ascontiguousarray(shown[::step, ::step]))
            if progress is not None:
                progress(number + 1, reader.num_slices)
    spacing = [
        receipt["spacing_mm"][0] * slice_step, receipt["spacing_mm"][1] * step, receipt["spacing_mm"][2] * step
    ]  # fmt: skip
    return render(
        "view.html",
        name=name,
        title=store.root.rstrip("/").rsplit("/", 1)[-1],
        stacks=dict(zip(("magnitude", "phase", "kspace"), map(Stack.of, stacks), strict=True)),
        spacing=spacing,
        palette=phase_palette().tolist(),
        facts=[*describe_facts(receipt), *([f"phase of {source}"] if source else [])],
        thinned=[
            *([f"every {slice_step} slices"] if slice_step > 1 else []),
            *([f"every {step} pixels of both axes"] if step > 1 else []),
        ],
        others=[one for one in names[:_SHOWN_NAMES] if one != name],
        num_others=len(names) - 1,
        slice_step=slice_step,
        step=step,
        decades=DECADES,
        window=_window(stacks[0]),
        wheel=colour_wheel(),
        now=time.time(),
    )


def _window(magnitude: list[NDArray[np.uint8]]) -> int:
    """Return the percentage of the maximum that is shown in white: where most of the object is not."""
    values = np.stack(magnitude)
    inside = values[values > 12]
    return max(round(float(np.percentile(inside, 99.5)) / 2.55), 1) if len(inside) else 100


def thinning(num_slices: int, height: int, width: int) -> tuple[int, int]:
    """Return the steps (pixels, slices) at which a volume has at most `MOST_PIXELS`, pixels first down to 128."""
    step = slice_step = 1
    while num_slices // slice_step * (height // step) * (width // step) > MOST_PIXELS:
        if max(height, width) // (step + 1) >= 128:
            step += 1
        else:
            slice_step += 1
    return step, slice_step


def _shown(
    magnitude: NDArray[np.float32], image: NDArray[np.complex64], kspace: NDArray[np.float32], white: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield magnitude in grey levels of the volume, phase as in the palette, and log k-space in grey levels."""
    yield np.rint(255 * np.clip(magnitude / white, 0, 1)).astype(np.uint8)
    index = phase_index(image) + NUM_HUES * (~signal_mask(magnitude)).astype(np.uint8)
    index[magnitude <= _ROUNDING_OF_MAXIMUM * white] = NOTHING
    yield index
    peak = float(kspace.max()) or 1.0
    yield np.rint(255 * (1 + np.log10(np.maximum(kspace / peak, 10.0**-DECADES)) / DECADES)).astype(np.uint8)
