"""Pretrain a U-Net on a corpus, fine-tune it on real k-space, and judge it on real k-space that neither has seen.

    rephase demo
    python -m rephase.examples.pretrain_finetune demo/corpus.zarr REAL_TRAIN REAL_VAL --out run

REAL_TRAIN and REAL_VAL are folders of fastMRI's HDF5 files, or corpora that were built with `--phase real` from complex
data; they must have different subjects. Three networks are compared with the zero-filled image, all trained with the
same number of real slices: on real slices alone, on the corpus alone, and on the corpus first. `--small` runs through
within three minutes on two cores, too short for figures that mean anything.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from rephase.data.base import VolumeSlices
from rephase.data.fastmri_slices import FastMRISlices
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import ColumnMask
from rephase.data.samplers import BucketBatchSampler
from rephase.errors import RephaseError
from rephase.examples.train_unet import Example, UNet, load_weights, save_weights, train, validate
from rephase.files import replacing

STEPS, TUNE_STEPS = 5000, 500
SMALL_STEPS, SMALL_TUNE_STEPS = 120, 40
_BATCH = 4


def open_slices(place: str, transform: Example) -> VolumeSlices:
    """Open a corpus, or a folder of fastMRI's files."""
    if "://" in place or (Path(place) / "zarr.json").exists():
        return KSpaceSlices(place, transform=transform)
    return FastMRISlices(place, transform=transform)


def fit(network: UNet, slices: VolumeSlices, steps: int, rate: float, seed: int) -> UNet:
    """Train a network on slices, in batches of equal matrix."""
    loader: DataLoader[object] = DataLoader(slices, batch_sampler=BucketBatchSampler(slices, _BATCH, seed=seed))
    train(network, loader, steps, rate)
    return network


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Run all arms; print and return their scores, and write them with the weights to `--out`."""
    parser = argparse.ArgumentParser(
        description="Pretrain on a corpus, fine-tune on real k-space, judge on real k-space."
    )
    parser.add_argument("corpus", help="path or URL of a corpus with synthetic phase")
    parser.add_argument("real_train", help="real k-space to fine-tune on: a folder of fastMRI files, or a corpus")
    parser.add_argument("real_val", help="real k-space of other subjects, to judge on")
    parser.add_argument("--out", type=Path, default=Path("run"), help="folder of weights and scores (default: run)")
    parser.add_argument("--small", action="store_true", help="few steps, to try the script")
    parser.add_argument("--steps", type=int, help=f"steps on the corpus (default: {STEPS}; small: {SMALL_STEPS})")
    parser.add_argument(
        "--tune-steps", type=int, help=f"on real slices (default: {TUNE_STEPS}; small: {SMALL_TUNE_STEPS})"
    )
    parser.add_argument("--acceleration", type=int, default=4, help="undersampling factor (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights and order (default: 0)")
    options = parser.parse_args(arguments)
    steps = options.steps or (SMALL_STEPS if options.small else STEPS)
    tune_steps = options.tune_steps or (SMALL_TUNE_STEPS if options.small else TUNE_STEPS)
    mask = ColumnMask("random", (options.acceleration,), (0.32 / options.acceleration,))
    try:
        corpus, real = (open_slices(one, Example(mask, fixed=False)) for one in (options.corpus, options.real_train))
        held_out = open_slices(options.real_val, Example(mask, fixed=True))
    except RephaseError as error:
        parser.error(str(error))
    print(f"{len(corpus)} slices of the corpus, {len(real)} real ones to train on, {len(held_out)} to judge on")  # noqa: T201

    begin = time.monotonic()
    torch.manual_seed(options.seed)
    fresh = UNet()
    save_weights(fresh, options.out / "start.safetensors")  # all arms start from it
    pretrained = fit(load_weights(options.out / "start.safetensors"), corpus, steps, 2e-3, options.seed)
    save_weights(pretrained, options.out / "pretrained.safetensors")
    tuned = fit(load_weights(options.out / "pretrained.safetensors"), real, tune_steps, 5e-4, options.seed)
    save_weights(tuned, options.out / "fine-tuned.safetensors")
    alone = fit(load_weights(options.out / "start.safetensors"), real, tune_steps, 2e-3, options.seed)
    save_weights(alone, options.out / "real-alone.safetensors")

    arms = {"real alone": alone, "corpus alone": pretrained, "corpus, then real": tuned}
    scores: dict[str, dict[str, float]] = {}
    for name, network in arms.items():
        found = validate(network, held_out)
        scores = {"zero-filled": found["zero-filled"], **scores, name: found["network"]}
    for name, values in scores.items():
        print(f"{name:18}" + "   ".join(f"{metric} {value:.4f}" for metric, value in values.items()))  # noqa: T201
    with replacing(options.out / "scores.json") as path:
        path.write_text(json.dumps(scores, indent=2) + "\n")
    print(f"{time.monotonic() - begin:.0f} s; weights and scores: {options.out}")  # noqa: T201
    return scores


if __name__ == "__main__":
    main()
