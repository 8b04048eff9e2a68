"""Read an export with deepinv and mrpro themselves: `python tests/consumers/consumers.py FOLDER`."""

import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

try:
    import torchvision
except RuntimeError:
    # A torchvision built for another torch: its Python part wants to know these operators, which no reader calls.
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401


def expect(holds, what):
    if not holds:
        sys.exit(f"failed: {what}")
    print(f"  {what}")  # noqa: T201


def target_of(path):
    with h5py.File(path) as file:
        return file["reconstruction_esc" if "reconstruction_esc" in file else "reconstruction_rss"][...]


def near(found, expected, tolerance=1e-5):
    return found.shape == expected.shape and np.abs(found - expected).max() < tolerance * expected.max()


def folder_of(names, source, parent):
    folder = Path(parent) / "-".join(names)
    folder.mkdir()
    for name in names:
        shutil.copy(source / f"{name}.h5", folder)
    return folder


def check_deepinv(source, parent):
    import deepinv
    from deepinv.datasets import FastMRISliceDataset
    from deepinv.physics import MRI, MultiCoilMRI

    print(f"deepinv {deepinv.__version__}: FastMRISliceDataset")  # noqa: T201
    folder = folder_of(["single", "oversampled", "knee"], source, parent)
    dataset = FastMRISliceDataset(folder)
    expect(len(dataset) == 3 + 2 + 2, "all slices are there")
    for item, sample in zip(dataset, dataset.samples, strict=False):
        target, kspace = item
        expected = target_of(sample.fname)[sample.slice_ind]
        physics = MRI(mask=torch.ones(1, 2, *kspace.shape[-2:]))
        image = physics.A_adjoint(kspace[None], mag=True)
        image = physics.crop(image, shape=expected.shape)[0, 0].numpy()
        if not near(image, expected) or not np.array_equal(target[0].numpy(), expected):
            sys.exit(f"failed: {sample.fname.name}, slice {sample.slice_ind}: the adjoint is not the target")
    expect(True, "its own adjoint gives the target, slice by slice, cropped where oversampled")
    folder = folder_of(["coils"], source, parent)
    target, kspace = FastMRISliceDataset(folder)[1]
    with h5py.File(folder / "coils.h5") as file:
        maps = torch.from_numpy(file["sens_maps"][1])[None]
    physics = MultiCoilMRI(mask=torch.ones(1, 2, *kspace.shape[-2:]), coil_maps=maps)
    rss = physics.A_adjoint(kspace[None], rss=True)[0, 0].numpy()
    expect(near(rss, target[0].numpy()), "multi-coil: the root sum of squares of its adjoint is the target")
    image = torch.linalg.vector_norm(physics.A_adjoint(kspace[None]), dim=1)[0].numpy()
    expect(near(image, target[0].numpy()), "multi-coil: its adjoint with our coil maps is the target")


def check_mrpro(source, parent):
    import mrpro
    from mrpro.operators import FastFourierOp
    from mrpro.phantoms.fastmri import FastMRIImageDataset, FastMRIKDataDataset

    print(f"mrpro {mrpro.__version__}: FastMRIKDataDataset, FastMRIImageDataset")  # noqa: T201
    folder = folder_of(["coils", "knee"], source, parent)
    data = FastMRIKDataDataset([folder / "coils.h5"])
    expect(len(data) == 2, "all slices are there")
    kdata = data[1]
    expect(kdata.header.encoding_matrix.x == 64 and kdata.header.te == [0.011], "matrix and echo time are the header's")
    expect(abs(kdata.header.recon_fov.y - 0.048) < 1e-9, "the field of view is in metres")
    (image,) = FastFourierOp(dim=(-1, -2)).adjoint(kdata.data)
    rss = image.abs().square().sum(dim=1).sqrt().squeeze().numpy().T  # mrpro's k0, the readout, comes last
    expect(near(rss, target_of(folder / "coils.h5")[1]), "the root sum of squares is the target")
    both = FastMRIImageDataset(folder_of(["brain", "coils"], source, parent), allowed_n_coils=None)
    expect(len(both) == 1, "the image data set takes brains of 320 and 0.22 m, and passes over the rest")
    rss = both[0].abs().square().sum(dim=1).sqrt().squeeze().numpy()
    expected = target_of(source / "brain.h5")[0]
    mirrored = np.roll(rss[::-1, ::-1], 1, (0, 1)) / rss.max() * expected.max()  # it uses the forward transform
    expect(np.abs(mirrored - expected).max() < 1e-3 * expected.max(), "its image is the target, mirrored")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        check_deepinv(Path(sys.argv[1]), temporary)
    with tempfile.TemporaryDirectory() as temporary:
        check_mrpro(Path(sys.argv[1]), temporary)
