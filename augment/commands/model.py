"""`rephase train`, `distill`, `fit-baseline` and `evaluate phase`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rephase.commands.experiments import register_experiments
from rephase.commands.result import (
    CommandResult,
    Commands,
    PrintSchema,
    add_command,
    add_json,
    count,
    counts,
    names,
    whole,
)
from rephase.commands.segmentation import register_segmentation
from rephase.diffusion.phases import generated_phases
from rephase.diffusion.shipped import find_checkpoint


def register(commands: Commands) -> None:
    """Add the commands."""
    train = add_command(
        commands,
        "train",
        train_model,
        "train a model on magnitude/phase pairs",
        "Train a phase model from a TOML configuration: the manifest with real phase, the output folder, the\n"
        "network, the optimisation. The checkpoint and its model card are written to the output folder. The same\n"
        "command resumes an interrupted training.",
        "rephase train brain.toml\nrephase train brain.toml --device cuda",
    )
    distill = add_command(
        commands,
        "distill",
        distill_model,
        "distil a model to 1, 2 or 4 network evaluations per slice",
        "Distil a trained model from a TOML configuration: the teacher, the manifest with real phase, the output\n"
        "folder, the number of network evaluations per slice. The checkpoint of the student records that number,\n"
        "so sampling with it needs no --steps. The same command resumes an interrupted run.",
        "rephase distill two_steps.toml\nrephase distill two_steps.toml --device cuda",
    )
    for parser, kind in ((train, "TrainConfig"), (distill, "DistillConfig")):
        parser.add_argument("config", type=Path, metavar="CONFIG", help="TOML file")
        parser.add_argument("--schema", action=PrintSchema, const=f"rephase.training.config:{kind}")
        parser.add_argument(
            "--device", choices=("cpu", "cuda"), metavar="DEVICE", help="cpu or cuda (default: cuda, if available)"
        )
    _register_fit(commands)
    evaluate = commands.add_parser(
        "evaluate",
        help="compare generated data with real data",
        description="Compare generated data with real data.",
    )
    inner = evaluate.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _register_phase(inner)
    register_experiments(inner)
    register_segmentation(inner)


def _register_fit(commands: Commands) -> None:
    fit = add_command(
        commands,
        "fit-baseline",
        fit_baseline,
        "fit the smooth baseline to real phase",
        "Fit the statistics of the smooth baseline, a random polynomial of low order, to the real phase of a\n"
        "manifest. `evaluate phase` takes the file with --smooth.",
        "rephase fit-baseline smooth --real pairs.csv --split train -o smooth.json",
    )
    fit.add_argument("baseline", choices=("smooth",), metavar="BASELINE", help="smooth")
    fit.add_argument("--real", type=Path, required=True, metavar="M.csv", help="manifest of rows with real phase")
    fit.add_argument("--split", metavar="NAME", help="only rows of this split (default: all but `test`)")
    fit.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="JSON file to write")


def _register_phase(inner: Commands) -> None:
    phase = add_command(
        inner,
        "phase",
        evaluate_phase,
        "compare generated phase with real phase",
        "Generate phase for the magnitude of real complex volumes and compare it with the real phase, by\n"
        "family of pulse sequences and per session: circular statistics, gradients, structure function, residues,\n"
        "spectrum, symmetry, partial Fourier and zero-filled reconstructions, diversity, and a classifier. The\n"
        "difference between real phases of two echoes or runs is the reference. The split `test` is evaluated only\n"
        "with --split test: no choice may look at it. With -o, JSON, tables and a page with curves and pictures are\n"
        "written to the folder, and the samples too, so that the same command resumes an interrupted evaluation.\n"
        "augment/EVALUATION.md defines every figure.",
        "rephase evaluate phase --real pairs.csv --split val -o runs/evaluated\n"
        "rephase evaluate phase --real pairs.csv --split val --against teacher --against-steps 128 -o runs/evaluated\n"
        "rephase evaluate phase --real pairs.csv --checkpoint teacher --steps 1,2,4,128 -o runs/evaluated\n"
        "rephase evaluate phase --real pairs.csv --checkpoint mine.safetensors --against other.safetensors\n"
        "rephase evaluate phase --real pairs.csv --generators smooth,zero --no-classifier --json\n"
        "rephase evaluate phase --real pairs.csv --cross-validate recipe.toml --device cuda -o runs/folds",
    )
    phase.add_argument("--real", type=Path, required=True, metavar="M.csv", help="manifest of rows with real phase")
    phase.add_argument("--split", metavar="NAME", help="only rows of this split (default: all but `test`)")
    phase.add_argument(
        "--where",
        metavar="CONDITIONS",
        help="only rows whose cells meet conditions, such as 'contrast=T1,T2 and field_t>=1.5'",
    )
    phase.add_argument(
        "--withhold",
        type=names,
        metavar="A,B",
        help="facts that the generators are not told: sequence, te_ms, contrast, field_t",
    )
    phase.add_argument(
        "--generators",
        type=names,
        metavar="A,B",
        help=f"phases to compare: {', '.join(generated_phases())} (default: all)",
    )
    phase.add_argument("--checkpoint", type=find_checkpoint, metavar="C", help="weights (default: the default weights)")
    phase.add_argument(
        "--steps",
        type=counts,
        metavar="N,M",
        help="network evaluations per slice, one or several (default: that of the weights)",
    )
    phase.add_argument(
        "--smooth", type=Path, metavar="F.json", help="output of fit-baseline (default: the installed fit)"
    )
    phase.add_argument(
        "--regression", type=Path, metavar="C", help="weights of a regression (default: those installed, if any)"
    )
    phase.add_argument("--against", type=find_checkpoint, metavar="C", help="other weights, to compare with")
    phase.add_argument(
        "--against-steps",
        type=counts,
        metavar="N,M",
        help="network evaluations per slice of --against (default: as --steps)",
    )
    phase.add_argument(
        "--max-slices",
        type=whole,
        metavar="N",
        help="slices of each volume, in evenly spaced pairs; 0: all (default: 8)",
    )
    phase.add_argument("--seeds", type=count, metavar="N", help="samples per slice, for the diversity (default: 2)")
    phase.add_argument("--seed", type=int, default=0, metavar="S", help="random seed of the generators (default: 0)")
    phase.add_argument(
        "--config",
        type=Path,
        metavar="T.toml",
        help="settings: intervals, classifier, limits (default: those of the package, evaluation.toml)",
    )
    phase.add_argument("--schema", action=PrintSchema, const="rephase.evaluation.config:EvaluationConfig")
    phase.add_argument("--no-classifier", action="store_true", help="skip the classifier")
    phase.add_argument(
        "--group-column",
        metavar="NAME",
        help="manifest column by which rows of one person are kept together (default: subject_id)",
    )
    phase.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE", help="cpu (default) or cuda"
    )
    phase.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder for results and samples")
    phase.add_argument(
        "--cross-validate",
        type=Path,
        metavar="TRAIN.toml",
        help="grouped k-fold cross-validation: train by this configuration for each fold, evaluate on the held-out "
        "groups",
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

    from rephase.config import read_config
    from rephase.evaluation.candidates import CandidateOptions, make_candidates
    from rephase.evaluation.config import DEFAULT, EvaluationConfig
    from rephase.evaluation.run import Request, evaluate
    from rephase.evaluation.tables import markdown

    config = read_config(arguments.config or DEFAULT, EvaluationConfig)
    changes = {"max_slices": arguments.max_slices, "seeds": arguments.seeds}
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    choice = CandidateOptions(
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
        where=arguments.where,
        seed=arguments.seed,
        output=arguments.output,
        group_column=arguments.group_column,
        withheld=arguments.withhold or (),
        classifier=not arguments.no_classifier,
        device=arguments.device,
    )
    try:
        if arguments.cross_validate is not None:
            from rephase.evaluation.cross_validation import cross_validate

            result = cross_validate(request, choice, config, arguments.cross_validate, arguments.folds)
        else:
            result = evaluate(request, make_candidates(choice), config)
    except KeyboardInterrupt:
        if arguments.output is not None:
            sys.stderr.write(f"samples are kept in {arguments.output}; run the same command again to resume\n")
        raise
    return CommandResult(1 if result.skipped else 0, [markdown(result)], result.to_json())
