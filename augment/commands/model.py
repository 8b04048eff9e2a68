"""`rephase train`, `distill`, `fit-baseline` and `evaluate phase`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rephase.commands.result import CommandResult, Commands, add_command, add_json, count, counts, names
from rephase.diffusion.phases import generated_phases
from rephase.diffusion.shipped import find_checkpoint


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
        "rephase train brain.toml\nrephase train brain.toml --device cuda",
    )
    distill = add_command(
        commands,
        "distill",
        distill_model,
        "teach trained weights to need 1, 2 or 4 evaluations",
        "Make a student of a trained model by a TOML configuration: the teacher's checkpoint, the manifest with real\n"
        "phase, the output folder, the evaluations. The same command goes on after an interruption. The student's\n"
        "checkpoint says how many evaluations it needs, so --steps can be left out when it is used.",
        "rephase distill two_steps.toml\nrephase distill two_steps.toml --device cuda",
    )
    for parser in (train, distill):
        parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, a TOML file")
        parser.add_argument(
            "--device", choices=("cpu", "cuda"), metavar="DEVICE", help="cpu or cuda (default: cuda if any)"
        )
    _register_fit(commands)
    evaluate = commands.add_parser(
        "evaluate", help="judge generated phase on real data", description="Judge what is generated on real data."
    )
    _register_phase(evaluate.add_subparsers(title="commands", metavar="COMMAND", required=True))


def _register_fit(commands: Commands) -> None:
    fit = add_command(
        commands,
        "fit-baseline",
        fit_baseline,
        "fit the baseline phases to real phase",
        "Fit what the phase model is compared with to the real phase of a manifest: smooth, the statistics of a\n"
        "random polynomial of low order. evaluate takes the file with --smooth. The one-step regression is made by\n"
        'train, from a configuration that says process = "regression"; evaluate takes it with --regression.',
        "rephase fit-baseline smooth --real pairs.csv --split train -o smooth.json",
    )
    fit.add_argument("baseline", choices=("smooth",), metavar="BASELINE", help="smooth")
    fit.add_argument("--real", type=Path, required=True, metavar="M.csv", help="a manifest whose rows have real phase")
    fit.add_argument("--split", metavar="NAME", help="only rows of this split (default: all)")
    fit.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file that is written")


def _register_phase(inner: Commands) -> None:
    phase = add_command(
        inner,
        "phase",
        evaluate_phase,
        "compare generated with real phase",
        "Give the magnitude of real complex volumes to generators, and compare generated with real phase per session:\n"
        "circular statistics, gradients, structure function, residues, spectrum, symmetry, a partial Fourier\n"
        "reconstruction, diversity, and a classifier. The real phase of another echo or run stands beside them as the\n"
        "floor. With -o, a JSON file, the tables and a page with pictures are written into the folder, which also\n"
        "keeps what networks sampled: the same command goes on after an interruption. augment/EVALUATION.md defines\n"
        "every figure.",
        "rephase evaluate phase --real pairs.csv --split val -o runs/judged\n"
        "rephase evaluate phase --real pairs.csv --split val --against teacher --against-steps 128 -o runs/judged\n"
        "rephase evaluate phase --real pairs.csv --checkpoint teacher --steps 1,2,4,128 -o runs/judged\n"
        "rephase evaluate phase --real pairs.csv --checkpoint mine.safetensors --against other.safetensors\n"
        "rephase evaluate phase --real pairs.csv --generators smooth,zero --no-classifier --json\n"
        "rephase evaluate phase --real pairs.csv --cross-validate recipe.toml --device cuda -o runs/folds",
    )
    phase.add_argument(
        "--real", type=Path, required=True, metavar="M.csv", help="a manifest whose rows have real phase"
    )
    phase.add_argument("--split", metavar="NAME", help="only rows of this split (default: all)")
    phase.add_argument(
        "--generators",
        type=names,
        metavar="A,B",
        help=f"of {', '.join(generated_phases())} (default: all)",
    )
    phase.add_argument(
        "--checkpoint", type=find_checkpoint, metavar="C", help="weights (default: those that are shipped)"
    )
    phase.add_argument(
        "--steps",
        type=counts,
        metavar="N,M",
        help="evaluations of the network a slice, one or several (default: its own)",
    )
    phase.add_argument("--smooth", type=Path, metavar="F.json", help="a fit of fit-baseline (default: the one shipped)")
    phase.add_argument(
        "--regression", type=Path, metavar="C", help="a regression of train (default: the one shipped, if any)"
    )
    phase.add_argument("--against", type=find_checkpoint, metavar="C", help="a second checkpoint to be no worse than")
    phase.add_argument(
        "--against-steps", type=counts, metavar="N,M", help="its evaluations a slice (default: as --steps)"
    )
    phase.add_argument(
        "--max-slices", type=int, metavar="N", help="slices of each volume, evenly spaced pairs; 0: all (default: 8)"
    )
    phase.add_argument("--seeds", type=count, metavar="N", help="draws of a slice for the diversity (default: 2)")
    phase.add_argument("--seed", type=int, default=0, metavar="S", help="of the generators (default: 0)")
    phase.add_argument(
        "--config", type=Path, metavar="T.toml", help="margins, classifier, limits (default: the package's)"
    )
    phase.add_argument("--no-classifier", action="store_true", help="leave the classifier out")
    phase.add_argument(
        "--group-column", metavar="NAME", help="a column that says which rows may show one person (default: subject_id)"
    )
    phase.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE", help="cpu (default) or cuda"
    )
    phase.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="write the results there, keep samples there"
    )
    phase.add_argument(
        "--cross-validate",
        type=Path,
        metavar="TRAIN.toml",
        help="train the model anew, by this configuration, for every fold of groups, and judge it on those left out",
    )
    phase.add_argument("--folds", type=count, default=5, metavar="N", help="folds of --cross-validate (default: 5)")
    add_json(phase)


def train_model(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase train`."""
    from rephase.training.train import train_command

    return CommandResult(train_command(arguments.config, arguments.device))


def distill_model(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase distill`."""
    from rephase.training.distill import distill_command

    return CommandResult(distill_command(arguments.config, arguments.device))


def fit_baseline(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase fit-baseline`."""
    from rephase.training.fit_baseline import fit_smooth

    status = fit_smooth(arguments.real, arguments.split, arguments.output)
    return CommandResult(status, [f"written: {arguments.output}"])


def evaluate_phase(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase evaluate phase`."""
    from dataclasses import replace

    from rephase.errors import RequestError
    from rephase.evaluation.candidates import Choice, make_contestants
    from rephase.evaluation.config import read_config
    from rephase.evaluation.run import Request, evaluate
    from rephase.evaluation.tables import markdown

    config = read_config(arguments.config)
    changes = {"max_slices": arguments.max_slices, "seeds": arguments.seeds}
    try:
        config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    except ValueError as error:
        raise RequestError(f"--max-slices, --seeds: {error}") from None
    choice = Choice(
        generators=arguments.generators,
        checkpoint=arguments.checkpoint,
        steps=arguments.steps or (),
        against=arguments.against,
        against_steps=arguments.against_steps or (),
        smooth=arguments.smooth,
        regression=arguments.regression,
        device=arguments.device,
    )
    request = Request(
        manifest=arguments.real,
        split=arguments.split,
        seed=arguments.seed,
        output=arguments.output,
        group_column=arguments.group_column,
        classifier=not arguments.no_classifier,
        device=arguments.device,
    )
    try:
        if arguments.cross_validate is not None:
            from rephase.evaluation.cross_validation import cross_validate

            result = cross_validate(request, choice, config, arguments.cross_validate, arguments.folds)
        else:
            result = evaluate(request, make_contestants(choice), config)
    except KeyboardInterrupt:
        if arguments.output is not None:
            sys.stderr.write(f"what was sampled stays in {arguments.output}; the same command goes on from there\n")
        raise
    return CommandResult(1 if result.left_out else 0, [markdown(result)], result.to_json())
