"""Run dcm2niix as a child process under limits, and keep what it makes of a series for the other volumes."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.facts import numbers
from rephase.readers.dicom.files import DicomFile, check_unchanged, stage
from rephase.readers.dicom.header import Header
from rephase.readers.dicom.series import Part
from rephase.readers.sources import Scratch
from rephase.text import one_line

CACHE_BYTES = 4 << 30
"""Of the volumes that a process keeps. They lie in unlinked files of the temporary folder, which end with it."""
_BASE_BYTES, _BASE_S = 768 << 20, 20
_BYTES_PER_S = 1 << 20  # JPEG 2000 is decoded ten times as fast
_LOG_BYTES = 1 << 20
# no defaults of the user, no identities, planes as acquired, values as the header scales them
_OPTIONS = ("-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-x", "i", "-w", "2", "-f", "v")
_CONVERTED = re.compile(r"^Convert \d+ DICOM as .*/(v[^/\s]*) \(", re.MULTILINE)
_COMPLAINT = re.compile(r"error|not large enough|unable|unsupported|only able|filesize|varies", re.IGNORECASE)
_SUFFIXES: tuple[tuple[str, Kind], ...] = (
    ("_fieldmaphz", "fieldmap"), ("_ph", "phase"), ("_real", "real"), ("_imaginary", "imaginary"), ("_ADC", "derived"),
)  # fmt: skip
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Output:
    """One file that dcm2niix made: one or more volumes of one grid.

    Attributes
    ----------
    stored
        `(column, row, slice, time)`, before scaling; a view of an unlinked file.
    slope, intercept
        From stored values to values.
    affine
        Index (column, row, slice) to LPS mm.
    cosines
        ImageOrientationPatient, empty if unknown.
    kind, te_ms
        As far as its name and sidecar tell them.
    """

    stored: NDArray[Any]
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    cosines: tuple[float, ...]
    kind: Kind
    te_ms: float | None


@dataclass(frozen=True)
class Conversion:
    """What one run made, and the volumes that were found in it, by what selects them."""

    outputs: list[Output]
    volumes: dict[Any, list[Any]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of all outputs."""
        return sum(output.stored.nbytes for output in self.outputs)


_kept: OrderedDict[Any, Conversion] = OrderedDict()


def convert(part: Part, where: str, limit_bytes: int | None = None) -> list[Conversion]:
    """Return what dcm2niix makes of each run of a part; call it from one thread at a time.

    Parameters
    ----------
    part
        Of `split_series`.
    where
        Path of the part, for messages.
    limit_bytes
        Memory for reading.

    Raises
    ------
    VolumeError
        `too_large`, `unreadable`, `incomplete`, `timeout`.
    """
    merge = not part.is_mixed and len({header.te_ms for header in part.headers}) > 1
    # Philips images have the unit of their header with -p n; but with it, other scales than the first are ignored
    display = len({plane.scale for plane in part.planes}) <= 1
    options = ("-p", "n" if display else "y", "-m", "y" if merge else "2")
    made = []
    for run in part.runs:
        key = (tuple(header.file for header in run), options)
        if key not in _kept:
            _kept[key] = Conversion(_run(run, options, where, limit_bytes))
            while len(_kept) > 1 and sum(conversion.num_bytes for conversion in _kept.values()) > CACHE_BYTES:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        made.append(_kept[key])
    return made


def _run(run: Sequence[Header], options: Sequence[str], where: str, limit_bytes: int | None) -> list[Output]:
    files = [header.file for header in run]
    num_bytes = sum(header.num_bytes for header in run)
    if limit_bytes is not None and 2 * num_bytes > limit_bytes:
        need = f"its series takes {2 * num_bytes} bytes to convert; expected at most {limit_bytes}"
        raise VolumeError("too_large", f"{where}: {need}; give workers more memory")
    with Scratch() as scratch:
        source, target = Path(scratch) / "in", Path(scratch) / "out"
        source.mkdir()
        target.mkdir()
        for number, file in enumerate(files):  # under neutral names, in order
            num_bytes += stage(file, source / f"{number:08d}", limit_bytes)
        log = Path(scratch) / "log"
        status = _child([dcm2niix.bin, *_OPTIONS, *options, "-o", str(target), str(source)], log, num_bytes)
        with log.open("rb") as stream:
            text = stream.read(_LOG_BYTES).decode("utf-8", "replace")
        made = list(dict.fromkeys(_CONVERTED.findall(text)))
        if status == 0 and made and not any(path.stem.endswith(("_Eq", "_Tilt")) for path in target.iterdir()):
            try:
                outputs = [_load(target / f"{name}.nii") for name in made]
            except (OSError, ValueError, KeyError, nib.spatialimages.HeaderDataError) as error:
                status, text = 1, f"error: its result cannot be read ({error})"
            else:
                check_unchanged(files)
                return outputs
        raise _refusal(status, text, files, Path(scratch))


def _child(command: Sequence[str], log: Path, num_bytes: int) -> int:
    """Run a command; a negative status is the signal that ended it."""
    seconds = _BASE_S + num_bytes // _BYTES_PER_S
    limits = {
        resource.RLIMIT_AS: _BASE_BYTES + 8 * num_bytes,
        resource.RLIMIT_FSIZE: _LOG_BYTES + 8 * num_bytes,  # float32 of 8 bits, and sidecars
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - the converter of the wheel, and paths of our own
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env={"LC_ALL": "C"},
            cwd=log.parent,
        )  # fmt: skip
    try:
        for name, limit in limits.items():
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, name, (limit, limit))
        return process.wait(10 * seconds)
    except subprocess.TimeoutExpired:
        return -1
    finally:
        process.kill()
        process.wait()


def _load(path: Path) -> Output:
    """Map a file into memory; its name is removed, so that nothing of it remains whatever ends this process."""
    with path.open("rb") as stream:
        header = nib.Nifti1Header.from_fileobj(stream)
        shape = (*header.get_data_shape(), 1, 1)[:4]
        stored = np.memmap(stream, header.get_data_dtype(), "r", int(header.get_data_offset()), shape, "F")
    slope, intercept = header.get_slope_inter()
    try:
        sidecar = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError):
        sidecar = {}
    te_s = numbers(sidecar.get("EchoTime"))
    return Output(
        stored=stored,
        slope=1.0 if slope is None else float(slope),
        intercept=float(intercept or 0.0),
        affine=_RAS_TO_LPS @ header.get_best_affine(),
        cosines=numbers(sidecar.get("ImageOrientationPatientDICOM")),
        kind=next((kind for suffix, kind in _SUFFIXES if suffix in path.stem), "magnitude"),
        te_ms=te_s[0] * 1000 if te_s else None,
    )


def _refusal(status: int, text: str, files: Sequence[DicomFile], scratch: Path) -> VolumeError:
    """Return the error of a run: its complaint, with the user's file in place of the staged one."""
    lines = [line for line in text.splitlines() if _COMPLAINT.search(line)]
    staged = re.search(rf"{re.escape(str(scratch))}/in/(\d{{8}})", "\n".join(lines))
    file = files[int(staged.group(1))] if staged else files[0]
    told = re.sub(rf"\S*{re.escape(str(scratch))}\S*", "", lines[0]) if lines else ""
    ended = f"ended with signal {-status}" if status < 0 else f"ended with status {status}"
    why = one_line(re.sub(r"^(error|warning):?\s*", "", told.strip(), flags=re.IGNORECASE)).strip(" :") or ended
    return VolumeError(
        "unreadable",
        f"{file}: dcm2niix cannot convert it ({why[:200]}); expected images that it reads; copy or export it again",
    )
