"""What a scan of an archive costs, and a row of a long series: `python -m tests.benchmarks.archives`."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom_dicom

from rephase.bench.measure import BenchResult, Table, Value
from rephase.pipeline.environment import machine_facts
from tests.benchmarks.command_line import run_benchmark

_MOST_SCAN_S = 60.0
_MOST_GROWTH = 1.25


def bench_archives(
    num_files: int = 10_000, num_times: tuple[int, ...] = (10, 40, 160), num_frames: tuple[int, ...] = (10, 50, 200)
) -> BenchResult:
    """Measure the CPU time of processes and their children.

    Parameters
    ----------
    num_files
        Of each archive that is scanned: DICOM in series of 50 slices of 128 x 128, and NIfTI of 64 x 64 x 20.
    num_times, num_frames
        Time points of a classic DICOM series of 12 slices, a file each; frames of a `.nii.gz` of 64 x 64 x 32;
        three lengths each, so that the cost of a further volume can be compared.
    """
    rows: list[tuple[Value, ...]] = []
    with tempfile.TemporaryDirectory() as place:
        for name, write in (("DICOM", _write_dicom), ("NIfTI", _write_nifti)):
            folder = Path(place) / name
            write(folder, num_files)
            volumes, seconds = _scan(folder)
            rows.append((f"scan of {num_files} files, {name}", volumes, seconds, seconds * 1000 / num_files))
        for kind, counts, series in (("DICOM", num_times, _write_series), ("gzip", num_frames, _write_gzip)):
            for count in counts:
                folder = Path(place) / f"{kind}{count}"
                series(folder, count)
                volumes, _ = _scan(folder)
                seconds = _cpu_s("build", str(folder / "m.csv"), str(folder / "c.zarr"), "--phase", "zero")
                rows.append((f"build of {count} volumes, {kind}", volumes, seconds, seconds * 1000 / max(volumes, 1)))
    table = Table("Archives", ("work", "volumes", "CPU (s)", "ms a file or volume"), rows)
    return BenchResult("archives", machine_facts("cpu"), {"num_files": num_files}, [table], [])


def verdicts(result: BenchResult) -> dict[str, bool]:
    """Compare a result with the targets."""
    rows = result.tables[0].rows
    found = {f"{row[0]} takes at most {_MOST_SCAN_S:g} s": float(row[2]) <= _MOST_SCAN_S for row in rows[:2]}
    for kind in ("DICOM", "gzip"):
        builds = [row for row in rows[2:] if str(row[0]).endswith(kind)]
        # of each further volume: the start of a build takes seconds, which would hide the growth
        further = [1000 * (b[2] - a[2]) / (b[1] - a[1]) for a, b in pairwise(builds)]
        shown = ", ".join(f"{one:.0f}" for one in further)
        grows = len(further) < 2 or further[-1] > _MOST_GROWTH * further[0]
        found[f"{kind}: a further volume costs what it does in a shorter series ({shown} ms)"] = not grows
    return found


def _cpu_s(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "rephase", *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _scan(folder: Path) -> tuple[int, float]:
    seconds = _cpu_s("manifest", "scan", str(folder), "-o", str(folder / "m.csv"))
    return len((folder / "m.csv").read_text().splitlines()) - 1, seconds


def _write_dicom(folder: Path, num_files: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 900, (128, 128))
    for number in range(num_files):
        series, k = divmod(number, 50)
        dataset = phantom_dicom.classic(k, stored=pixels + k, SeriesInstanceUID=f"1.2.3.{series}")
        path = folder / f"{series:04d}" / f"{k:04d}.dcm"
        phantom_dicom.save(dataset, path)


def _write_nifti(folder: Path, num_files: int) -> None:
    folder.mkdir()
    values = np.random.default_rng(1).integers(0, 900, (64, 64, 20), np.int16)
    content = nib.Nifti1Image(values, np.diag([3, 3, 4, 1])).to_bytes()
    for number in range(num_files):
        (folder / f"sub-{number:05d}_T1w.nii").write_bytes(content)


def _write_series(folder: Path, num_times: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 900, (64, 64))
    for number in range(num_times * 12):
        time, k = divmod(number, 12)
        told = {"AcquisitionNumber": time + 1, "InstanceNumber": number + 1}
        phantom_dicom.save(phantom_dicom.classic(k, stored=pixels + time, **told), folder / f"{number:05d}.dcm")


def _write_gzip(folder: Path, num_frames: int) -> None:
    folder.mkdir()
    values = np.random.default_rng(1).integers(0, 900, (64, 64, 32, num_frames), np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([3, 3, 4, 1])), folder / "bold.nii.gz")


if __name__ == "__main__":
    sys.exit(run_benchmark(bench_archives, verdicts))
