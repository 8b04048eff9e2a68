"""Group the frames of a file or folder into volumes and select the one that a manifest row names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.frames import Frame

_SAME_SLICE_MM = 0.005
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class VolumeFrames:
    """The frames of one volume, not yet in order.

    `echo` and `time` are the cells `echo` and `frame` of its manifest row; `several_echoes` and `several_times` say
    whether they are needed.
    """

    frames: tuple[Frame, ...]
    echo: int
    time: int
    several_echoes: bool
    several_times: bool

    @property
    def te_ms(self) -> float | None:
        """Echo time of its first frame."""
        return self.frames[0].te_ms


def select_volume(frames: Sequence[Frame], row: ManifestRow, kind: Kind = "magnitude") -> VolumeFrames:
    """Find the volume that a row names by `series`, `echo` and `frame`.

    Parameters
    ----------
    frames
        Of all files that belong to the row's path.
    row
        The manifest row.
    kind
        Of the frames to take from mixed objects.

    Raises
    ------
    VolumeError
        `ambiguous` where several volumes match the row, `mismatch` where none does, `not_magnitude`.
    """
    frames = _one_series(frames, row)
    volumes = split_volumes(_of_kind(frames, row, kind), row.path)
    volumes = _one_echo(volumes, row)
    return _one_time(volumes, row)


def split_volumes(frames: Sequence[Frame], name: str) -> list[VolumeFrames]:
    """Split frames of one series and kind into echoes and time points.

    Nothing is split unless a slice position has several frames: echo times that vary from slice to slice, or
    acquisition numbers of interleaved packages, are still one volume.

    Raises
    ------
    VolumeError
        `incomplete` for unequal matrices or uneven numbers of images, `ambiguous` for two images without any
        difference, `unsupported` for slices that are not parallel.
    """
    _check_alike(frames, name)
    slices = _number_slices(frames)
    if max(Counter(slices.values()).values()) == 1:
        return [VolumeFrames(tuple(frames), _echo_number(frames[0]), 0, False, False)]
    echoes = _split_echoes(frames)
    volumes = []
    for echo, members in echoes:
        times = _split_times(members, slices, name)
        for time, group in enumerate(times):
            volumes.append(VolumeFrames(tuple(group), echo, time, len(echoes) > 1, len(times) > 1))
    return volumes


def _one_series(frames: Sequence[Frame], row: ManifestRow) -> Sequence[Frame]:
    if not frames:
        raise VolumeError("unreadable", f"{row.path}: has no DICOM images; expected MR; correct path or format")
    found = Counter(frame.series for frame in frames)
    if row.series is not None:
        chosen = [frame for frame in frames if frame.series == row.series]
        if not chosen:
            raise VolumeError(
                "mismatch",
                f"{row.path}: {_series_list(frames)}; expected the series of the row; correct the column series",
            )
        return chosen
    if len(found) > 1:
        raise VolumeError(
            "ambiguous",
            f"{row.path}: {_series_list(frames)}; expected one; "
            "name it in the column series ('rephase manifest scan' does)",
        )
    return frames


def _series_list(frames: Sequence[Frame]) -> str:
    """Describe the series without their UIDs, which are identifying: messages go into the run log."""
    groups = _grouped(frames, [frame.series for frame in frames])
    shown = [f"{len(group)} {group[0].kind}" for group in list(groups.values())[:8]]
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    return f"holds {len(groups)} series: {', '.join(shown)}{more}"


def _of_kind(frames: Sequence[Frame], row: ManifestRow, kind: Kind) -> list[Frame]:
    chosen = [frame for frame in frames if frame.kind == kind and frame.computed is None]
    if not chosen and kind == "magnitude":
        # reformatted or otherwise processed magnitude is allowed where a row names it, and `image_type` keeps the word
        # DERIVED for audits; maps and projections are not
        chosen = [frame for frame in frames if frame.kind == "derived" and frame.computed is None]
    if chosen:
        return chosen
    words = sorted({frame.computed or frame.kind for frame in frames})
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(f.kind for f in frames).items()))
    stated = "\\".join(_image_type(frames[0]))
    raise VolumeError(
        "not_magnitude",
        f"{row.path}: its images are {', '.join(words)} ({counts}; ImageType {stated}); expected {kind}; "
        "remove the row or name the magnitude series",
    )


def _image_type(frame: Frame) -> list[str]:
    return [str(word)[:24] for word in frame.facts.acquisition.get("image_type", [])][:8]


def _one_echo(volumes: Sequence[VolumeFrames], row: ManifestRow) -> list[VolumeFrames]:
    echoes = {volume.echo: volume.te_ms for volume in volumes}
    listed = ", ".join(f"{echo} (TE {'unknown' if te is None else f'{te:g} ms'})" for echo, te in echoes.items())
    if len(echoes) > 1 and row.echo is None:
        raise VolumeError("ambiguous", f"{row.path}: holds echoes {listed}; expected one; name it in the column echo")
    if row.echo is None or (len(echoes) == 1 and row.echo == 1):
        return list(volumes)
    chosen = [volume for volume in volumes if volume.echo == row.echo]
    if not chosen:
        raise VolumeError("mismatch", f"{row.path}: no echo {row.echo}; it holds {listed}; correct the column echo")
    return chosen


def _one_time(volumes: Sequence[VolumeFrames], row: ManifestRow) -> VolumeFrames:
    if len(volumes) > 1 and row.frame is None:
        raise VolumeError(
            "ambiguous",
            f"{row.path}: holds {len(volumes)} time points; expected one; "
            f"name it (0 to {len(volumes) - 1}) in the column frame",
        )
    frame = row.frame or 0
    if not 0 <= frame < len(volumes):
        raise VolumeError(
            "mismatch", f"{row.path}: no frame {frame}; it holds 0 to {len(volumes) - 1}; correct the column"
        )
    return volumes[frame]


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    matrices = Counter((frame.rows, frame.columns) for frame in frames)
    if len(matrices) > 1:
        shown = ", ".join(f"{count} of {rows}x{columns}" for (rows, columns), count in matrices.most_common(4))
        raise VolumeError(
            "incomplete", f"{name}: images of unequal matrices: {shown}; expected one matrix; sort the files"
        )
    first = frames[0]
    spacings = {frame.spacing_mm for frame in frames}
    if any(abs(a - b) > 1e-3 * b for spacing in spacings for a, b in zip(spacing, first.spacing_mm, strict=True)):
        raise VolumeError(
            "incomplete",
            f"{name}: images of unequal pixel spacing: {sorted(spacings)[:4]}; expected one; sort the files",
        )
    for frame in frames:
        rows = sum(a * b for a, b in zip(frame.row_direction, first.row_direction, strict=True))
        columns = sum(a * b for a, b in zip(frame.column_direction, first.column_direction, strict=True))
        if min(rows, columns) < 0.9998:  # one degree: more is another stack, less is rounding
            raise VolumeError(
                "unsupported", f"{name}: slices of several orientations; expected parallel slices; split the series"
            )


def _number_slices(frames: Sequence[Frame]) -> dict[int, int]:
    """Number the slice positions; keys are the `id`s of frames, which are not unique by value."""
    ordered = sorted(frames, key=lambda frame: frame.depth_mm)
    numbers, current, last = {}, 0, ordered[0].depth_mm
    for frame in ordered:
        depth = frame.depth_mm
        current += depth - last > _SAME_SLICE_MM
        last = depth
        numbers[id(frame)] = current
    return numbers


def _echo_number(frame: Frame) -> int:
    return frame.echo if frame.echo and frame.echo > 0 else 1


def _split_echoes(frames: Sequence[Frame]) -> list[tuple[int, list[Frame]]]:
    """Group frames by echo time; numbers are the header's where these are distinct, else 1, 2, ... by time."""
    groups = _grouped(frames, [round(frame.te_ms or 0.0, 3) for frame in frames])
    ordered = [groups[te] for te in sorted(groups)]
    named = [{frame.echo for frame in group} for group in ordered]
    numbers = [next(iter(names)) or 0 for names in named]
    if any(len(names) > 1 for names in named) or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(ordered) + 1))
    return sorted(zip(numbers, ordered, strict=True), key=lambda pair: pair[0])


def _split_times(frames: Sequence[Frame], slices: dict[int, int], name: str) -> list[list[Frame]]:
    by_slice = _grouped(frames, [slices[id(frame)] for frame in frames])
    if max(len(group) for group in by_slice.values()) == 1:
        return [list(frames)]
    times = [frame.time for frame in frames]
    if None not in times and len(set(times)) > 1:
        # temporal positions are explicit and checked one by one, so an incomplete last one affects no other
        by_time = _grouped(frames, times)
        parts = [by_time[time] for time in sorted(by_time, key=lambda time: time or 0)]
        return [split for part in parts for split in _split_repeats(part, slices, name)]
    return _split_repeats(frames, slices, name)


def _split_repeats(frames: Sequence[Frame], slices: dict[int, int], name: str) -> list[list[Frame]]:
    """Assign the k-th image at each position, in the order of acquisition, to volume k."""
    by_slice = _grouped(frames, [slices[id(frame)] for frame in frames])
    usual = Counter(len(group) for group in by_slice.values()).most_common(1)[0][0]
    for group in by_slice.values():
        group.sort(key=lambda frame: (frame.order, frame.number))
        _check_distinct(group, name)
    for group in by_slice.values():
        if len(group) != usual:
            raise VolumeError(
                "incomplete",
                f"{name}: {len(group)} images at slice position {group[0].depth_mm:.2f} mm; expected {usual} as at "
                "the others; copy the series again",
            )
    return [[group[k] for group in by_slice.values()] for k in range(usual)]


def _check_distinct(group: Sequence[Frame], name: str) -> None:
    for one, other in pairwise(group):
        if one.order == other.order:
            files = str(one.file) if one.file == other.file else f"{one.file} and {other.file}"
            raise VolumeError(
                "ambiguous",
                f"{name}: two images at slice position {one.depth_mm:.2f} mm without any difference ({files}); "
                "expected one; remove the copy",
            )


def _grouped(frames: Iterable[Frame], keys: Iterable[K]) -> dict[K, list[Frame]]:
    groups: dict[K, list[Frame]] = defaultdict(list)
    for frame, key in zip(frames, keys, strict=True):
        groups[key].append(frame)
    return dict(groups)
