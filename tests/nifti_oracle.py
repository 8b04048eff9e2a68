"""nibabel's reading of a NIfTI file, compared with a volume."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

MM_OF = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


def assert_equals_nibabel(path: Path, volume, frame: int = 0) -> None:
    """Check every value, the order of voxels, the spacing and the affine of a volume."""
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    values = values.reshape(*(*values.shape, 1, 1)[:3], -1, order="F")[..., frame]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    affine[:3] *= MM_OF[image.header.get_xyzt_units()[0]]
    step = np.linalg.inv(affine) @ np.array(volume.affine)
    moves = np.rint(step)
    assert np.abs(step - moves)[:, :3].max() < 1e-4 and np.abs(step - moves)[:, 3].max() < 1e-3
    axes = np.argmax(np.abs(moves[:3, :3]), axis=0)
    assert sorted(axes) == [0, 1, 2] and np.abs(moves[:3, :3]).sum() == 3
    flips = [moves[axis, new] < 0 for new, axis in enumerate(axes)]
    expected = values.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    expected = np.abs(expected) if np.iscomplexobj(expected) else expected
    np.testing.assert_array_equal(volume.magnitude, expected.astype(np.float32))
    corner = [values.shape[axis] - 1 if flip else 0 for axis, flip in zip(axes, flips, strict=True)]
    assert np.allclose(moves[axes, 3], corner)
    np.testing.assert_allclose(volume.spacing_mm, np.linalg.norm(affine[:3, axes], axis=0), rtol=1e-6)
