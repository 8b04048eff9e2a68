"""Train a small U-Net to reconstruct undersampled k-space, on a corpus: a file to copy and change.

    rephase demo
    python -m rephase.examples.train_unet demo/corpus.zarr

As with fastMRI's U-Net, the input is the magnitude of the zero-filled image, and the network learns a correction to it.
Both images are scored on volumes that were not trained on, by fastMRI's definitions of SSIM, NMSE and PSNR. For
meaningful figures, train on far more than the demo's 30 slices and score on real k-space.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from rephase.data.base import VolumeSlices
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import ColumnMask, apply_mask, seed_of
from rephase.data.samplers import BucketBatchSampler
from rephase.diffusion.fourier import ifft2c
from rephase.errors import RequestError
from rephase.metrics import nmse, psnr, ssim

DEMO_VALIDATION = ("nifti-diffusion-1",)
"""Volume of the demo corpus that is used for validation: the head that is trained on, with another diffusion weighting.
It only demonstrates the loop; in your own corpus, separate subjects by the manifest's split."""


class Example:
    """Converts a slice to the network's input; a class at module level, so that loader processes can unpickle it.

    Attributes
    ----------
    mask
        Chooses the sampled columns.
    fixed
        True for one mask per volume, as in fastMRI's validation; False for a new mask every time, as in its training.
    """

    def __init__(self, mask: ColumnMask, fixed: bool) -> None:
        self.mask, self.fixed = mask, fixed

    def __call__(self, kspace: Any, mask: Any, target: Any, attrs: dict[str, Any], name: str, number: int) -> Any:  # noqa: ANN401
        """Return the zero-filled magnitude, the target, the maximum of the volume, its name and the slice number."""
        seed = seed_of(name) if self.fixed else int(torch.randint(2**31, ()))
        sampled = apply_mask(kspace, self.mask(kspace.shape[-1], seed))
        image = ifft2c(torch.from_numpy(sampled)).abs()
        if image.ndim == 3:  # coils
            image = image.square().sum(dim=0).sqrt()
        height, width = target.shape  # crop to the centre where the readout is oversampled
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        start = image[top : top + height, left : left + width]
        return start[None], torch.from_numpy(target)[None], attrs["max"], name, number


class UNet(nn.Module):
    """U-Net with three resolutions that predicts a correction to its input, `(batch 1 height width)`."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.down = nn.ModuleList([_block(1, channels), _block(channels, 2 * channels)])
        self.middle = _block(2 * channels, 4 * channels)
        self.up = nn.ModuleList([_block(6 * channels, 2 * channels), _block(3 * channels, channels)])
        self.last = nn.Conv2d(channels, 1, 1, bias=False)
        self.last.weight.data.zero_()  # training starts from the input itself

    def forward(self, start: Tensor) -> Tensor:
        """Reconstruct slices; each is normalised to mean 0 and standard deviation 1 first, as in fastMRI."""
        mean = start.mean(dim=(-2, -1), keepdim=True)
        deviation = start.std(dim=(-2, -1), keepdim=True) + 1e-11
        x = (start - mean) / deviation
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        x = self.middle(x)
        for block in self.up:
            wide = kept.pop()
            x = block(torch.cat([F.interpolate(x, size=wide.shape[-2:], mode="nearest"), wide], dim=1))
        found: Tensor = start + deviation * self.last(x)
        return found


def _block(num_in: int, num_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (num_in, num_out):
        layers += [nn.Conv2d(channels, num_out, 3, padding=1, padding_mode="reflect")]
        layers += [nn.GroupNorm(4, num_out), nn.SiLU()]
    return nn.Sequential(*layers)


def save_weights(network: UNet, path: Path) -> None:
    """Write the weights and what `load_weights` needs, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path, {"channels": str(network.channels)})


def load_weights(path: Path) -> UNet:
    """Read a network that `save_weights` wrote."""
    with safe_open(path, "pt") as file:
        network = UNet(int(file.metadata()["channels"]))
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    return network


def train(network: UNet, loader: DataLoader[Any], num_steps: int, rate: float = 2e-3) -> None:
    """Train with the L1 loss relative to the maximum of the volume; `rate` is the highest learning rate."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate / 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=num_steps)
    network.train()
    for start, target, maximum, *_ in tqdm(_steps(loader, num_steps), total=num_steps, desc="training", unit="step"):
        error = (network(start) - target).abs().mean(dim=(1, 2, 3))
        loss = (error / maximum.float()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _steps(loader: DataLoader[Any], num_steps: int) -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    step, epoch = 0, 0
    while True:
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            if step == num_steps:
                return
            yield batch
            step += 1
        epoch += 1


@torch.no_grad()
def validate(network: UNet, dataset: VolumeSlices) -> dict[str, dict[str, float]]:
    """Compute mean SSIM, NMSE and PSNR over the volumes, for the network and for the zero-filled image."""
    network.eval()
    volumes: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for start, target, _, (name,), _ in DataLoader(dataset):
        volumes.setdefault(name, []).append((target[0, 0], start[0, 0], network(start)[0, 0]))
    scores: dict[str, list[dict[str, float]]] = {"zero-filled": [], "network": []}
    for slices in volumes.values():
        target, start, found = (torch.stack(images) for images in zip(*slices, strict=True))
        scores["zero-filled"].append(score(target, start))
        scores["network"].append(score(target, found))
    return {
        what: {name: float(np.mean([volume[name] for volume in rows])) for name in rows[0]}
        for what, rows in scores.items()
    }


def score(target: Tensor, found: Tensor) -> dict[str, float]:
    """Compute the metrics of `fastmri.evaluate` for one volume `(slice height width)`, data range its maximum."""
    return {"SSIM": ssim(target, found), "NMSE": nmse(target, found), "PSNR": psnr(target, found)}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train and validate; return the scores."""
    parser = argparse.ArgumentParser(description="Train a small U-Net reconstruction on a corpus.")
    parser.add_argument("corpus", help="path or URL of a corpus, such as demo/corpus.zarr")
    parser.add_argument(
        "--validate",
        default=",".join(DEMO_VALIDATION),
        metavar="A,B",
        help="volumes to validate on, beside those of the split val (default: the demo's)",
    )
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: 300)")
    parser.add_argument("--batch-size", type=int, default=4, help="slices per step (default: 4)")
    parser.add_argument("--acceleration", type=int, default=4, help="undersampling factor (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights and order (default: 0)")
    parser.add_argument("--load", type=Path, metavar="FILE", help="start from these weights")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the weights, such as unet.safetensors")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    names = set(options.validate.split(","))

    def in_validation(row: Mapping[str, Any]) -> bool:
        return row["split"] == "val" or row["name"] in names

    def in_training(row: Mapping[str, Any]) -> bool:
        return row["split"] in ("", "train") and row["name"] not in names

    mask = ColumnMask("random", (options.acceleration,), (0.32 / options.acceleration,))  # fastMRI: 8 % at 4, 4 % at 8
    try:
        training = KSpaceSlices(options.corpus, where=in_training, transform=Example(mask, fixed=False))
        validation = KSpaceSlices(options.corpus, where=in_validation, transform=Example(mask, fixed=True))
    except RequestError as error:
        parser.error(str(error))
    print(f"{len(training)} training slices, {len(validation)} validation slices of other volumes")  # noqa: T201

    begin = time.monotonic()
    network = UNet() if options.load is None else load_weights(options.load)
    batches = BucketBatchSampler(training, options.batch_size, seed=options.seed)
    train(network, DataLoader(training, batch_sampler=batches), options.steps)
    scores = validate(network, validation)
    for what, values in scores.items():
        print(f"{what:12}" + "   ".join(f"{name} {value:.4f}" for name, value in values.items()))  # noqa: T201
    if options.save is not None:
        save_weights(network, options.save)
    print(f"{time.monotonic() - begin:.0f} s")  # noqa: T201
    return scores


if __name__ == "__main__":
    main()
