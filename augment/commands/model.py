"""`phasegen train` and `evaluate phase`."""

from __future__ import annotations

import argparse
from pathlib import Path

from augment.commands.answer import Answer, Commands, add_command, add_json, counts, names


def register(commands: Commands) -> None:
    """Add the commands."""
    train = add_command(
        commands,
        "train",
        train_model,
        "train weights on magnitude/phase pairs",
        "Train the phase model by a TOML configuration: the manifest with real phase, the output folder, the network,\n"
        "the training. The same command goes on after an interruption. At the end the checkpoint and its model card\n"
        "are in the output folder.",
        "phasegen train brain.toml\nphasegen train brain.toml --device cuda",
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, a TOML file")
    train.add_argument("--device", choices=("cpu", "cuda"), metavar="DEVICE", help="cpu or cuda (default: cuda if any)")
    evaluate = commands.add_parser(
        "evaluate", help="judge generated phase on real data", description="Judge what is generated on real data."
    )
    _register_phase(evaluate.add_subparsers(title="commands", metavar="COMMAND", required=True))


def _register_phase(inner: Commands) -> None:
    phase = add_command(
        inner,
        "phase",
        evaluate_phase,
        "compare generated with real phase",
        "Give the magnitude of real complex volumes to generators, and compare the distributions of generated and\n"
        "real phase per session: wrapped gradients, structure function, residues. The real phase of another echo or\n"
        "run stands beside them as the floor.",
        "phasegen evaluate phase --real pairs.csv --split val\n"
        "phasegen evaluate phase --real pairs.csv --checkpoint runs/mine/mine.safetensors --steps 1,2,4 --json",
    )
    phase.add_argument(
        "--real", type=Path, required=True, metavar="M.csv", help="a manifest whose rows have real phase"
    )
    phase.add_argument("--split", metavar="NAME", help="only rows of this split (default: all)")
    phase.add_argument(
        "--generators",
        type=names,
        metavar="A,B",
        help="of diffusion, smooth, sinus, zero, white (default: all; diffusion where there are weights)",
    )
    phase.add_argument("--checkpoint", type=Path, metavar="C", help="weights (default: those that are shipped)")
    phase.add_argument(
        "--steps", type=counts, metavar="N,M", help="evaluations of the network a slice, one or several (default: 4)"
    )
    phase.add_argument("--seed", type=int, default=0, metavar="S", help="of the generators (default: 0)")
    add_json(phase)


def train_model(arguments: argparse.Namespace) -> Answer:
    """Run `phasegen train`."""
    from augment.train import train_command

    return Answer(train_command(arguments.config, arguments.device))


def evaluate_phase(arguments: argparse.Namespace) -> Answer:
    """Run `phasegen evaluate phase`."""
    from augment.errors import RequestError
    from augment.evaluate import evaluate_phase_command
    from diffusion.baselines import BASELINES
    from diffusion.checkpoint import default_checkpoint
    from diffusion.select import make_generator

    with_model = arguments.checkpoint is not None or default_checkpoint() is not None
    chosen = arguments.generators or (*(("diffusion",) if with_model else ()), *BASELINES)
    try:
        generators = [
            make_generator(name, arguments.checkpoint, steps)
            for name in chosen
            for steps in ((arguments.steps or (None,)) if name == "diffusion" else (None,))
        ]
    except ValueError as error:  # an unknown name, or weights that cannot be used
        raise RequestError(str(error)) from None
    status = evaluate_phase_command(arguments.real, arguments.split, generators, arguments.seed, arguments.json)
    return Answer(status)
