"""The commands `rephase bench sampler`, `build` and `loader`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rephase.commands.result import CommandResult, Commands, add_command, add_json, count
from rephase.errors import RequestError


def register(commands: Commands) -> None:
    """Add the command and its benchmarks."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed of this machine",
        description="Measure how fast this machine samples phase, builds a corpus, or loads slices for training.\n"
        "The figures and ratios come from one run and name the machine. Each benchmark takes about a minute.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    _add_sampler(kinds)
    _add_build(kinds)
    _add_loader(kinds)


def _add_sampler(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "sampler",
        run_sampler,
        "time per slice of every phase generator",
        "Measure every available phase generator, the learned one with each requested number of network evaluations.",
        "rephase bench sampler\nrephase bench sampler --sizes 320 --checkpoint teacher --steps 1 4 --json",
    )
    parser.add_argument(
        "--sizes", type=count, nargs="+", default=[128, 256], metavar="N", help="height and width (default: 128 256)"
    )
    parser.add_argument(
        "--steps",
        type=count,
        nargs="+",
        metavar="N",
        help="network evaluations (NFE) per slice (default: that of the weights)",
    )
    parser.add_argument("--checkpoint", metavar="C", help="weights (default: the default weights)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda, if available)")
    parser.add_argument(
        "--seconds", type=float, default=1.5, metavar="S", help="time for each line of the table (default: 1.5)"
    )
    add_json(parser)


def _add_build(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "build",
        run_build,
        "throughput of a build with smooth phase, by stage",
        "Build generated volumes in a temporary folder: in one process without Dask, with each number of workers,\n"
        "and with as many independent processes, which bound the throughput of that many workers on this machine.",
        "rephase bench build\nrephase bench build --workers 1 4 16 --folder /scratch --json",
    )
    _add_sizes(parser, volumes=16, slices=24, size=192)
    parser.add_argument(
        "--workers", type=count, nargs="+", default=[1, 2], metavar="N", help="worker processes (default: 1 2)"
    )
    parser.add_argument("--rounds", type=count, default=1, metavar="N", help="the median is reported (default: 1)")
    add_json(parser)


def _add_loader(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "loader",
        run_loader,
        "slices per second: rephase, plain zarr, fastMRI's HDF5",
        "Read every slice of generated corpora in random order, from disk and from the page cache: with KSpaceSlices\n"
        "and KSpaceStream, plain zarr, and fastMRI's data set over uncompressed and gzip HDF5 (its package if\n"
        "installed, else equivalent reads by h5py). Then open the index of a large corpus and report the memory of\n"
        "the DataLoader's workers.",
        "rephase bench loader\nrephase bench loader --workers 0 4 --coils 16 --volumes 8 --folder /scratch --json",
    )
    _add_sizes(parser, volumes=2, slices=12, size=320)
    parser.add_argument(
        "--workers",
        type=_count_or_none,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="of the DataLoader (default: 0 1 2)",
    )
    parser.add_argument(
        "--coils", type=_count_or_none, nargs="+", default=[0, 8], metavar="N", help="0: no coil axis (default: 0 8)"
    )
    parser.add_argument("--epochs", type=count, default=3, metavar="N", help="the median is reported (default: 3)")
    parser.add_argument(
        "--index-volumes", type=count, default=100_000, metavar="N", help="volumes of the large index (default: 100000)"
    )
    add_json(parser)


def _add_sizes(parser: argparse.ArgumentParser, volumes: int, slices: int, size: int) -> None:
    parser.add_argument(
        "--volumes", type=count, default=volumes, metavar="N", help=f"volumes of a corpus (default: {volumes})"
    )
    parser.add_argument("--slices", type=count, default=slices, metavar="N", help=f"per volume (default: {slices})")
    parser.add_argument("--size", type=count, default=size, metavar="N", help=f"height and width (default: {size})")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for temporary files (default: the system's)")


def run_sampler(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase bench sampler`."""
    from rephase.bench.sampler import bench_sampler
    from rephase.diffusion.devices import choose_device
    from rephase.diffusion.shipped import find_checkpoint

    device = choose_device(arguments.device)
    checkpoint = None if arguments.checkpoint is None else find_checkpoint(arguments.checkpoint)
    result = bench_sampler(arguments.sizes, arguments.steps, checkpoint, device, arguments.seconds)
    return CommandResult(0, result.lines(), result.to_json())


def run_build(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase bench build`."""
    from rephase.bench.build import bench_build

    _check_folder(arguments.folder)
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_build(*sizes, arguments.workers, arguments.folder, arguments.rounds)
    return CommandResult(0, result.lines(), result.to_json())


def run_loader(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase bench loader`."""
    from rephase.bench.loader import bench_loader

    _check_folder(arguments.folder)
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_loader(
        *sizes, arguments.workers, arguments.epochs, arguments.folder, arguments.coils, arguments.index_volumes
    )
    return CommandResult(0, result.lines(), result.to_json())


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else count(text)


def _check_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise RequestError(f"--folder {folder}: not a directory; expected one for temporary files; create it first")
