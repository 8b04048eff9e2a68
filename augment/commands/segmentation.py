"""`rephase evaluate segmentation`."""

from __future__ import annotations

import argparse

from rephase.commands.experiments import add_options, read_request, read_settings, resumable
from rephase.commands.result import CommandResult, Commands, add_command


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
        "interrupted run. augment/EXPERIMENTS.md explains every figure.",
        "rephase evaluate segmentation --real pairs.csv -o runs/segmentation\n"
        "rephase evaluate segmentation --real pairs.csv --arms zero,angle,smooth,real --seeds 5 -o runs/s\n"
        "rephase evaluate segmentation --real pairs.csv --magnitudes archive.csv --preset standard -o runs/s",
    )
    add_options(segmentation, ("quick", "standard"), "segmentation.config:SegmentationConfig")


def evaluate_segmentation(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase evaluate segmentation`."""
    from rephase.experiments.report import markdown
    from rephase.experiments.segmentation.config import SegmentationConfig, preset
    from rephase.experiments.segmentation.run import evaluate

    config = read_settings(arguments, preset, SegmentationConfig, ("seeds",))
    with resumable(arguments):
        outcome = evaluate(read_request(arguments), config)
    return CommandResult(1 if outcome.skipped else 0, [markdown(outcome)], outcome.to_json())
