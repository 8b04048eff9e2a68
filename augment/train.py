"""`phasegen train`: from a configuration and a manifest of magnitude/phase pairs to a checkpoint."""

from __future__ import annotations

import hashlib
import math
import platform
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from augment.errors import RequestError, VolumeError
from augment.readers import read_volume
from augment.training_data import TrainingSlice, TrainingSlices, slices_of
from augment.volume import Volume
from diffusion.checkpoint import load_checkpoint, save_checkpoint
from diffusion.gauge import estimate_ramp
from diffusion.network import NetworkConfig
from diffusion.training import Trainer, TrainingConfig
from manifests.parse import read_manifest
from manifests.record import ManifestRow


@dataclass(frozen=True)
class TrainConfig:
    """The whole configuration; relative paths are relative to the configuration file.

    `manifest` names rows with a `phase` or `kspace` column, of which those of `split` are taken (all where it is
    empty). The run folder `output` keeps the state; the checkpoint `<name>.safetensors` and its card are written there.
    `initial` is a checkpoint whose weights the training starts from. `card` is copied into the model card (name,
    licence, description of the data).
    """

    manifest: Path
    output: Path
    name: str = "model"
    split: str = "train"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    initial: Path | None = None
    card: dict[str, Any] = field(default_factory=dict)


def read_config(path: Path) -> TrainConfig:
    """Read a TOML configuration.

    Raises
    ------
    RequestError
        The file is missing, is not TOML, or holds an unknown or impossible entry.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; expected a TOML configuration") from error
    except ValueError as error:
        raise RequestError(f"{path}: not TOML ({error})") from error
    try:
        network: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in table.pop("network", {}).items()
        }
        manifest, output = ((path.parent / table.pop(key)).resolve() for key in ("manifest", "output"))
        if "initial" in table:
            table["initial"] = (path.parent / table["initial"]).resolve()
        training = TrainingConfig(**table.pop("training", {}))
        return TrainConfig(manifest, output, network=NetworkConfig(**network), training=training, **table)
    except KeyError as error:
        raise RequestError(f"{path}: no entry {error}; manifest and output are required") from error
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}: {error}") from error


def train(config: TrainConfig, device: str = "cpu") -> Path:
    """Train, or go on with a run that was interrupted, and write the checkpoint.

    Parameters
    ----------
    config
        What to train on and how.
    device
        "cpu" or "cuda".

    Returns
    -------
    path
        Of the checkpoint.

    Raises
    ------
    RequestError
        No row of the manifest can be trained on.
    """
    rows = [row for row in read_manifest(config.manifest) if not config.split or row.split == config.split]
    volumes, licences = [], Counter[str]()
    for row, volume in _read(rows):
        volumes.append(volume)
        licences[row.licence or "not stated"] += len(volume.magnitude)
    if not volumes:
        raise RequestError(f"{config.manifest}: no row of split {config.split!r} with phase could be read")
    slices = [one for volume in volumes for one in slices_of(volume)]
    initial = load_checkpoint(config.initial) if config.initial else None
    network = None if initial is None else initial.network
    trainer = Trainer(config.network, config.training, _batches(slices, config), config.output, device, network)
    trainer.run(_progress)
    path = config.output / f"{config.name}.safetensors"
    card = {"name": config.name} | config.card | _facts(config, slices, licences, device)
    if initial is not None:
        card["initial"] = {"name": initial.card.get("name"), "sha256": initial.sha256}
    save_checkpoint(trainer.average, measure_gauge(volumes), card, path)
    return path


def train_command(config_path: Path, device: str | None = None) -> int:
    """Run `phasegen train`; the exit status."""
    path = train(read_config(config_path), device or ("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"checkpoint: {path}")  # noqa: T201
    return 0


def measure_gauge(volumes: Iterable[Volume]) -> torch.Tensor:
    """The linear phase of each volume, median over its slices: `(volume 3)`, TE in ms (or NaN) and rad/mm."""
    rows = []
    for volume in volumes:
        if volume.phase is None:
            continue
        image = torch.polar(torch.from_numpy(volume.magnitude), torch.from_numpy(volume.phase))
        ramp = estimate_ramp(image) / torch.tensor(volume.spacing_mm[1:])
        te_ms = math.nan if volume.te_ms is None else volume.te_ms
        rows.append([te_ms, *ramp.median(dim=0).values.tolist()])
    return torch.tensor(rows)


def _read(rows: list[ManifestRow]) -> Iterator[tuple[ManifestRow, Volume]]:
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volume = read_volume(row)
        except VolumeError as error:
            print(f"left out: {error}", file=sys.stderr)  # noqa: T201
            continue
        if volume.phase is None:
            print(f"left out: {row.volume_id}: no `phase` or `kspace` in its row", file=sys.stderr)  # noqa: T201
            continue
        yield row, volume


def _batches(slices: list[TrainingSlice], config: TrainConfig) -> TrainingSlices:
    return TrainingSlices(slices, config.training.pixels, config.training.seed)


def _progress(steps: Iterable[int]) -> Iterable[int]:
    progress: Iterable[int] = tqdm(steps, desc="training", unit="step", disable=None, mininterval=1.0)
    return progress


def _facts(config: TrainConfig, slices: list[TrainingSlice], licences: Counter[str], device: str) -> dict[str, Any]:
    manifest = hashlib.sha256(config.manifest.read_bytes()).hexdigest()
    return {
        "training": asdict(config.training),
        "data": {"split": config.split, "slices": len(slices), "licences": dict(licences), "manifest_sha256": manifest},
        "made_with": {"torch": torch.__version__, "device": device, "machine": platform.machine()},
    }
