"""`rephase evaluate segmentation`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rephase.commands.result import CommandResult, Commands, PrintSchema, add_command, add_json, count, names
from rephase.diffusion.shipped import find_checkpoint


def register_segmentation(inner: Commands) -> None:
    """Add the command under `evaluate`."""
    segmentation = add_command(
        inner,
        "segmentation",
        evaluate_segmentation,
        "train skull-stripping networks on synthetic and on real k-space, and test them on real k-space",
        "Does synthetic k-space help a segmentation network that will see real k-space? As 'evaluate reconstruction',\n"
        "with its arms and controls, for two networks: image, a U-Net on the complex image, and kspace, complex\n"
        "convolutions from k-space to the k-space of the labelled part. Labels: the manifest's column segmentation\n"
        "(any label above 0), or, if no row has one, a rule on the magnitude: the output says which. Dice and\n"
        "HD95 are of whole volumes, at one threshold that is chosen on training volumes. The same command resumes an\n"
        "interrupted run. augment/EVALUATION.md explains every figure.",
        "rephase evaluate segmentation --real pairs.csv -o runs/segmentation\n"
        "rephase evaluate segmentation --real pairs.csv --arms zero,angle,smooth,real --seeds 5 -o runs/s\n"
        "rephase evaluate segmentation --real pairs.csv --magnitudes archive.csv --preset standard -o runs/s",
    )
    add = segmentation.add_argument
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
    add("--preset", choices=("quick", "standard"), metavar="P", help="quick (default) or standard")
    add("--config", type=Path, metavar="T.toml", help="settings of your own instead of a preset")
    add("--schema", action=PrintSchema, const="rephase.experiments.segmentation.config:SegmentationConfig")
    add("--checkpoint", type=find_checkpoint, metavar="C", help="weights of diffusion (default: the default weights)")
    add("--device", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE", help="cpu (default) or cuda")
    add("--workers", type=count, metavar="N", help="processes; changes no result (default: one per core, or one GPU)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for corpora, results and page")
    add_json(segmentation)


def evaluate_segmentation(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase evaluate segmentation`."""
    from dataclasses import replace

    from rephase.config import read_config
    from rephase.errors import RequestError
    from rephase.experiments.reconstruction.run import Request
    from rephase.experiments.report import markdown
    from rephase.experiments.segmentation.config import SegmentationConfig, preset
    from rephase.experiments.segmentation.run import evaluate

    if arguments.preset and arguments.config:
        raise RequestError("--preset and --config: expected one of them")
    config = read_config(arguments.config or preset(arguments.preset or "quick"), SegmentationConfig)
    if arguments.seeds is not None:
        config = replace(config, seeds=arguments.seeds)
    request = Request(
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
    try:
        outcome = evaluate(request, config)
    except KeyboardInterrupt:
        sys.stderr.write(f"results are kept in {arguments.output}; run the same command again to resume\n")
        raise
    return CommandResult(1 if outcome.skipped else 0, [markdown(outcome)], outcome.to_json())
