"""Read the values of a NIfTI file once, in blocks, to tell what is in it and whether a build would refuse it."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.readers.nifti.file import NiftiFile, check_end, sampled, scaled
from rephase.readers.nifti.header import NiftiHeader
from rephase.readers.volume import CLIP_LIMIT

_BLOCK_BYTES = 8 << 20
_MOST_BYTES = 64 << 20
_SAMPLED_PLANES = 12


@dataclass
class Frame:
    """What the values of a frame are like; `num_bad` are not finite, `whole` if all are whole numbers."""

    least: float = np.inf
    most: float = -np.inf
    num_bad: int = 0
    whole: bool = True

    @property
    def refusal(self) -> str | None:
        """Why a build would refuse this frame whatever its options; None if it would not."""
        if self.num_bad:
            return f"{self.num_bad} voxels are not finite; expected finite values; fix the source, or leave its row out"
        if self.least < 0 and -self.least > CLIP_LIMIT * self.most:
            return (
                f"the least value is {self.least:g} with a maximum of {self.most:g}; expected a magnitude, at most "
                f"{CLIP_LIMIT:.0%} of the maximum below zero; name its magnitude"
            )
        return None


@dataclass(frozen=True)
class Survey:
    """The frames that were read, the first one at least, and planes of the middle of the first: `(plane, y, x)`."""

    frames: list[Frame]
    sample: NDArray[np.generic]

    @property
    def is_blank(self) -> bool:
        """Whether all values of all frames that were read are one value."""
        return all(frame.least == frame.most == self.frames[0].least for frame in self.frames)


def survey(file: NiftiFile) -> Survey:
    """Read all frames of a small file, the first one of a larger one.

    The end of a compressed file is checked too: of a small one by its checksum, of a larger one by its size.

    Raises
    ------
    VolumeError, OSError, EOFError, zlib.error
        As `rephase.readers.nifti.file.read_frame`.
    """
    header = file.header
    complete = header.num_frames == 1 or header.frame_bytes * header.num_frames <= _MOST_BYTES
    file.stream.seek(header.offset)
    planes = sampled(header, _SAMPLED_PLANES)
    kept: list[NDArray[np.generic]] = []
    numbers = range(header.num_frames if complete else 1)
    frames = [_frame(file, planes if number == 0 else None, kept) for number in numbers]
    if complete or not isinstance(file.stream, gzip.GzipFile) or not _has_size(file):
        check_end(header, file.stream)
    return Survey(frames, np.concatenate(kept))


def _frame(file: NiftiFile, planes: slice | None, kept: list[NDArray[np.generic]]) -> Frame:
    header = file.header
    plane_bytes = header.shape[0] * header.shape[1] * header.dtype.itemsize
    step = max(1, _BLOCK_BYTES // plane_bytes)
    frame = Frame()
    for first in range(0, header.shape[2], step):
        count = min(step, header.shape[2] - first)
        content = file.stream.read(count * plane_bytes)
        if len(content) != count * plane_bytes:
            raise EOFError(f"the values end at byte {file.stream.tell()} of {header.expected_bytes}")
        raw = np.frombuffer(content, header.dtype).reshape(count, header.shape[1], header.shape[0])
        with np.errstate(over="ignore", invalid="ignore"):
            _count(frame, header, raw)
            if planes is not None:
                some = raw[max(0, planes.start - first) : max(0, planes.stop - first)]
                kept.append(scaled(header, some))
    return frame


def _count(frame: Frame, header: NiftiHeader, raw: NDArray[np.generic]) -> None:
    if raw.dtype.kind in "fc":
        finite = np.isfinite(raw)
        num_bad = raw.size - int(np.count_nonzero(finite))
        frame.num_bad += num_bad
        raw = raw[finite] if num_bad else raw
        if raw.size == 0:
            return
    if raw.dtype.kind == "c":
        raw = np.abs(raw)
    ends = scaled(header, np.array([raw.min(), raw.max()]))
    frame.least, frame.most = min(frame.least, float(ends.min().real)), max(frame.most, float(ends.max().real))
    if frame.whole:
        plain = (
            raw.dtype.kind in "iu" and header.slope == int(header.slope) and header.intercept == int(header.intercept)
        )
        frame.whole = plain or bool(np.array_equal(scaled(header, raw), np.rint(scaled(header, raw))))


def _has_size(file: NiftiFile) -> bool:
    """Check whether the size at the end of a gzip file is that of its header: a file cut short has other bytes there.

    False does not mean that it is cut short: a stream of several members has the size of the last one.
    """
    raw = file.files[-1]
    at = raw.tell()
    raw.seek(-4, io.SEEK_END)
    stated = int.from_bytes(raw.read(4), "little")
    raw.seek(at)
    return stated == file.header.expected_bytes % (1 << 32)
