"""`rephase evaluate reconstruction`, and what commands of experiments share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rephase.commands.result import CommandResult, Commands, PrintSchema, add_command, add_json, count, counts, names
from rephase.diffusion.phases import generated_phases
from rephase.diffusion.shipped import find_checkpoint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from rephase.experiments.request import Request

    C = TypeVar("C", bound=DataclassInstance)


def register_experiments(inner: Commands) -> None:
    """Add the commands under `evaluate` that train networks."""
    reconstruction = add_command(
        inner,
        "reconstruction",
        evaluate_reconstruction,
        "train reconstruction networks on synthetic and on real k-space, and test them on real k-space",
        "Does synthetic k-space help a network that will see real k-space? Corpora are built from the magnitudes of\n"
        "the training split with each phase, the same network is trained on each of these arms, with equal updates,\n"
        "and all are tested on the real k-space of the test split. Arms, joined by commas:\n"
        f"  a phase        {', '.join(generated_phases())}\n"
        "  real           the measured k-space of all training subjects\n"
        "  real@P         that of P %% of them; nested, drawn anew for each seed\n"
        "  real@P+PHASE   P %% of the slices are of these subjects, the others of the corpus PHASE\n"
        "  pretrain:PHASE>real@P   trained on PHASE, then fine-tuned, at three lengths\n"
        "and the controls, which are always there: angle (zero phase, one random angle per slice), natural\n"
        "(photographs with smooth phase; needs the extra experiments) and magnitude-only (the network sees no phase).\n"
        "What counts as a difference is fixed before the run, in the preset or --config. The same command resumes an\n"
        "interrupted run. augment/EXPERIMENTS.md explains every figure.",
        "rephase evaluate reconstruction --real pairs.csv -o runs/reconstruction\n"
        "rephase evaluate reconstruction --real pairs.csv --test-split val --arms zero,diffusion,real -o runs/r\n"
        "rephase evaluate reconstruction --real pairs.csv --magnitudes archive.csv --preset standard -o runs/r\n"
        "rephase evaluate reconstruction --real fastmri.csv --preset fastmri --device cuda -o runs/fastmri",
    )
    add_options(reconstruction, ("quick", "standard", "fastmri"), "reconstruction.config:ReconstructionConfig")
    reconstruction.add_argument(
        "--accelerations", type=counts, metavar="R,R", help="undersampling factors (default: those of the preset)"
    )


def evaluate_reconstruction(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase evaluate reconstruction`."""
    from rephase.experiments.reconstruction.config import ReconstructionConfig, preset
    from rephase.experiments.reconstruction.run import evaluate
    from rephase.experiments.report import markdown

    config = read_settings(arguments, preset, ReconstructionConfig, ("seeds", "accelerations"))
    with resumable(arguments):
        outcome = evaluate(read_request(arguments), config)
    return CommandResult(1 if outcome.skipped else 0, [markdown(outcome)], outcome.to_json())


def add_options(parser: argparse.ArgumentParser, presets: Sequence[str], config: str) -> None:
    """Add the options that all experiments have.

    Parameters
    ----------
    parser
        The command's.
    presets
        Their names, the default first.
    config
        `module:class` of the configuration, below `rephase.experiments`.
    """
    add = parser.add_argument
    add("--real", type=Path, required=True, metavar="M.csv", help="manifest of rows with real phase")
    add("--train-split", default="train", metavar="NAME", help="split to train on (default: train)")
    add("--test-split", default="test", metavar="NAME", help="split to test on (default: test)")
    add(
        "--magnitudes",
        type=Path,
        metavar="M2.csv",
        help="magnitudes of the synthetic arms (default: those of the training rows)",
    )
    add("--arms", type=names, metavar="A,B", help="arms (default: those of the preset)")
    add("--seeds", type=count, metavar="N", help="trainings of each arm (default: that of the preset)")
    add("--preset", choices=presets, metavar="P", help=f"{presets[0]} (default), {' or '.join(presets[1:])}")
    add("--config", type=Path, metavar="T.toml", help="settings of your own instead of a preset")
    add("--schema", action=PrintSchema, const=f"rephase.experiments.{config}")
    add("--checkpoint", type=find_checkpoint, metavar="C", help="weights of diffusion (default: the default weights)")
    add("--device", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE", help="cpu (default) or cuda")
    add("--workers", type=count, metavar="N", help="processes; changes no result (default: one per core, or one GPU)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for corpora, results and page")
    add_json(parser)


def read_settings(
    arguments: argparse.Namespace, preset: Callable[[str], Path], kind: type[C], names: Sequence[str]
) -> C:
    """Read the preset or --config, with the options of these names in place of its values.

    Raises
    ------
    RequestError
        If both are given, or a value is wrong.
    """
    from dataclasses import asdict

    from rephase.config import ConfigError, from_mapping, read_config
    from rephase.errors import RequestError

    if arguments.preset and arguments.config:
        raise RequestError("--preset and --config: expected one of them")
    config = read_config(arguments.config or preset(arguments.preset or "quick"), kind)
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        return from_mapping(asdict(config) | given, kind)
    except ConfigError as error:
        raise RequestError("\n".join(f"--{problem}" for problem in error.problems)) from None


def read_request(arguments: argparse.Namespace) -> Request:
    """Return the data that are asked for."""
    from rephase.experiments.request import Request

    return Request(
        manifest=arguments.real,
        train_split=arguments.train_split,
        test_split=arguments.test_split,
        output=arguments.output,
        arms=arguments.arms or (),
        magnitudes=arguments.magnitudes,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        workers=arguments.workers,
    )


@contextmanager
def resumable(arguments: argparse.Namespace) -> Iterator[None]:
    """Say how an interrupted run is resumed."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"results are kept in {arguments.output}; run the same command again to resume\n")
        raise
