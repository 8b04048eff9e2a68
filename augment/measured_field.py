"""Phase from measured fields: what two echoes of one scan say of the field, as a scan of 1.5 T has it.

The phase between two echoes is made by the object's field alone; what transmit and receive add is the same in both.
In a body at 3 T what they add is steep; at 1.5 T the wave is twice as long (Collins et al., J Magn Reson Imaging
21:192, 2005), and it is slight. The field's own part is the same at half the field strength and twice the echo time,
and goes with the echo time. So a share of the phase between two echoes at 3 T, with a smooth phase for the coils, is
one of 1.5 T on a real anatomy.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from augment.simulated_phase import guess_tissues, scan
from augment.simulation import FAT_SHIFT_PPM, GYROMAGNETIC, fat_beside_water
from augment.training_data import TrainingSlice
from augment.unwrapping import unwrap
from augment.volume import Volume
from manifests.record import ManifestRow

SHARES = (0.3, 1.5)
"""Of the time between the echoes: the echo times that are drawn, evenly in their logarithm."""
_LOW_T, _HIGH_T = 1.5, 3.0
_SAME_FIELD = 0.1
"""Scanners that are called 3 T have 2.9 to 3.0 T."""
_ECHO = re.compile(r"(.*)_e\d+")


@dataclass(frozen=True)
class MeasuredField:
    """What a field does to the phase of a scan in `between_ms`.

    `phase` is unwrapped, in radians, of the shape of `magnitude`, `(slice height width)`, that of the first echo.
    `field_t` is NaN where it is not known.
    """

    magnitude: Tensor
    phase: Tensor
    spacing_mm: tuple[float, float, float]
    between_ms: float
    field_t: float


def measure_fields(volumes: Iterable[tuple[ManifestRow, Volume]]) -> list[MeasuredField]:
    """Measure the field of every scan by its first two echoes.

    Echoes are volumes of one subject and of one DICOM series with the column `echo`, or with names that differ only in
    their ends `_e1`, `_e02`; only those that have phase, a known echo time and the same grid count.
    """
    scans: dict[tuple[str, str], list[Volume]] = defaultdict(list)
    for row, volume in volumes:
        scan = _scan_of(row)
        if scan and volume.phase is not None and volume.te_ms is not None:
            scans[row.subject_id or "", scan].append(volume)
    pairs = [sorted(echoes, key=_te_ms)[:2] for echoes in scans.values() if len(echoes) > 1]
    return [
        _measure(first, second)
        for first, second in pairs
        if _te_ms(second) > _te_ms(first)
        and first.magnitude.shape == second.magnitude.shape
        and first.spacing_mm == second.spacing_mm
    ]


def _scan_of(row: ManifestRow) -> str | None:
    if row.series and row.echo is not None:
        return row.series
    match = _ECHO.fullmatch(row.volume_id)
    return match[1] if match else None


def _te_ms(volume: Volume) -> float:
    return math.nan if volume.te_ms is None else volume.te_ms


def _measure(first: Volume, second: Volume) -> MeasuredField:
    """Take the phase between two echoes; the mean over 3 x 3 pixels, for it has the noise of both."""
    if first.phase is None or second.phase is None:
        raise ValueError("an echo has no phase")
    weight = torch.from_numpy(np.sqrt(first.magnitude * second.magnitude))
    between = torch.from_numpy(second.phase - first.phase)
    turn = torch.view_as_real(torch.polar(weight, between)).permute(0, 3, 1, 2)
    mean = functional.avg_pool2d(turn, 3, 1, 1)
    phase = unwrap(torch.atan2(mean[:, 1], mean[:, 0]).numpy(), first.magnitude)
    field_t = math.nan if first.field_t is None else first.field_t
    between_ms = _te_ms(second) - _te_ms(first)
    return MeasuredField(
        torch.from_numpy(first.magnitude), torch.from_numpy(phase), first.spacing_mm, between_ms, field_t
    )


def field_slices(field: MeasuredField, random: np.random.Generator) -> list[TrainingSlice]:
    """Put the phase of a measured field, after an echo time that is drawn, on the magnitude of its scan.

    Parameters
    ----------
    field
        Of `measure_fields`.
    random
        Draws the echo time, which bright pixels are fat, the phase of the coils, and noise.

    Returns
    -------
    slices
        Those with signal; of a scan at 3 T, with the echo time of the same phase at 1.5 T.
    """
    magnitude = field.magnitude
    share = math.exp(random.uniform(math.log(SHARES[0]), math.log(SHARES[1])))
    image = torch.polar(magnitude, share * field.phase) * _whole_turns_of_fat(field, share, random)
    image = scan(image, magnitude, field.spacing_mm, random)
    te_ms, field_t = _at_lower_field(share * field.between_ms, field.field_t)
    kept = [one for one, whole in zip(image, magnitude, strict=True) if bool((whole > 0).any())]
    return [TrainingSlice(one.clone(), field.spacing_mm[1:], te_ms, field_t, "measured field") for one in kept]


def _whole_turns_of_fat(field: MeasuredField, share: float, random: np.random.Generator) -> Tensor:
    """What a share of the whole turns of fat does to the image, which unwrapping cannot see, as complex factors."""
    cycles = FAT_SHIFT_PPM * GYROMAGNETIC * field.field_t * field.between_ms * 1e-3
    turns = 0.0 if math.isnan(cycles) else round(cycles) * share
    _, fat = guess_tissues(field.magnitude, random)
    return fat_beside_water(fat, 2.0 * math.pi * turns)


def _at_lower_field(te_ms: float, field_t: float) -> tuple[float, float]:
    """The echo time at 1.5 T at which the object has the phase that it has at 3 T; other fields stay what they are.

    Phase by susceptibility and chemical shift goes with the field times the echo time, and so does, in first order, the
    decay of the magnitude by the same fields within a voxel.
    """
    if abs(field_t / _HIGH_T - 1.0) < _SAME_FIELD:
        return te_ms * field_t / _LOW_T, _LOW_T
    return te_ms, field_t
