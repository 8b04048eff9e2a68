import itertools

import numpy as np
import pytest

from rephase.errors import VolumeError
from rephase.readers.geometry import arrange_axes, as_displayed, choose_slice_axis, match_grid, permute

SIZES = (5, 6, 7)  # along patient x (to left), y (to posterior), z (to superior)
SPACING = np.array([1.0, 2.0, 3.0])


def world():
    """A volume indexed along patient L, P, S, every voxel another value."""
    return np.arange(np.prod(SIZES), dtype=np.float32).reshape(SIZES)


# What DICOM displays of it, written down by hand: slices, rows, columns.
TRUTH = {
    0: (lambda w: w[::-1, :, ::-1].transpose(0, 2, 1), "RIP"),  # sagittal: to right; down is inferior, right posterior
    1: (lambda w: w[:, :, ::-1].transpose(1, 2, 0), "PIL"),  # coronal: to posterior; down is inferior, right is left
    2: (lambda w: w.transpose(2, 1, 0), "SPL"),  # axial: to superior; down is posterior, right is left
}


def stored(axes, flips, tilt=None):
    """The world volume as a file may hold it, with its affine to LPS."""
    array = permute(world(), axes, flips)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for new, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[axis, new] = -SPACING[axis] if flip else SPACING[axis]
        affine[axis, 3] = SPACING[axis] * (SIZES[axis] - 1) if flip else 0
    return array, affine if tilt is None else tilt @ affine


def rotation(degrees):
    """Turns about all three axes."""
    turned = np.eye(4)
    for (i, j), angle in zip(((0, 1), (1, 2), (0, 2)), np.deg2rad(degrees), strict=True):
        step = np.eye(4)
        step[[i, j], [i, j]] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turned = turned @ step
    return turned


ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


@pytest.mark.parametrize("normal", [0, 1, 2])
@pytest.mark.parametrize("tilt", [None, rotation((12, -9, 7))], ids=["straight", "oblique"])
def test_every_axis_order_is_read_as_dicom_displays_it(normal, tilt):
    truth, orientation = TRUTH[normal]
    for axes, flips in ORDERS:
        array, affine = stored(axes, flips, tilt)
        arrangement = arrange_axes(affine, array.shape, axes.index(normal))
        arranged = arrangement.arrange(array)
        np.testing.assert_array_equal(arranged, truth(world()))
        assert arrangement.orientation == orientation
        assert arrangement.sizes(array.shape) == arranged.shape
        assert (arrangement.transposed, arrangement.phase_encode) == (False, "assumed")
        # Each voxel is where it was: look a few of them up by value.
        for value in (0, 17, 101, 209):
            there = np.array(arrangement.affine) @ [*np.argwhere(arranged == value)[0], 1]
            here = affine @ [*np.argwhere(array == value)[0], 1]
            np.testing.assert_allclose(there, here, atol=1e-9)


def test_slices_grow_along_width_times_height():
    for normal, (axes, flips) in itertools.product(range(3), ORDERS):
        array, affine = stored(axes, flips)
        result = np.array(arrange_axes(affine, array.shape, axes.index(normal)).affine)
        assert result[:3, 0] @ np.cross(result[:3, 2], result[:3, 1]) > 0


def test_phase_along_displayed_columns_exchanges_height_and_width():
    array, affine = stored((0, 1, 2), (False, False, False))
    along_width = arrange_axes(affine, array.shape, 2, phase_axis=0)
    assert (along_width.transposed, along_width.phase_encode, along_width.orientation) == (False, "row", "SPL")
    along_height = arrange_axes(affine, array.shape, 2, phase_axis=1)
    assert (along_height.transposed, along_height.phase_encode, along_height.orientation) == (True, "column", "SLP")
    assert along_height.spacing_mm == (3.0, 1.0, 2.0)
    np.testing.assert_array_equal(along_height.arrange(array), along_width.arrange(array).swapaxes(1, 2))
    through = arrange_axes(affine, array.shape, 2, phase_axis=2)
    assert (through.transposed, through.phase_encode) == (False, "assumed")


@pytest.mark.parametrize(
    ("given", "header", "shape", "spacing", "expected"),
    [
        (0, 1, (4, 4, 4), (1, 1, 5), 0),
        (None, 1, (4, 4, 4), (1, 1, 5), 1),
        (None, None, (4, 1, 4), (1, 1, 5), 1),
        (None, None, (1, 1, 4), (5, 1, 1), 0),
        (None, None, (4, 4, 4), (3, 1, 2), 0),
        (None, None, (4, 4, 4), (1.1, 1, 1), 2),
        (None, None, (4, 4, 4), (1, 1, 1), 2),
    ],
)
def test_slice_axis(given, header, shape, spacing, expected):
    assert choose_slice_axis(given, header, shape, spacing) == expected


def test_without_an_affine_rows_and_columns_are_as_displayed():
    arrangement = as_displayed((4, 5, 6), (3.0, 2.0, 1.0))
    assert (arrangement.orientation, arrangement.spacing_mm) == ("SPL", (3.0, 2.0, 1.0))
    array = world()
    np.testing.assert_array_equal(as_displayed(array.shape).arrange(array), array)
    np.testing.assert_array_equal(as_displayed(array.shape, slice_axis=2).arrange(array), array.transpose(2, 0, 1))


def test_associated_files_are_matched_in_any_order_of_their_axes():
    array, affine = stored((1, 0, 2), (True, False, True))
    arrangement = arrange_axes(affine, array.shape, 2)
    volume = arrangement.arrange(array)
    for axes, flips in ORDERS:
        other, other_affine = stored(axes, flips)
        found = match_grid(other_affine, other.shape, arrangement.affine, volume.shape, "labels.nii")
        np.testing.assert_array_equal(permute(other, *found), volume)


def test_other_grids_are_a_mismatch():
    array, affine = stored((0, 1, 2), (False, False, False))
    volume_affine = arrange_axes(affine, array.shape, 2).affine
    shape = (7, 6, 5)
    finer, shifted = affine @ np.diag([0.5, 1, 1, 1]), affine.copy()
    shifted[0, 3] += 0.5
    for other, other_shape in (
        (finer, (10, 6, 7)),
        (shifted, SIZES),
        (affine, (5, 6, 8)),
        (rotation((5, 0, 0)) @ affine, SIZES),
    ):
        with pytest.raises(VolumeError, match=r"labels\.nii") as caught:
            match_grid(other, other_shape, volume_affine, shape, "labels.nii")
        assert caught.value.reason == "mismatch"
