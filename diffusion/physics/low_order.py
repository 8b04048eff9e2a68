"""Smooth phase: random polynomials of low order in millimetres, with the statistics of real volumes.

Shim, coils and the position of the echo cause most of a phase, and a polynomial of third order describes most of that.
Its statistics are fitted to real volumes and stored in a small JSON file. Coordinates are in units of `LENGTH_MM`, so
coefficients are radians at that distance from the centre.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.noise import Stream, anchor_key, normal, uniform, volume_key
from rephase.files import replacing

ORDER = 3
TERMS = tuple((i, j) for i in range(ORDER + 1) for j in range(ORDER + 1 - i) if i + j)
"""Powers of the height and width coordinates of each term."""
LENGTH_MM = 100.0
ANCHOR_MM = 50.0
"""Distance of the anchors between which the part of the polynomial that varies through the volume is interpolated."""
TYPICAL_SPACING_MM, TYPICAL_SLICE_MM, TYPICAL_TE_MS = 1.5, 5.0, 5.0
_SHIPPED = Path(__file__).parents[1] / "weights" / "smooth.json"
EARLIER_FIT = _SHIPPED.with_name("smooth-11.json")
"""The fit of recipes before algorithm 12, mostly to volumes under GPL-3.0; not in the wheel."""


class FitVolume(NamedTuple):
    """A real volume for a fit: complex images `(slice height width)`, spacing, TE (None if unknown), session."""

    image: Tensor
    spacing_mm: tuple[float, float, float]
    te_ms: float | None
    session: str


@dataclass(frozen=True)
class LowOrderModel:
    """The statistics of the polynomials' coefficients.

    Attributes
    ----------
    between, within
        Second moments of the `TERMS`' coefficients `(term term)` at `TYPICAL_TE_MS`: of the volumes' means, and of the
        slices' differences from them.
    te_exponent
        Coefficients scale with this power of the echo time, if it is known.
    steps_rad_per_mm
        Modulus of the phase step from slice to slice over their distance, one per session of the fit; one is sampled.
    data
        Description of the data of the fit; not used.
    """

    between: tuple[tuple[float, ...], ...]
    within: tuple[tuple[float, ...], ...]
    te_exponent: float
    steps_rad_per_mm: tuple[float, ...]
    data: dict[str, Any]

    def __post_init__(self) -> None:
        size = len(TERMS)
        for name, matrix in (("between", self.between), ("within", self.within)):
            tensor = torch.tensor(matrix, dtype=torch.float64)
            if tensor.shape != (size, size) or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name}: expected {size} x {size} finite numbers")
            if float(torch.linalg.eigvalsh(tensor).min()) < -1e-6 * float(tensor.abs().max()):
                raise ValueError(f"{name}: expected second moments, found a negative eigenvalue")
        if not self.steps_rad_per_mm or not math.isfinite(sum(self.steps_rad_per_mm) + self.te_exponent):
            raise ValueError("steps_rad_per_mm and te_exponent: expected finite numbers, one step or more")

    def phase(self, key: SliceKey, height: int, width: int, conditions: Conditions) -> Tensor:
        """Sample the phase of a slice in radians, float32 `(height width)`, on the CPU.

        The slices of a volume share one polynomial, plus a part that varies through the volume.
        """
        shared = volume_key(key)
        z_mm = key.slice_index * (conditions.slice_mm or TYPICAL_SLICE_MM)
        first, sign, offset = uniform(shared, Stream.GAUGE, 3).double().tolist()
        step = self.steps_rad_per_mm[int(first * len(self.steps_rad_per_mm))] * (1.0 if sign < 0.5 else -1.0)
        coefficients = _root(self.between) @ normal(shared, Stream.BASELINE, len(TERMS)).double()
        coefficients = coefficients + _root(self.within) @ _interpolated(key, z_mm)
        coefficients = coefficients * self._growth(conditions.dephasing_ms)
        spacing = conditions.spacing_mm or (TYPICAL_SPACING_MM, TYPICAL_SPACING_MM)
        angle = torch.einsum("k,khw->hw", coefficients, _basis(height, width, spacing))
        return torch.remainder(angle + 2.0 * math.pi * offset + step * z_mm, 2.0 * math.pi).float()

    def _growth(self, te_ms: float | None) -> float:
        return 1.0 if not te_ms or te_ms <= 0 else float((te_ms / TYPICAL_TE_MS) ** self.te_exponent)


def read_model(path: Path | None = None) -> LowOrderModel:
    """Read a fit from a JSON file; the shipped one if None.

    Raises
    ------
    ValueError
        If the file is missing or does not contain a fit.
    """
    path = path or _SHIPPED
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        matrices = {name: tuple(tuple(map(float, row)) for row in table[name]) for name in ("between", "within")}
        steps = tuple(map(float, table["steps_rad_per_mm"]))
        return LowOrderModel(
            **matrices, te_exponent=float(table["te_exponent"]), steps_rad_per_mm=steps, data=table["data"]
        )
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a fit of rephase fit-baseline smooth") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a fit of rephase fit-baseline smooth ({error}); run it again") from error


def write_model(model: LowOrderModel, path: Path) -> None:
    """Write a fit as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(model), indent=1) + "\n", encoding="utf-8")


def fit_model(volumes: Sequence[FitVolume], data: dict[str, Any]) -> LowOrderModel:
    """Fit the statistics to real volumes; every session has the same weight, however many volumes it has.

    Raises
    ------
    ValueError
        If no volume has a slice with an object.
    """
    fits = [(one, *_fit_volume(one)) for one in volumes]
    fits = [fit for fit in fits if len(fit[1])]
    if not fits:
        raise ValueError("no slice with an object to fit a polynomial to")
    exponent = _te_exponent([(one.te_ms, coefficients) for one, coefficients, _ in fits])
    sessions = [one.session for one, _, _ in fits]
    weights = torch.tensor([1.0 / sessions.count(name) for name in sessions], dtype=torch.float64)
    weights = weights / weights.sum()
    between, within = (torch.zeros(len(TERMS), len(TERMS), dtype=torch.float64) for _ in range(2))
    for (one, coefficients, _), weight in zip(fits, weights, strict=True):
        scaled = coefficients / (one.te_ms / TYPICAL_TE_MS) ** exponent if one.te_ms else coefficients
        mean = scaled.mean(dim=0)
        between += weight * mean.outer(mean)
        within += weight * (scaled - mean).T @ (scaled - mean) / len(scaled)
    return LowOrderModel(_rows(between), _rows(within), exponent, _steps(fits), data)


def fit_slice(image: Tensor, spacing_mm: tuple[float, float]) -> Tensor:
    """Fit a polynomial to the wrapped gradients of a complex slice, weighted by its power: coefficients `(term)`.

    The gradients are computed from phasors, without unwrapping; the constant term is not determined.
    """
    height, width = image.shape
    basis = _basis(height, width, spacing_mm)
    image = image.to(torch.complex128)
    matrix = 1e-9 * torch.eye(len(TERMS), dtype=torch.float64)
    right = torch.zeros(len(TERMS), dtype=torch.float64)
    for axis in (0, 1):
        product = image.narrow(axis, 1, image.shape[axis] - 1) * image.narrow(axis, 0, image.shape[axis] - 1).conj()
        slope = basis.diff(dim=axis + 1).flatten(1)
        weight = (product.abs() / image.abs().square().sum().clamp(min=1e-300)).flatten()
        matrix += (slope * weight) @ slope.T
        right += (slope * weight) @ product.angle().flatten()
    ridge = 1e-6 * matrix.diagonal().max() * torch.eye(len(TERMS))
    solution: Tensor = torch.linalg.solve(matrix + ridge, right)
    return solution


def _fit_volume(one: FitVolume) -> tuple[Tensor, float]:
    """Return coefficients of each slice with an object, `(slice term)`, and the phase step over the slice distance."""
    bright = 0.05 * float(one.image.abs().max())
    full = [image for image in one.image if float((image.abs() > bright).double().mean()) > 0.02]
    coefficients = [fit_slice(image, one.spacing_mm[1:]) for image in full]
    steps = (one.image[1:] * one.image[:-1].conj()).sum(dim=(-2, -1)).angle()
    step = float(steps.median()) / one.spacing_mm[0] if len(steps) else math.nan
    return torch.stack(coefficients) if coefficients else torch.empty(0, len(TERMS)), step


def _steps(fits: Sequence[tuple[FitVolume, Tensor, float]]) -> tuple[float, ...]:
    """Return the median modulus over the volumes of each session; 0 if no volume has two slices."""
    found: dict[str, list[float]] = {}
    for one, _, step in fits:
        if math.isfinite(step):
            found.setdefault(one.session, []).append(abs(step))
    return tuple(round(statistics.median(steps), 6) for steps in found.values()) or (0.0,)


def _te_exponent(fits: Sequence[tuple[float | None, Tensor]]) -> float:
    """Fit the power of the echo time with which coefficients grow, between 0 and 1.

    Only terms of second and third order are used: linear phase also comes from the position of the echo in k-space.
    """
    bends = [index for index, (i, j) in enumerate(TERMS) if i + j > 1]
    points = [
        (math.log(te_ms), math.log(float(coefficients[:, bends].square().mean().sqrt()) + 1e-6))
        for te_ms, coefficients in fits
        if te_ms
    ]
    if len({x for x, _ in points}) < 2:
        return 0.0
    x, y = torch.tensor(points, dtype=torch.float64).T
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return round(min(max(float(slope), 0.0), 1.0), 4)


def _basis(height: int, width: int, spacing_mm: tuple[float, float]) -> Tensor:
    """Evaluate the terms over a slice, float64 `(term height width)`, with coordinates from the centre."""
    y = (torch.arange(height, dtype=torch.float64) - height // 2) * (spacing_mm[0] / LENGTH_MM)
    x = (torch.arange(width, dtype=torch.float64) - width // 2) * (spacing_mm[1] / LENGTH_MM)
    return torch.stack([y[:, None] ** i * x**j for i, j in TERMS])


def _interpolated(key: SliceKey, z_mm: float) -> Tensor:
    """Sample standard normals `(term)` that are interpolated between anchors, one every `ANCHOR_MM`."""
    anchor = math.floor(z_mm / ANCHOR_MM)
    angle = (z_mm / ANCHOR_MM - anchor) * math.pi / 2.0  # cos^2 + sin^2 = 1 keeps the variance between two anchors
    here, there = (normal(anchor_key(key, anchor + one), Stream.BASELINE, len(TERMS)).double() for one in (0, 1))
    return math.cos(angle) * here + math.sin(angle) * there


def _root(moments: tuple[tuple[float, ...], ...]) -> Tensor:
    """Compute a square root of second moments, also if singular: the ridge exceeds the rounding error."""
    tensor = torch.tensor(moments, dtype=torch.float64)
    ridge = (1e-5 * float(tensor.diagonal().max()) + 1e-15) * torch.eye(len(TERMS))
    root: Tensor = torch.linalg.cholesky(tensor + ridge)
    return root


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    # with fewer digits, the singular moments of a fit to few volumes would get a negative eigenvalue
    return tuple(tuple(float(f"{value:.9g}") for value in row) for row in matrix.tolist())
