"""From stored values and their arrangement to a volume: what every format with an affine ends with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.readers.geometry import Arrangement
from augment.volume import Volume
from manifests.record import ManifestRow


def arranged_volume(
    row: ManifestRow,
    values: NDArray[np.float32],
    phase: NDArray[np.float32] | None,
    arrangement: Arrangement,
    digest: str,
    acquisition: dict[str, Any],
) -> Volume:
    """Bring stored magnitude and phase, of one shape, into the corpus's axes, with what the manifest says of them."""
    return Volume(
        magnitude=_contiguous(arrangement.arrange(values)),
        spacing_mm=arrangement.spacing_mm,
        affine=arrangement.affine,
        orientation=arrangement.orientation,
        transposed=arrangement.transposed,
        phase_encode=arrangement.phase_encode,
        source_sha256=digest,
        phase=None if phase is None else _contiguous(arrangement.arrange(phase)),
        te_ms=row.te_ms,
        field_t=row.field_t,
        contrast=row.contrast,
        anatomy=row.anatomy,
        acquisition=acquisition,
    )


def _contiguous(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `ascontiguousarray`, which leaves an axis of length 1 its negative stride, which torch refuses."""
    return values.copy() if min(values.strides) < 0 else np.ascontiguousarray(values)
