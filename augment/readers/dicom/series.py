"""Tell the volumes of one series apart where dcm2niix would mix, drop or misplace images; it does all the rest.

dcm2niix 1.0.20260724 stacks water, fat and opposed phase of a Dixon series as time points (and takes IN_PHASE for
phase), merges all time points of a scan that was stopped into one irregular stack, and makes equidistant slices of a
stack with gaps.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.header import Frame, Header

_SAME_ORIENTATION = 0.9999  # cosine: half a degree is another block of slices, less is rounding
_LONGEST_LABEL = 60
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """The files of a series that one run of dcm2niix turns into volumes of one kind, echo and stack.

    Attributes
    ----------
    kind, te_ms
        Of its pixels; echo time.
    runs
        The files by run: dcm2niix misplaces time points whose images do not follow each other by InstanceNumber, so
        these are converted one by one.
    num_images
        Planes, or tiled pictures, that its volumes have together.
    label, echo, several_echoes
        Cells `part` and `echo` of its manifest rows; None and 1 where the series has one.
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

    @cached_property
    def headers(self) -> tuple[Header, ...]:
        """All files in order."""
        return tuple(header for run in self.runs for header in run)

    @cached_property
    def planes(self) -> list[Frame]:
        """Its planes: position and scale as far as headers state them; empty for tiles."""
        if self.headers[0].is_tiled:
            return []
        frames = [frame for header in self.headers for frame in header.frames if frame.kind == self.kind]
        return [frame for frame in frames if not self.is_mixed or frame.te_ms == self.te_ms]

    @property
    def acquired(self) -> str:
        """The earliest date and time of its acquisition, empty where they were removed."""
        return min((frame.acquired for h in self.headers for frame in h.frames if frame.kind == self.kind), default="")


def split_series(headers: Sequence[Header], kind: Kind, where: str) -> tuple[list[Part], list[VolumeError]]:
    """Split the images of one series and kind into parts; return them, and the errors of those that are no volume.

    Nothing is split by ImageType or echo time unless a slice position has several images: echo times that vary from
    slice to slice are still one volume.

    Parameters
    ----------
    headers, kind
        Of one series; which of its images to take.
    where
        Of the series, for messages.
    """
    multi = [header for header in headers if header.is_multi]
    if any(len({(frame.kind, frame.te_ms) for frame in header.frames}) > 1 for header in multi):
        counts = Counter(frame.te_ms for header in multi for frame in header.frames if frame.kind == kind)
        try:
            _check_usable(multi if counts else (), where)
        except VolumeError as error:
            return [], [error]
        times_ms = enumerate(sorted(counts, key=lambda te_ms: te_ms or 0.0), 1)
        files = (tuple(multi),)
        return [Part(kind, files, te, counts[te], None, echo, len(counts) > 1, True) for echo, te in times_ms], []
    parts: list[Part] = []
    lost: list[VolumeError] = []
    blocks = _blocks([header for header in headers if header.kind == kind])
    for block, members in enumerate(blocks, 1):
        variants = _split_repeated(members, lambda header: header.words)
        names = _labels([variant[0].words for variant in variants])
        for variant, name in zip(variants, names, strict=True):
            echoes = _split_repeated(variant, lambda header: round(header.te_ms or 0.0, 3))
            echoes.sort(key=lambda echo: echo[0].te_ms or 0.0)
            label = "-".join(filter(None, [f"block{block}" if len(blocks) > 1 else None, name])) or None
            for number, echo in zip(_echo_numbers(echoes), echoes, strict=True):
                try:
                    part = _complete(echo, kind, where)
                except VolumeError as error:
                    lost.append(error)
                else:
                    parts.append(replace(part, label=label, echo=number, several_echoes=len(echoes) > 1))
    return sorted(parts, key=lambda part: (part.label or "", part.echo)), lost


def _echo_numbers(echoes: Sequence[Sequence[Header]]) -> Sequence[int]:
    """Return the header's numbers where these are distinct, else 1, 2, ... of echoes that are in order of time.

    A manifest keeps these numbers: another rule would let it select another echo.
    """
    named = [{header.echo for header in echo} for echo in echoes]
    numbers = [next(iter(names)) or 0 for names in named]
    distinct = all(len(names) == 1 for names in named) and len(set(numbers)) == len(numbers)
    return numbers if distinct and min(numbers) > 0 else range(1, len(echoes) + 1)


def _blocks(headers: Sequence[Header]) -> list[list[Header]]:
    """Group images into blocks of one matrix, spacing and orientation, in the order of their first image."""
    blocks: list[list[Header]] = []
    for header in sorted(headers, key=lambda header: (header.number, header.file.path)):
        block = next((block for block in blocks if _alike(block[0], header)), None)
        if block is None:
            blocks.append(block := [])
        block.append(header)
    return blocks


def _alike(one: Header, other: Header) -> bool:
    ours, theirs = one.frames[0].cosines, other.frames[0].cosines
    if (one.matrix, one.is_tiled, one.is_multi) != (other.matrix, other.is_tiled, other.is_multi):
        return False
    if not one.is_plane or not other.is_plane or (one.spacing, ours) == (other.spacing, theirs):
        return True
    turned = (np.array(ours) * np.array(theirs)).reshape(2, 3).sum(axis=1)
    return bool(np.allclose(one.spacing, other.spacing, rtol=1e-3) and turned.min() > _SAME_ORIENTATION)


def _split_repeated(headers: Sequence[Header], key: Callable[[Header], K]) -> list[list[Header]]:
    """Group images by a key if a slice position has several, else return them as one group."""
    groups = grouped(headers, key)
    if len(groups) == 1 or max(Counter(_slice_numbers(headers).values()).values()) == 1:
        return [list(headers)]
    return list(groups.values())


def _slice_numbers(headers: Sequence[Header]) -> dict[Header, int]:
    """Number the slice positions of a block; 0 for pictures that hold all slices, and for planes without position."""
    if not all(header.is_plane for header in headers):
        return dict.fromkeys(headers, 0)
    depths = dict(zip(headers, _depths(headers), strict=True))
    tolerance = max(0.005, 0.01 * headers[0].thickness_mm)
    numbers, current, last = {}, 0, min(depths.values())
    for header in sorted(headers, key=depths.__getitem__):
        current += depths[header] - last > tolerance
        last = depths[header]
        numbers[header] = current
    return numbers


def _depths(headers: Sequence[Header]) -> list[float]:
    """Return the positions along the normal of the first image."""
    rows, columns = np.array(headers[0].frames[0].cosines).reshape(2, 3)
    depths: list[float] = (np.array([h.frames[0].position for h in headers]) @ np.cross(rows, columns)).tolist()
    return depths


def _labels(variants: Sequence[tuple[str, ...]]) -> list[str | None]:
    """Name each variant of ImageType by its words that the others lack."""
    if len(variants) == 1:
        return [None]
    common = set(variants[0]).intersection(*variants[1:])
    names = ["_".join(word for word in words if word not in common) for words in variants]
    names = [re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_LABEL] for name in names]
    return [name if name and names.count(name) == 1 else f"type{k}" for k, name in enumerate(names, 1)]


def _complete(headers: Sequence[Header], kind: Kind, where: str) -> Part:
    """Return the part of these images: all slices of each volume, without time points that were cut short."""
    if len({header.is_plane for header in headers}) > 1:  # the place of some was damaged
        _check_usable(headers, where)
    slices = _slice_numbers(headers)
    num_slices = len(set(slices.values()))
    times = _times(headers, slices)
    whole = [time for time in times if len(time) == num_slices and not any(header.problem for header in time)]
    notes = [_cut_short(time, k, len(times), num_slices) for k, time in enumerate(times, 1) if time not in whole]
    if not whole:
        _check_usable(headers, where)
        raise _uneven(headers, slices, where)
    if headers[0].is_plane:
        _check_regular(whole[0], where)
    runs = [[header for time in whole for header in time]]
    if any(len(time) < num_slices for time in _times_by_number(runs[0], slices)):
        runs = whole
    num_images = sum(len(header.frames) for run in runs for header in run)
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
    if len(set(slices.values())) == len(headers):
        return [list(headers)]
    keys: tuple[Callable[[Header], Any], ...] = (
        lambda header: header.time, lambda header: header.acquisition, lambda header: header.frames[0].acquired,
        lambda header: header.varied,
    )  # fmt: skip
    candidates = [[group for _, group in sorted(grouped(headers, key).items())] for key in keys]
    ordered = sorted(headers, key=lambda header: header.number)
    places = list(grouped(ordered, slices.__getitem__).values())
    if all(len({header.number for header in place}) == len(place) == len(places[0]) for place in places):
        candidates.append([list(time) for time in zip(*places, strict=True)])
    for times in (*candidates, _times_by_number(headers, slices)):
        if len(times) > 1 and all(len({slices[header] for header in time}) == len(time) for time in times):
            return times
    return []


def _uneven(headers: Sequence[Header], slices: dict[Header, int], where: str) -> VolumeError:
    counts = sorted(Counter(slices.values()).values())
    several = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
    most = [header for header in headers if slices[header] == Counter(slices.values()).most_common(1)[0][0]]
    return VolumeError(
        "incomplete",
        f"{where}: {several} images at its {len(counts)} slice positions, and no header value tells "
        f"which belong together, such as {most[0].file} and {most[-1].file}; expected as many at each; copy it again",
    )


def _cut_short(time: Sequence[Header], k: int, num_times: int, num_slices: int) -> str:
    broken = next((f"{header.file}: {header.problem}" for header in time if header.problem), None)
    why = broken or f"it was cut short, with {len(time)} of {num_slices} slices"
    return f"time point {k} of {num_times} is left out: {why}"


def _times_by_number(headers: Sequence[Header], slices: dict[Header, int]) -> list[list[Header]]:
    """Start a new time point, in the order of InstanceNumber, where a slice position comes again."""
    times: list[list[Header]] = []
    seen: set[int] = set()
    for header in sorted(headers, key=lambda header: header.number):
        if not times or slices[header] in seen:
            times.append([])
            seen = set()
        times[-1].append(header)
        seen.add(slices[header])
    return times


def _check_regular(headers: Sequence[Header], where: str) -> None:
    """Check that slices lie at equal steps on a straight line: dcm2niix writes a plausible volume in any case."""
    depths = dict(zip(headers, _depths(headers), strict=True))
    stack = sorted(headers, key=depths.__getitem__)
    if 1 < len(stack) < stack[0].num_expected:
        raise VolumeError(
            "incomplete",
            f"{where}: {len(stack)} slices; expected {stack[0].num_expected} by the header; copy the series again",
        )
    if len(stack) < 2:
        return
    steps = np.diff([depths[header] for header in stack])
    least, most = float(steps.min()), float(steps.max())
    if most > 1.1 * least + 0.02:
        missing = int(np.rint(steps / least - 1).sum())
        some = f"{missing} of {len(stack) + missing} slices missing" if most > 1.5 * least else "uneven slices"
        raise VolumeError(
            "incomplete",
            f"{where}: {some}: they are {least:.2f} to {most:.2f} mm apart; expected equal distances; copy the series "
            "again",
        )
    positions = np.array([header.frames[0].position for header in stack])
    line = np.linspace(positions[0], positions[-1], len(stack))
    off_mm = float(np.linalg.norm(positions - line, axis=1).max())
    if off_mm > max(stack[0].spacing) + 0.3 * float(np.linalg.norm(line[1] - line[0])):
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
