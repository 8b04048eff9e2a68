"""`rephase bench sampler`, `build`, `loader`, `scale` and `store`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rephase.commands.result import Answer, Commands, add_command, add_json, count
from rephase.diffusion.checkpoint import find_checkpoint
from rephase.errors import RequestError

MAX_SLEEP_S = 3600.0


def register(commands: Commands) -> None:
    """Add the command and its kinds."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure how fast this machine samples phase, builds a corpus, or loads slices for training.\n"
        "Figures and ratios come from one run, with the machine named beside them. A kind takes about a minute, scale\n"
        "far longer.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    _add_sampler(kinds)
    _add_build(kinds)
    _add_loader(kinds)
    _add_scale(kinds)
    _add_overlap(kinds)
    _add_allocator(kinds)
    _add_store(kinds)


def _add_sampler(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "sampler",
        run_sampler,
        "phase: ms a slice of every generator",
        "Measure every phase generator that is available, the learned one with several numbers of evaluations.",
        "rephase bench sampler\nrephase bench sampler --sizes 320 --checkpoint teacher --steps 1 4 --json",
    )
    parser.add_argument("--sizes", type=count, nargs="+", default=[128, 256], metavar="N", help="(default: 128 256)")
    parser.add_argument("--steps", type=count, nargs="+", metavar="N", help="(default: what the weights are for)")
    parser.add_argument("--checkpoint", type=find_checkpoint, metavar="C", help="weights (default: the shipped ones)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: a GPU where there is one)")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="for each line (default: 1.5)")
    add_json(parser)


def _add_build(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "build",
        run_build,
        "a whole build with smooth phase, by stage",
        "Build generated volumes in a temporary folder: without a cluster, then with each number of workers, and with\n"
        "as many processes that know nothing of each other: the ceiling of what so many workers can do here.",
        "rephase bench build\nrephase bench build --workers 1 4 16 --folder /scratch --json",
    )
    _add_sizes(parser, volumes=16, slices=24, size=192)
    parser.add_argument("--workers", type=count, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--rounds", type=count, default=1, metavar="N", help="the median counts (default: 1)")
    add_json(parser)


def _add_loader(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "loader",
        run_loader,
        "reading slices: ours, plain zarr, fastMRI's HDF5",
        "Read every slice of generated corpora in random order, from the disk and from the page cache: through our\n"
        "loader and stream, plain zarr, and fastMRI's data set over uncompressed and gzip HDF5 (its package if\n"
        "installed, else the same reads). Then open the index of a large corpus, and watch the memory of the workers.",
        "rephase bench loader\nrephase bench loader --workers 0 4 --coils 16 --volumes 8 --folder /scratch --json",
    )
    _add_sizes(parser, volumes=2, slices=12, size=320)
    parser.add_argument(
        "--workers", type=_count_or_none, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)"
    )
    parser.add_argument(
        "--coils", type=_count_or_none, nargs="+", default=[0, 8], metavar="N", help="0: no coil axis (default: 0 8)"
    )
    parser.add_argument("--epochs", type=count, default=3, metavar="N", help="measured; the median counts (default: 3)")
    parser.add_argument(
        "--index-volumes", type=count, default=100_000, metavar="N", help="of the large index (default: 100000)"
    )
    add_json(parser)


def _add_store(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "store",
        run_store,
        "committing: what checksum and read-back cost",
        "Commit a generated volume with its checks and without them in turn; then build with the model likewise.",
        "rephase bench store\nrephase bench store --folder /scratch --json",
    )
    _add_volume(parser, slices=32, size=256)
    parser.add_argument("--rounds", type=count, default=7, metavar="N", help="commits of each kind (default: 7)")
    add_json(parser)


def _add_scale(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "scale",
        run_scale,
        "what a volume costs beside its work; a long plan",
        "Build many small volumes with smooth phase and plan a long manifest: CPU time of Dask and of the commit for\n"
        "each volume, memory of client and scheduler. Exit status 1 where a figure is worse than its target.",
        "rephase bench scale\nrephase bench scale --volumes 500 --rows 100000 --json",
    )
    _add_sizes(parser, volumes=10_000, slices=8, size=32)
    parser.add_argument("--workers", type=count, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--rows", type=count, default=1_000_000, metavar="N", help="to plan (default: 1000000)")
    add_json(parser)


def _add_overlap(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "overlap",
        run_overlap,
        "do reading and writing hide behind sampling?",
        "Build volumes whose sampling sleeps for a time that is known, with each number of workers: how much of the\n"
        "wall time sampling takes. Exit status 1 where it is less than 95 %.",
        "rephase bench overlap\nrephase bench overlap --workers 1 2 4 --seconds 0.5 --json",
    )
    _add_sizes(parser, volumes=40, slices=8, size=128, of="of each worker ")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="sampling of a volume (default: 1)")
    parser.add_argument("--workers", type=count, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    add_json(parser)


def _add_allocator(kinds: Commands) -> None:
    parser = add_command(
        kinds,
        "allocator",
        run_allocator,
        "what the C library's settings for memory cost",
        "Sample slices in processes that start with Dask's settings of the C library's memory, and with ours, in turn.",
        "rephase bench allocator\nrephase bench allocator --size 320 --json",
    )
    parser.add_argument("--size", type=count, default=256, metavar="N", help="height and width (default: 256)")
    parser.add_argument("--slices", type=count, default=4, metavar="N", help="of a process (default: 4)")
    parser.add_argument("--rounds", type=count, default=2, metavar="N", help="the fastest counts (default: 2)")
    parser.add_argument("--checkpoint", type=find_checkpoint, metavar="C", help="weights (default: the shipped ones)")
    add_json(parser)


def _add_sizes(parser: argparse.ArgumentParser, volumes: int, slices: int, size: int, of: str = "") -> None:
    parser.add_argument("--volumes", type=count, default=volumes, metavar="N", help=f"{of}(default: {volumes})")
    _add_volume(parser, slices, size)


def _add_volume(parser: argparse.ArgumentParser, slices: int, size: int) -> None:
    parser.add_argument("--slices", type=count, default=slices, metavar="N", help=f"of a volume (default: {slices})")
    parser.add_argument("--size", type=count, default=size, metavar="N", help=f"height and width (default: {size})")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for temporary files (default: the system's)")


def run_sampler(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench sampler`."""
    from rephase.bench.sampler import bench_sampler
    from rephase.pipeline.environment import device_kind

    device = arguments.device or device_kind()
    if device == "cuda" and device_kind() != "cuda":
        raise RequestError("--device cuda: torch sees no usable GPU; expected one; take --device cpu")
    result = bench_sampler(arguments.sizes, arguments.steps, arguments.checkpoint, device, arguments.seconds)
    return Answer(0, result.lines(), result.to_json())


def run_build(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench build`."""
    from rephase.bench.build import bench_build

    _check_folder(arguments.folder)
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_build(*sizes, arguments.workers, arguments.folder, arguments.rounds)
    return Answer(0, result.lines(), result.to_json())


def run_loader(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench loader`."""
    from rephase.bench.loader import bench_loader

    _check_folder(arguments.folder)
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_loader(
        *sizes, arguments.workers, arguments.epochs, arguments.folder, arguments.coils, arguments.index_volumes
    )
    return Answer(0, result.lines(), result.to_json())


def run_store(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench store`."""
    from tests.benchmarks.store import bench_store

    _check_folder(arguments.folder)
    result = bench_store(arguments.slices, arguments.size, arguments.rounds, folder=arguments.folder)
    return Answer(0, result.lines(), result.to_json())


def run_scale(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench scale`."""
    from tests.benchmarks.scale import TARGETS, bench_scale, figures

    _check_folder(arguments.folder)
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_scale(*sizes, arguments.workers, arguments.rows, arguments.folder)
    found = figures(result)
    verdicts = [
        f"{name}: {found[name]:.4g}, target at most {most:g}: {'met' if found[name] <= most else 'MISSED'}"
        for name, most in TARGETS.items()
    ]
    missed = any(found[name] > most for name, most in TARGETS.items())
    return Answer(int(missed), [*result.lines(), "", *verdicts], {**result.to_json(), "figures": found})


def run_overlap(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench overlap`."""
    from tests.benchmarks.overlap import TARGET, bench_overlap, shares

    _check_folder(arguments.folder)
    if not 0 < arguments.seconds < MAX_SLEEP_S:
        raise RequestError(f"--seconds {arguments.seconds:g}: expected more than 0 and less than {MAX_SLEEP_S:g}")
    sizes = (arguments.volumes, arguments.slices, arguments.size)
    result = bench_overlap(*sizes, arguments.seconds, arguments.workers, arguments.folder)
    found = shares(result)
    verdicts = [
        f"{number} worker{'' if number == 1 else 's'}: {share:.3f} of the wall time is sampling, target at least "
        f"{TARGET:g}: {'met' if share >= TARGET else 'MISSED'}"
        for number, share in found.items()
    ]
    missed = any(share < TARGET for share in found.values())
    return Answer(int(missed), [*result.lines(), "", *verdicts], {**result.to_json(), "shares": found})


def run_allocator(arguments: argparse.Namespace) -> Answer:
    """Run `rephase bench allocator`."""
    from tests.benchmarks.allocator import bench_allocator

    result = bench_allocator(arguments.size, arguments.slices, arguments.rounds, arguments.checkpoint)
    return Answer(0, result.lines(), result.to_json())


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else count(text)


def _check_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise RequestError(f"--folder {folder}: no such folder; expected one for temporary files; make it first")
