"""Tell the volumes of one series apart where dcm2niix would mix, drop or misplace images; it does all the rest.

dcm2niix 1.0.20260724 stacks water, fat and opposed phase of a Dixon series as time points (and takes IN_PHASE for
phase), merges all time points of a scan that was stopped into one irregular stack, and makes equidistant slices of a
stack with gaps.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.header import Header

_SAME_ORIENTATION = 0.9999  # cosine: half a degree is another block of slices, less is rounding
_LONGEST_LABEL = 60
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """The files of a series that one run of dcm2niix turns into volumes of one kind, echo and stack.

    Attributes
    ----------
    kind
        Of its pixels.
    label
        Cell `part` of its manifest rows; None where the series has one part.
    echo, several_echoes
        Cell `echo`, and whether it is needed.
    te_ms
        Echo time.
    runs
        The files by run: dcm2niix misplaces time points whose images do not follow each other by InstanceNumber, so
        these are converted one by one.
    num_images
        Planes, or tiled pictures, that its volumes have together.
    is_mixed
        Whether the files hold other kinds or echoes too.
    notes
        What a user should know, a line each.
    """

    kind: Kind
    runs: tuple[tuple[Header, ...], ...]
    te_ms: float | None
    num_images: int
    label: str | None = None
    echo: int = 1
    several_echoes: bool = False
    is_mixed: bool = False
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def headers(self) -> tuple[Header, ...]:
        """All files in order."""
        return tuple(header for run in self.runs for header in run)

    @functools.cached_property
    def places(self) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
        """Position and scale of each of its planes, as far as headers state them."""
        frames = [frame for header in self.headers for frame in header.frames if frame.kind == self.kind]
        planes = [(frame.position, frame.scale) for frame in frames if not self.is_mixed or frame.te_ms == self.te_ms]
        return planes or [(header.position or (), header.scale) for header in self.headers if header.is_plane]


def split_series(headers: Sequence[Header], kind: Kind, where: str, lose: Callable[[VolumeError], None]) -> list[Part]:
    """Split the images of one series and kind into parts.

    Nothing is split by ImageType or echo time unless a slice position has several images: echo times that vary from
    slice to slice are still one volume.

    Parameters
    ----------
    headers
        Of one series.
    kind
        Of the images to take.
    where
        Of the series, for messages.
    lose
        Called with the error of each part that cannot be a volume.
    """
    multi = [header for header in headers if header.frames]
    if any(len({(frame.kind, frame.te_ms) for frame in header.frames}) > 1 for header in multi):
        return _mixed_parts(multi, kind, where, lose)
    alike = [header for header in headers if header.kind == kind]
    parts: list[Part] = []
    blocks = _blocks(alike)
    for block, members in enumerate(blocks, 1):
        variants = _split_repeated(members, lambda header: header.words)
        names = _labels([variant[0].words for variant in variants])
        for variant, name in zip(variants, names, strict=True):
            echoes = _split_repeated(variant, lambda header: round(header.te_ms or 0.0, 3))
            label = "-".join(filter(None, [f"block{block}" if len(blocks) > 1 else None, name])) or None
            for number, echo in zip(_echo_numbers(echoes), echoes, strict=True):
                try:
                    part = _complete(echo, kind, where)
                except VolumeError as error:
                    lose(error)
                else:
                    parts.append(replace(part, label=label, echo=number, several_echoes=len(echoes) > 1))
    return sorted(parts, key=lambda part: (part.label or "", part.echo))


def _mixed_parts(headers: Sequence[Header], kind: Kind, where: str, lose: Callable[[VolumeError], None]) -> list[Part]:
    """Return a part for each echo time; their files are the same."""
    frames = [frame for header in headers for frame in header.frames if frame.kind == kind]
    counts = Counter(frame.te_ms for frame in frames)
    try:
        _check_usable(headers, where)
    except VolumeError as error:
        if frames:
            lose(error)
        return []
    return [
        Part(kind, (tuple(headers),), te_ms, counts[te_ms], None, number, len(counts) > 1, True)
        for number, te_ms in enumerate(sorted(counts, key=lambda te_ms: te_ms or 0.0), 1)
    ]


def _blocks(headers: Sequence[Header]) -> list[list[Header]]:
    """Group images into blocks of one matrix, spacing and orientation, in the order of their first image."""
    blocks: list[list[Header]] = []
    for header in sorted(headers, key=lambda header: (header.number or 0, header.file.path)):
        block = next((block for block in blocks if _alike(block[0], header)), None)
        if block is None:
            blocks.append(block := [])
        block.append(header)
    return blocks


def _alike(one: Header, other: Header) -> bool:
    if one.matrix != other.matrix or one.is_tiled != other.is_tiled or bool(one.frames) != bool(other.frames):
        return False
    if not one.is_plane or not other.is_plane or (one.spacing, one.cosines) == (other.spacing, other.cosines):
        return True
    same_spacing = np.allclose(one.spacing, other.spacing, rtol=1e-3)
    ours, theirs = (np.array(header.cosines, float).reshape(2, 3) for header in (one, other))
    return same_spacing and bool((ours * theirs).sum(axis=1).min() > _SAME_ORIENTATION)


def _split_repeated(headers: Sequence[Header], key: Callable[[Header], K]) -> list[list[Header]]:
    """Group images by a key if a slice position has several, else return them as one group."""
    groups = grouped(headers, key)
    if len(groups) == 1 or max(Counter(slice_numbers(headers).values()).values()) == 1:
        return [list(headers)]
    return [groups[value] for value in groups]


def slice_numbers(headers: Sequence[Header]) -> dict[Header, int]:
    """Number the slice positions of a block; 0 for pictures that hold all slices, and for planes without position."""
    if not all(header.is_plane for header in headers):
        return dict.fromkeys(headers, 0)
    depths = dict(zip(headers, _depths(headers), strict=True))
    tolerance = max(0.005, 0.01 * headers[0].thickness_mm)
    numbers, current, last = {}, 0, min(depths.values())
    for header in sorted(headers, key=lambda header: depths[header]):
        current += depths[header] - last > tolerance
        last = depths[header]
        numbers[header] = current
    return numbers


def _depths(headers: Sequence[Header]) -> list[float]:
    """Return the positions along the normal of the first image."""
    rows, columns = np.array(headers[0].cosines).reshape(2, 3)
    depths: list[float] = (np.array([header.position for header in headers]) @ np.cross(rows, columns)).tolist()
    return depths


def _labels(variants: Sequence[tuple[str, ...]]) -> list[str | None]:
    """Name each variant of ImageType by its words that the others lack."""
    if len(variants) == 1:
        return [None]
    common = set(variants[0]).intersection(*variants[1:])
    names = ["_".join(word for word in words if word not in common) for words in variants]
    names = [re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_LABEL] for name in names]
    return [name if name and names.count(name) == 1 else f"type{k}" for k, name in enumerate(names, 1)]


def _echo_numbers(echoes: Sequence[Sequence[Header]]) -> list[int]:
    """Return the header's numbers where these are distinct, else 1, 2, ... by echo time."""
    named = [{header.echo for header in echo} for echo in echoes]
    numbers = [next(iter(names)) or 0 for names in named]
    if any(len(names) > 1 for names in named) or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        order = sorted(range(len(echoes)), key=lambda k: echoes[k][0].te_ms or 0.0)
        return [order.index(k) + 1 for k in range(len(echoes))]
    return numbers


def _complete(headers: Sequence[Header], kind: Kind, where: str) -> Part:
    """Return the part of these images: all slices of each volume, without time points that were cut short.

    Raises
    ------
    VolumeError
        `incomplete`, `ambiguous`, `unsupported`, `unreadable`.
    """
    if len({header.is_plane for header in headers}) > 1:  # the place of some was damaged
        _check_usable(headers, where)
    slices = slice_numbers(headers)
    num_slices = len(set(slices.values()))
    counts = set(Counter(slices.values()).values())
    notes: list[str] = []
    runs = [list(headers)]
    if len(counts) > 1 or (counts != {1} and any(header.problem for header in headers)):
        times = _times(headers, slices)
        whole = [time for time in times if len(time) == num_slices and not any(header.problem for header in time)]
        notes = [_cut_short(time, k, len(times), num_slices) for k, time in enumerate(times, 1) if time not in whole]
        runs = [[header for time in whole for header in time]] if whole else runs
        if not whole:
            _check_usable(headers, where)
            raise _uneven(headers, slices, where)
    _check_usable(runs[0], where)
    if headers[0].is_plane:
        _check_regular(runs[0], slices, where)
        expected = headers[0].num_expected
        if expected is not None and 1 < num_slices < expected:
            raise VolumeError(
                "incomplete", f"{where}: {num_slices} slices; expected {expected} by the header; copy the series again"
            )
        if any(len(time) < num_slices for time in _times_by_number(runs[0], slices)):
            runs = _times(runs[0], slices)
            if not runs:
                raise _uneven(headers, slices, where)
    num_images = sum(header.num_frames for run in runs for header in run)
    return Part(kind, tuple(map(tuple, runs)), runs[0][0].te_ms, num_images, notes=tuple(notes))


def _check_usable(headers: Iterable[Header], where: str) -> None:
    broken = [header for header in headers if header.problem]
    if broken:
        more = f" (and {len(broken) - 1} more files of {where})" if len(broken) > 1 else ""
        unsupported = any(word in str(broken[0].problem) for word in ("convert it", "numbers; expected"))
        raise VolumeError(
            "unsupported" if unsupported else "unreadable", f"{broken[0].file}: {broken[0].problem}{more}"
        )


def _times(headers: Sequence[Header], slices: dict[Header, int]) -> list[list[Header]]:
    """Group images into time points by the first header value that gives each position once; empty if none does."""
    keys: tuple[Callable[[Header], Any], ...] = (
        lambda header: header.time or 0, lambda header: header.acquisition or 0, lambda header: header.acquired,
        lambda header: header.varied,
    )  # fmt: skip
    by_key = [[group for _, group in sorted(grouped(headers, key).items())] for key in keys]
    in_place: dict[Header, int] = {}
    for members in grouped(
        sorted(headers, key=lambda header: header.number or 0), lambda header: slices[header]
    ).values():
        if len({header.number for header in members}) == len(members) == len(headers) / len(set(slices.values())):
            in_place |= {header: time for time, header in enumerate(members)}
    by_place = list(grouped(in_place, lambda header: in_place[header]).values())
    by_place = by_place if len(in_place) == len(headers) else []
    for times in (*by_key, by_place, _times_by_number(headers, slices)):
        if len(times) > 1 and all(len({slices[header] for header in time}) == len(time) for time in times):
            return times
    return []


def _uneven(headers: Sequence[Header], slices: dict[Header, int], where: str) -> VolumeError:
    for same in grouped(headers, lambda header: (slices[header], header.told_apart_by)).values():
        if len(same) > 1:
            return VolumeError(
                "ambiguous",
                f"{where}: no header value tells {same[0].file} from {same[1].file}, at one position; expected one of "
                "them; check which",
            )
    counts = sorted(Counter(slices.values()).values())
    return VolumeError(
        "incomplete",
        f"{where}: {counts[0]} to {counts[-1]} images at its {len(counts)} slice positions, and no header value tells "
        "which belong together; expected as many at each; copy the series again",
    )


def _cut_short(time: Sequence[Header], k: int, num_times: int, num_slices: int) -> str:
    broken = next((header for header in time if header.problem), None)
    if broken is not None:
        return f"time point {k} of {num_times} is left out: {broken.file}: {broken.problem}"
    return f"time point {k} of {num_times} is left out: it was cut short, with {len(time)} of {num_slices} slices"


def _times_by_number(headers: Sequence[Header], slices: dict[Header, int]) -> list[list[Header]]:
    """Start a new time point, in the order of InstanceNumber, where a slice position comes again."""
    times: list[list[Header]] = []
    seen: set[int] = set()
    for header in sorted(headers, key=lambda header: header.number or 0):
        if not times or slices[header] in seen:
            times.append([])
            seen = set()
        times[-1].append(header)
        seen.add(slices[header])
    return times


def _check_regular(headers: Sequence[Header], slices: dict[Header, int], where: str) -> None:
    """Check that slices lie at equal steps on a straight line: dcm2niix writes a plausible volume in any case."""
    first_of = {slices[header]: header for header in reversed(headers)}
    stack = [first_of[k] for k in sorted(first_of)]
    if len(stack) < 2:
        return
    depths = np.array(_depths(stack))
    steps = np.diff(depths)
    smallest = float(steps.min())
    gaps = np.flatnonzero(steps > 1.5 * smallest)
    if gaps.size:
        missing = int(sum(round(float(steps[gap]) / smallest) - 1 for gap in gaps))
        raise VolumeError(
            "incomplete",
            f"{where}: {missing} of {len(stack) + missing} slices missing, first between {depths[gaps[0]]:.2f} and "
            f"{depths[gaps[0] + 1]:.2f} mm (spacing {smallest:.2f} mm); copy the series again",
        )
    if float(steps.max()) > 1.1 * smallest + 0.02:
        raise VolumeError(
            "incomplete",
            f"{where}: slices {smallest:.2f} to {float(steps.max()):.2f} mm apart; expected equal distances; "
            "copy the series again",
        )
    positions = np.array([header.position for header in stack])
    step = (positions[-1] - positions[0]) / (len(stack) - 1)
    off_mm = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(stack)), step), axis=1).max()
    if off_mm > max(stack[0].spacing) + 0.3 * float(np.linalg.norm(step)):
        raise VolumeError(
            "unsupported",
            f"{where}: slices lie up to {off_mm:.1f} mm off a straight line; expected one straight stack; split it",
        )


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group items by a key, in the order of first appearance."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)
