"""`rephase demo`."""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from rephase.builder.options import BuildOptions
from rephase.commands.result import CommandResult, Commands, add_command, count
from rephase.errors import RequestError


def register(commands: Commands) -> None:
    """Add the command."""
    demo = add_command(
        commands,
        "demo",
        show_demo,
        "build, check and load a small corpus, in about a minute",
        "Build a small corpus of the real MR volumes in the nibabel and pydicom packages, verify it, write its report\n"
        "and load a training batch from it.",
        "rephase demo\nrephase demo /tmp/demo --workers 4",
    )
    demo.add_argument(
        "folder", type=Path, nargs="?", default=Path("demo"), metavar="FOLDER", help="output folder (default: demo)"
    )
    demo.add_argument("--workers", type=count, default=2, metavar="N", help="worker processes (default: 2)")


def show_demo(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase demo`."""
    return CommandResult(run_demo(arguments.folder, arguments.run, arguments.workers))


Command = Callable[[Sequence[str]], int]


# volume_id, package, file in it, manifest columns; the Siemens mosaics inside nibabel contain a ramp, not an image
_VOLUMES: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("nifti-diffusion-0", "nibabel", "tests/data/example4d.nii.gz", {"frame": "0", "contrast": "DWI"}),
    ("nifti-diffusion-1", "nibabel", "tests/data/example4d.nii.gz", {"frame": "1", "contrast": "DWI"}),
    ("nifti-functional", "nibabel", "tests/data/functional.nii", {"frame": "0", "contrast": "BOLD"}),
    ("dicom-small", "pydicom", "data/test_files/MR_small.dcm", {}),
    ("dicom-small-jpeg-ls", "pydicom", "data/test_files/MR_small_jpeg_ls_lossless.dcm", {}),
    ("dicom-overlay", "pydicom", "data/test_files/examples_overlay.dcm", {}),
)


def write_demo_manifest(path: Path) -> None:
    """Write a manifest of the real volumes inside the installed nibabel and pydicom packages.

    Raises
    ------
    RequestError
        If a file is missing: the packages were installed without their data.
    """
    columns = ["volume_id", "path", "frame", "contrast", "licence", "source"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for volume_id, package, name, more in _VOLUMES:
            source = Path(str(files(package))) / name
            if not source.is_file():
                raise RequestError(
                    f"{source}: no such file; expected the data of {package}; reinstall it from its wheel"
                )
            writer.writerow({"volume_id": volume_id, "path": str(source), "licence": "MIT", "source": package} | more)


def run_demo(folder: Path, command: Command, workers: int = 2) -> int:
    """Build, verify and report a small corpus in `folder`, and load one batch from it.

    Each step is a `rephase` command, shown before it runs.

    Parameters
    ----------
    folder
        Folder for manifest, corpus and report; created if missing.
    command
        Runs one `rephase` command and returns its exit status.
    workers
        Worker processes.

    Returns
    -------
    status
        0, or that of the first step that failed.
    """
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    manifest, corpus, report = folder / "manifest.csv", folder / "corpus.zarr", folder / "report.html"
    write_demo_manifest(manifest)
    steps = (
        ["build", str(manifest), str(corpus), "--workers", str(workers)],
        ["verify", str(corpus)],
        ["report", str(corpus), "-o", str(report)],
    )
    for step in steps:
        _print(f"\n$ rephase {' '.join(step)}")
        status = command(step)
        if status:
            return status
    _load_batch(corpus)
    _print(f"\nDone in {time.monotonic() - begin:.0f} s.")
    _print(f"report:    {report.resolve().as_uri()} (pictures of every volume)")
    address = f"http://{BuildOptions.dashboard_address}/rephase"
    _print(f"dashboard: {address} while a build runs (each build prints its own address)")
    return 0


def _load_batch(corpus: Path) -> None:
    from torch.utils.data import DataLoader

    from rephase.data.kspace_slices import KSpaceSlices

    dataset = KSpaceSlices(corpus)
    kspace, _, target, attributes, name, index = next(iter(DataLoader(dataset, shuffle=True)))
    _print(
        f"\nDataLoader(KSpaceSlices({str(corpus)!r})): {len(dataset)} slices; one of them is slice {int(index[0])} of "
        f"{name[0]}, kspace {tuple(kspace.shape)} {kspace.dtype}, target {tuple(target.shape)}, "
        f"max {float(attributes['max'][0]):.3f}"
    )


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
