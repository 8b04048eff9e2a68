"""Checkpoints: weights as safetensors, with a JSON model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
from annotated_types import Ge, Le
from safetensors import SafetensorError
from safetensors.torch import load, save

from rephase.config import ConfigError, Share, from_mapping
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig
from rephase.diffusion.physics.gauge_pool import COLUMNS
from rephase.diffusion.seen import Seen
from rephase.diffusion.shipped import FOLDER, WEIGHTS, describe_missing
from rephase.errors import RephaseError
from rephase.files import replacing, sha256

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_LARGEST_CARD = 1 << 24
MOST_STEPS = 4096
"""Largest number of network evaluations per slice."""
Steps = Annotated[int, Ge(1), Le(MOST_STEPS)]
"""A number of network evaluations per slice."""


class CheckpointError(RephaseError):
    """A checkpoint cannot be used; the message names it, what was found and what was expected."""


@dataclass(frozen=True)
class _Distillation:
    teacher_steps: Steps | None = None
    noise_gain: Share | None = None


@dataclass(frozen=True)
class _Card:
    """The typed entries of every model card. A process checks its own section."""

    process: str
    network: dict[str, Any]
    steps: Steps | None = None
    distillation: _Distillation | None = None
    licence: str | None = None
    seen: Seen | None = None

    def __post_init__(self) -> None:
        if self.distillation is not None and self.steps is None:
            raise ValueError("distillation: found no steps; expected a card of rephase distill")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, with the facts that a sampler needs.

    Attributes
    ----------
    network
        The network with its weights.
    process
        A name of `rephase.diffusion.registry.PROCESSES`.
    gauge
        Gauges measured on the training volumes, see `rephase.diffusion.physics.gauge_pool`.
    sha256
        Hash of the weights file and of the entries of the card that affect sampling.
    card
        The complete model card.
    path
        Path of the weights file.
    """

    network: ComplexUNet
    process: str
    gauge: torch.Tensor
    sha256: str
    card: dict[str, Any]
    path: Path | None = None

    def settings(self, kind: type[Settings]) -> Settings:
        """Return the settings of the process: the section of its name in the model card.

        Parameters
        ----------
        kind
            Their dataclass. It may have an attribute `RETIRED`, entries of earlier versions with their allowed values.

        Raises
        ------
        CheckpointError
            If the section has invalid settings.
        """
        section = self.card.get(self.process, {})
        try:
            if not isinstance(section, dict):
                raise ValueError(f"found {str(section)[:60]!r}; expected an object")
            return _without_retired(section, kind)
        except ValueError as error:
            problems = getattr(error, "problems", [str(error)])
            where = self.path or self.card.get("name")
            raise CheckpointError(f"{where}: {self.process}: {'; '.join(problems)}") from None

    @property
    def distilled(self) -> bool:
        """Whether the network is a student, which needs exactly `steps` evaluations."""
        return self.card.get("distillation") is not None

    @property
    def steps(self) -> int | None:
        """Network evaluations per slice for which the weights were trained; None for any number."""
        steps: int | None = self.card.get("steps")
        return steps

    @property
    def licence(self) -> str | None:
        """Licence of the weights; None if the card states none."""
        licence: str | None = self.card.get("licence")
        return licence

    @property
    def seen(self) -> Seen | None:
        """What the weights were trained on; None in cards of earlier versions."""
        section = self.card.get("seen")
        return None if section is None else from_mapping(section, Seen)

    @property
    def teacher_steps(self) -> int | None:
        """Network evaluations per slice of a student's teacher, in cards of earlier versions."""
        steps: int | None = (self.card.get("distillation") or {}).get("teacher_steps")
        return steps

    @property
    def noise_gain(self) -> float | None:
        """Fraction of the source's noise that remains in a student's samples, as measured after its training."""
        gain: float | None = (self.card.get("distillation") or {}).get("noise_gain")
        return gain


def save_checkpoint(network: ComplexUNet, gauge: torch.Tensor, card: dict[str, Any], path: Path) -> None:
    """Write `path` (safetensors) and the model card next to it (`.json`).

    The architecture is added to the card, the process "flow" unless the card names another, and the hash of weights and
    card, `Checkpoint.sha256`, by which damage is found later.
    """
    card = {"format": 1, "process": "flow", "network": asdict(network.config)} | card
    data = _serialized(network.state_dict() | {"gauge": gauge.to(torch.float32)})
    # raises for a card that is not JSON, before anything is written
    text = json.dumps(card | {"sha256": _digest(data, card)}, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(data)
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(text, encoding="utf-8")


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, notes: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically; `notes` go into its header.

    Without `save_file`, whose files only the owner may read, and whose error names no file and hides a full disk.
    """
    with replacing(path) as partial:
        partial.write_bytes(_serialized(tensors, notes))


def _serialized(tensors: Mapping[str, torch.Tensor], notes: dict[str, str] | None = None) -> bytes:
    data: bytes = save({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, notes)
    return data


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is complete, of a known architecture, and finite.

    Raises
    ------
    CheckpointError
        A file is missing or corrupt, the architecture is unknown, or weights do not match it or are not finite.
    """
    card_path = path.with_suffix(".json")
    if path.name in WEIGHTS and not path.exists():
        raise CheckpointError(describe_missing(path.name))
    for part in (path, card_path):
        if not part.is_file():
            raise CheckpointError(f"{part}: no such file; a checkpoint is NAME.safetensors with NAME.json beside it")
    card = _read_card(card_path)
    try:
        data = path.read_bytes()
        tensors = load(data)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); get the file again") from error
    config = _network_config(card, card_path)
    _check_size(config, path)
    network = ComplexUNet(config)
    gauge = tensors.pop("gauge", None)
    if gauge is None or gauge.ndim != 2 or gauge.shape[1] != len(COLUMNS) or not len(gauge):
        raise CheckpointError(
            f"{path}: no tensor 'gauge' of shape (count, {len(COLUMNS)}); expected one written by rephase train"
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise CheckpointError(f"{path}: weights do not fit the architecture in {card_path.name}:{first[0]}") from error
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad or not bool(torch.isfinite(gauge[:, 2:]).all()):
        raise CheckpointError(f"{path}: {(bad or ['gauge'])[0]} holds NaN or infinity; train again or take another one")
    network.requires_grad_(False).eval()
    digest = _digest(data, card)
    _check_hash(data, card, digest, path)
    return Checkpoint(network, card["process"], gauge, digest, card, path)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CARD:
            raise ValueError(f"more than {_LARGEST_CARD} bytes")
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}); get the file again") from error
    if not isinstance(card, dict) or card.get("format") != 1:
        raise CheckpointError(f"{path}: not a model card of format 1")
    try:
        from_mapping(card, _Card, allow_unknown=True)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {'; '.join(error.problems)}") from None
    return card


def _network_config(card: dict[str, Any], path: Path) -> NetworkConfig:
    try:
        return _without_retired(card["network"], NetworkConfig)
    except ValueError as error:
        problems = getattr(error, "problems", [str(error)])
        raise CheckpointError(f"{path}: unknown architecture ({'; '.join(problems)})") from None


def _without_retired(section: dict[str, Any], kind: type[Settings]) -> Settings:
    """Return the settings of a section, without entries of earlier versions: `RETIRED` of their dataclass."""
    entries = dict(section)
    for name, values in getattr(kind, "RETIRED", {}).items():
        if entries.pop(name, values[0]) not in values:
            raise ValueError(f"{name}: found {str(section[name])[:60]!r}; expected {values[0]!r}")
    return from_mapping(entries, kind)


def _check_size(config: NetworkConfig, path: Path) -> None:
    """Check that an architecture is not far larger than the weights file, before memory is allocated for it."""
    with torch.device("meta"):
        network = ComplexUNet(config)
    needed = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    stored = path.stat().st_size
    if needed > 8 * stored + _LARGEST_CARD:  # weights may be stored in fewer bits
        raise CheckpointError(
            f"{path}: weights do not fit the architecture: {stored} bytes where {needed} are needed; get both again"
        )


def _check_hash(data: bytes, card: dict[str, Any], digest: str, path: Path) -> None:
    """Compare with the hash in the card, a file `NAME.safetensors.sha256` of sha256sum, and the table of weights.

    Weights with one wrong bit give a finite phase, and a plausible corpus.
    """
    found = sha256(data)
    sidecar = path.with_name(f"{path.name}.sha256")
    listed = [sidecar.read_text(encoding="utf-8", errors="replace").split()[:1]] if sidecar.is_file() else []
    shipped = WEIGHTS.get(path.stem) if path.resolve().parent == FOLDER.resolve() else None
    expected = [
        (path.with_suffix(".json").name, card.get("sha256", digest), digest),
        *((sidecar.name, "".join(words).lower(), found) for words in listed),
        *([("the table of weights", shipped.sha256, found)] if shipped is not None else []),
    ]
    for where, wanted, seen in expected:
        if wanted != seen:
            raise CheckpointError(
                f"{path}: SHA-256 {seen[:16]}... where {where} has {str(wanted)[:16]}...; weights or card are "
                "damaged or were edited; get both again (after an edit of yours, remove sha256 from the card)"
            )


def _digest(data: bytes, card: dict[str, Any]) -> str:
    """Return the SHA-256 of the weights and of the entries of the card that affect sampling."""
    keys = ("format", "process", "network", "distillation", card["process"])
    followed = {key: card[key] for key in keys if key in card}
    digest = hashlib.sha256(data)
    digest.update(json.dumps(followed, sort_keys=True).encode())
    return digest.hexdigest()
