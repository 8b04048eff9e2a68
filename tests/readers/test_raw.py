"""Complex data of every layout becomes the same volume, with magnitude and measured phase."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest

from rephase.builder.options import BuildOptions
from rephase.builder.plan import make_plan
from rephase.builder.resolve import make_recipe
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import VolumeError
from rephase.manifests.errors import ManifestError
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.recipe import Tile
from rephase.pipeline.task import Task
from rephase.pipeline.worker import open_worker
from rephase.readers.registry import describe_volume, hash_source, read_volume

SLICES, HEIGHT, WIDTH, COILS = 3, 24, 20, 4


def fft2c(image):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def phantom(height=HEIGHT, width=WIDTH) -> np.ndarray:
    """A head of smooth phase in air, complex64 `(slice height width)`."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    inside = (y / 0.7) ** 2 + (x / 0.6) ** 2 < 1
    slices = [inside * (50 + 10 * z + 20 * (x > 0.1)) * np.exp(1j * (0.5 * z + y + 0.4 * x)) for z in range(SLICES)]
    return np.stack(slices).astype(np.complex64)


def coil_images(image: np.ndarray) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape[-2:]), indexing="ij")
    places = [(np.cos(angle), np.sin(angle)) for angle in 2 * np.pi * np.arange(COILS) / COILS]
    maps = np.stack(
        [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4 + 1j * (0.3 * a * y + 0.2 * n)) for n, (a, b) in enumerate(places)]
    )
    maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    return (image[:, None] * maps).astype(np.complex64)


def row_of(path, **columns) -> ManifestRow:
    return ManifestRow(line=2, volume_id="v", path=str(path), **columns)


def kspace_row(path, **columns) -> ManifestRow:
    return row_of(path, kspace=str(path), **columns)


def check_same(volume, image, tolerance=1e-3):
    """The phase is compared where there is signal; of several coils up to the smooth phase of the virtual coil."""
    assert volume.magnitude.shape == image.shape
    scale = np.abs(image).max()
    np.testing.assert_allclose(volume.magnitude, np.abs(image), atol=tolerance * scale)
    found = volume.magnitude * np.exp(1j * volume.phase)
    np.testing.assert_allclose(found, image, atol=tolerance * scale)


def write_cfl(path, values):
    """As BART: dimensions of 16 axes, Fortran order."""
    path.with_suffix(".hdr").write_text(
        "# Dimensions\n" + " ".join(map(str, [*values.shape, *[1] * (16 - values.ndim)])) + "\n"
    )
    np.asarray(values, np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))
    return path.with_suffix(".cfl")


def write_mat_73(path, values):
    """As MATLAB: axes in reverse, complex numbers as pairs, a user block of 512 bytes with its mark."""
    with h5py.File(path, "w", userblock_size=512) as file:
        pair = np.zeros(values.T.shape, [("real", "<f4"), ("imag", "<f4")])
        pair["real"], pair["imag"] = values.T.real, values.T.imag
        file["kspace"] = pair
        file["kspace"].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124))
    return path


HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemFieldStrength_T>1.5</systemFieldStrength_T></acquisitionSystemInformation>
<encoding><encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{fx}</x><y>40</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rx}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>48</x><y>40</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory></encoding>
<sequenceParameters><TE>12</TE></sequenceParameters></ismrmrdHeader>"""


def write_mrd(path, kspace, first=0, trajectory="cartesian", averages=1, **head):
    """Acquisitions of `(slice coil height width)`, one per line, a noise scan first; lines from `first` on."""
    dtypes = pytest.importorskip("ismrmrd.hdf5")
    slices, coils, height, width = kspace.shape
    lines = [(z, line, a) for a in range(averages) for z in range(slices) for line in range(first, width)]
    records = np.zeros(len(lines) + 1, dtypes.acquisition_dtype)
    for number, (z, line, average) in enumerate([(0, 0, 0), *lines]):
        one = records[number]["head"]
        one["number_of_samples"], one["active_channels"], one["center_sample"] = height, coils, height // 2
        one["idx"]["kspace_encode_step_1"], one["idx"]["slice"], one["idx"]["average"] = (
            max(line - first, 0),
            z,
            average,
        )
        one["flags"] = 1 << 18 if number == 0 else 0
        for key, value in head.items():
            one["idx"][key] = number % value
        values = np.full((coils, height), 1e4) if number == 0 else kspace[z, :, :, line]
        records["data"][number] = np.ascontiguousarray(values, np.complex64).view(np.float32).ravel()
        records["traj"][number] = np.zeros(0, np.float32)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        text = group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))
        text[0] = HEADER.format(
            x=height, y=width, z=1, fx=2 * height, rx=HEIGHT, last=width - first - 1, center=width // 2 - first,
            trajectory=trajectory,
        ).encode()  # fmt: skip
        group["data"] = records
    return path


def write_twix(path, kspace, first=0):
    """Siemens VB: a protocol, then for every line and channel a header of 128 bytes and the samples."""
    slices, coils, height, width = kspace.shape
    protocol = "\n".join([
        "### ASCCONV BEGIN ###", "sSliceArray.asSlice[0].dReadoutFOV = 48", "sSliceArray.asSlice[0].dPhaseFOV = 40",
        "sSliceArray.asSlice[0].dThickness = 5", f"sKSpace.lBaseResolution = {height // 2}",
        f"sKSpace.lPhaseEncodingLines = {width}", "sKSpace.lPartitions = 1", "alTE[0] = 12000", "### ASCCONV END ###",
    ]).encode() + b"\n"  # fmt: skip
    body = struct.pack("<I", 1) + b"MeasYaps\0" + struct.pack("<I", len(protocol)) + protocol
    header = body.ljust(12000 - 4, b"\0")
    out = [struct.pack("<I", 12000), header]

    def mdh(mask, samples, channels, line=0, z=0, channel=0):
        block = bytearray(128)
        struct.pack_into("<I", block, 0, (128 + 8 * samples) * max(channels, 1))
        struct.pack_into("<IHH", block, 20, mask, 0, 0)
        struct.pack_into("<HH", block, 28, samples, channels)
        struct.pack_into("<HHH", block, 32, line, 0, z)
        struct.pack_into("<H", block, 64, height // 2)
        struct.pack_into("<H", block, 76, width // 2 - first)
        struct.pack_into("<H", block, 124, channel)
        return bytes(block)

    for z in range(slices):
        for line in range(first, width):
            for channel in range(coils):
                out.append(mdh(0, height, coils, line - first, z, channel))
                out.append(np.ascontiguousarray(kspace[z, channel, :, line], np.complex64).tobytes())
    out.append(mdh(1, 16, 1) + bytes(128))
    path.write_bytes(b"".join(out).ljust(512 * 100, b"\0"))
    return path


def oversampled(kspace):
    """k-space of twice the field of view along the readout."""
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    wide = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(HEIGHT // 2, HEIGHT // 2), (0, 0)])
    return fft2c(wide).astype(np.complex64)


LAYOUTS = {
    "npy": lambda folder, k: _npy(folder / "k.npy", k[:, 0]),
    "npy, one slice": lambda folder, k: _npy(folder / "k.npy", k[0, 0]),
    "mat 5": lambda folder, k: _mat(folder / "k.mat", k[:, 0].transpose(1, 2, 0)),
    "mat 7.3": lambda folder, k: kspace_row(write_mat_73(folder / "k.mat", k[:, 0].transpose(1, 2, 0))),
    "cfl": lambda folder, k: kspace_row(write_cfl(folder / "k.cfl", _bart(k[:, :1]))),
    "cc-359 npy": lambda folder, k: _npy(folder / "k.npy", _pairs(k[:, 0])),
    "cc-359 h5": lambda folder, k: kspace_row(_h5(folder / "k.h5", _pairs(k[:, 0]))),
    "mrd": lambda folder, k: kspace_row(write_mrd(folder / "k.mrd", k[:, :1])),
    "mrd in h5": lambda folder, k: kspace_row(write_mrd(folder / "k.h5", oversampled(k[:, :1]))),
    "twix": lambda folder, k: kspace_row(write_twix(folder / "meas_MID001.dat", oversampled(k[:, :1]))),
    "axes": lambda folder, k: _npy(folder / "k.npy", k[:, 0].transpose(2, 0, 1), axes="width slice height"),
    "fastMRI": lambda folder, k: kspace_row(_h5(folder / "k.h5", k[:, 0])),
}
SEVERAL = {
    "npy": lambda folder, k: _npy(folder / "k.npy", k),
    "mat 5": lambda folder, k: _mat(folder / "k.mat", k.transpose(2, 3, 1, 0)),
    "cfl": lambda folder, k: kspace_row(write_cfl(folder / "k.cfl", _bart(k))),
    "cc-359 h5": lambda folder, k: kspace_row(_h5(folder / "k.h5", _pairs(k.transpose(0, 2, 3, 1)))),
    "mrd": lambda folder, k: kspace_row(write_mrd(folder / "k.mrd", k)),
    "twix": lambda folder, k: kspace_row(write_twix(folder / "meas_MID001.dat", oversampled(k))),
    "fastMRI, M4Raw": lambda folder, k: kspace_row(_h5(folder / "k.h5", k)),
}


def _npy(path, values, **columns):
    np.save(path, values)
    return kspace_row(path, **columns)


def _mat(path, values):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"kspace": values, "note": "text"})
    return kspace_row(path)


def _h5(path, values):
    with h5py.File(path, "w") as file:
        file["kspace"] = values
    return path


def _bart(kspace):
    """Readout, phase, 1, coil, ..., slices as dimension 13."""
    return kspace.transpose(2, 3, 1, 0).reshape(*kspace.shape[2:], 1, kspace.shape[1], *[1] * 9, kspace.shape[0])


def _pairs(kspace):
    """CC-359: the zero frequency at index 0; real and imaginary parts of the channels in turn, as last axis."""
    channels = kspace if kspace.ndim == 4 else kspace[..., None]
    shifted = np.fft.ifftshift(channels, axes=(1, 2))
    return np.stack([shifted.real, shifted.imag], axis=-1).reshape(*shifted.shape[:3], -1).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_coil(layout, tmp_path):
    if layout == "twix":
        pytest.importorskip("mapvbvd")
    image = phantom()
    row = LAYOUTS[layout](tmp_path, fft2c(image)[:, None].astype(np.complex64))
    image = image[:1] if "one slice" in layout else image
    volume = read_volume(row)
    check_same(volume, image)
    assert describe_volume(row).shape == image.shape
    assert hash_source(row) == volume.source_sha256
    stated = layout in ("mrd", "mrd in h5", "twix")
    assert volume.spacing_mm == ((5.0, 2.0, 2.0) if stated else (1.0, 1.0, 1.0))
    assert ("spacing" in volume.acquisition) == (not stated)
    assert not stated or volume.te_ms == 12.0


@pytest.mark.parametrize("layout", SEVERAL)
def test_several_coils_are_combined_with_their_phase(layout, tmp_path):
    if layout == "twix":
        pytest.importorskip("mapvbvd")
    image = phantom()
    row = SEVERAL[layout](tmp_path, fft2c(coil_images(image)).astype(np.complex64))
    volume = read_volume(row)
    inside = np.abs(image) > 20
    np.testing.assert_allclose(volume.magnitude[inside], np.abs(image)[inside], rtol=0.15)
    error = np.angle(np.exp(1j * (volume.phase - np.angle(image))))[inside]
    error = np.angle(np.exp(1j * (error - np.angle(np.exp(1j * error).mean()))))
    assert np.sqrt((error**2).mean()) < 0.15  # what remains is the smooth phase of the virtual coil
    if layout != "fastMRI, M4Raw":
        assert "virtual coil" in volume.acquisition["coils"]
        assert any("virtual coil" in note for note in describe_volume(row).notes)


def test_complex_images_need_no_transform(tmp_path):
    image = phantom()
    write_cfl(tmp_path / "i.cfl", image.transpose(1, 2, 0).reshape(HEIGHT, WIDTH, SLICES))
    for row in (row_of(tmp_path / "i.cfl"), _mat(tmp_path / "i.mat", image.transpose(1, 2, 0))):
        path = row.path
        check_same(read_volume(row_of(path, phase=path)), image, 1e-6)
        assert read_volume(row_of(path)).phase is None
    real = _mat(tmp_path / "m.mat", np.abs(image).transpose(1, 2, 0)).path
    np.testing.assert_allclose(read_volume(row_of(real)).magnitude, np.abs(image))
    assert problem(row_of(real, phase=real))[0] == "mismatch"


def test_partial_kspace_is_told_and_undersampled_kspace_refused(tmp_path):
    kspace = fft2c(phantom()).astype(np.complex64)
    partial = kspace.copy()
    partial[..., :5] = 0
    volume = read_volume(_npy(tmp_path / "p.npy", partial))
    assert volume.acquisition["acquired_matrix"] == [HEIGHT, WIDTH - 5]
    assert volume.acquisition["partial_kspace"] == "samples 5 to 19 of 20 along width"
    filled = np.pad(kspace, [(0, 0), (4, 4), (6, 6)])
    acquisition = read_volume(_npy(tmp_path / "f.npy", filled)).acquisition
    assert acquisition["acquired_matrix"] == [HEIGHT, WIDTH]
    assert "partial_kspace" not in acquisition
    lines, points = kspace.copy(), kspace.copy()
    lines[..., 1::2] = 0
    points[:, np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH)) < 0.6] = 0
    for number, values in enumerate((lines, points, np.fft.ifftshift(lines, axes=(1, 2)))):
        reason, text = problem(_npy(tmp_path / f"u{number}.npy", values))
        assert reason == "unsupported"
        assert "k-space is undersampled" in text
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in kspace.shape[1:]), indexing="ij")
    read_volume(_npy(tmp_path / "e.npy", kspace * (y**2 + x**2 <= 1.01)))  # an ellipse is no undersampling
    late = read_volume(kspace_row(write_mrd(tmp_path / "late.mrd", kspace[:, None], first=4)))
    assert late.acquisition["partial_kspace"] == "samples 4 to 19 of 20 along width"
    averaged = kspace_row(write_mrd(tmp_path / "avg.mrd", kspace[:, None], averages=2))
    check_same(read_volume(averaged), phantom())


def test_partitions_are_transformed_too(tmp_path):
    image = phantom()
    along = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=0), axis=0, norm="ortho"), axes=0)
    values = fft2c(along).astype(np.complex64)
    check_same(read_volume(kspace_row(write_cfl(tmp_path / "k.cfl", values.transpose(1, 2, 0)))), image)
    check_same(read_volume(_npy(tmp_path / "k.npy", values, axes="partition height width")), image)


def problem(row):
    with pytest.raises(VolumeError) as caught:
        read_volume(row)
    assert "\n" not in str(caught.value)
    return caught.value.reason, str(caught.value)


def test_what_cannot_be_read_is_one_line(tmp_path):
    kspace = fft2c(phantom()).astype(np.complex64)
    broken = kspace.copy()
    broken[0, 0, 0] = np.nan
    assert problem(_npy(tmp_path / "nan.npy", broken))[0] == "not_finite"
    assert "real values" in problem(_npy(tmp_path / "real.npy", kspace.real))[1]
    assert "name its axes in the column axes" in problem(_npy(tmp_path / "five.npy", kspace[None, None]))[1]
    assert "expected the 2 of" in problem(_npy(tmp_path / "two.npy", kspace, axes="height width"))[1]
    assert "k-space is empty" in problem(_npy(tmp_path / "zero.npy", kspace * 0))[1]
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(600))
    assert problem(kspace_row(tmp_path / "x.mat"))[0] in ("unreadable", "ambiguous")
    (tmp_path / "x.cfl").write_bytes(b"1" * 64)
    assert "x.hdr" in problem(kspace_row(tmp_path / "x.cfl"))[1]
    short = write_cfl(tmp_path / "s.cfl", kspace.transpose(1, 2, 0))
    short.write_bytes(short.read_bytes()[:-8])
    assert "copy both files again" in problem(kspace_row(short))[1]
    two = _mat(tmp_path / "two.mat", kspace.transpose(1, 2, 0)).path
    import scipy.io

    scipy.io.savemat(two, {"a": kspace, "b": kspace})
    assert "name it in the column dataset" in problem(kspace_row(two))[1]
    assert "expected the variable c" in problem(kspace_row(two, dataset="c"))[1]
    spiral = write_mrd(tmp_path / "spiral.mrd", kspace[:, None], trajectory="spiral")
    assert "trajectory spiral; expected cartesian" in problem(kspace_row(spiral))[1]
    echoes = write_mrd(tmp_path / "echoes.mrd", kspace[:, None], contrast=2)
    assert "fill in the column echo" in problem(kspace_row(echoes))[1]
    (tmp_path / "meas_MID1.dat").write_bytes(b"\x10\0\0\0" * 100)
    assert "is no twix file" in problem(kspace_row(tmp_path / "meas_MID1.dat"))[1]
    (tmp_path / "k.nii").write_bytes(bytes(400))
    assert "is nifti; expected k-space of" in problem(kspace_row(tmp_path / "k.nii"))[1]


@pytest.mark.parametrize(
    "header", ["", "# Dimensions", "# Dimensions\n24 20 99999999999999999999", "# Dimensions\n-24"]
)
def test_a_header_of_bart_without_dimensions_is_one_line(header, tmp_path):
    (tmp_path / "x.cfl").write_bytes(bytes(24 * 20 * 8))
    (tmp_path / "x.hdr").write_text(header)
    reason, message = problem(kspace_row(tmp_path / "x.cfl"))
    assert reason == "unreadable" and "copy both files again" in message and "StopIteration" not in message


def test_bart_may_omit_the_second_dimension(tmp_path):
    (tmp_path / "x.cfl").write_bytes(np.ones(24, np.complex64).tobytes())
    (tmp_path / "x.hdr").write_text("# Dimensions\n24\n")
    row = kspace_row(tmp_path / "x.cfl")
    assert describe_volume(row).shape == read_volume(row).magnitude.shape == (1, 24, 1)


def test_a_plan_tells_what_the_type_tells(tmp_path):
    kspace = fft2c(phantom()).astype(np.complex64)
    for number, wrong in enumerate((kspace.real, np.abs(kspace).astype(int), kspace[:0])):
        row = _npy(tmp_path / f"{number}.npy", wrong)
        with pytest.raises(VolumeError) as caught:
            describe_volume(row)
        assert problem(row)[1] == str(caught.value)


def test_the_spacing_of_the_manifest(tmp_path):
    row = _npy(tmp_path / "k.npy", fft2c(phantom()).astype(np.complex64), spacing_mm=(4.0, 1.5, 2.0))
    volume = read_volume(row)
    assert volume.spacing_mm == (4.0, 1.5, 2.0)
    np.testing.assert_allclose(np.linalg.norm(np.array(volume.affine)[:3, :3], axis=0), (4.0, 1.5, 2.0))
    assert "spacing" not in volume.acquisition
    assert describe_volume(row).spacing_mm == (4.0, 1.5, 2.0)
    stated = kspace_row(write_mrd(tmp_path / "k.mrd", fft2c(phantom())[:, None]), spacing_mm=(4.0, 1.5, 2.0))
    assert "states a spacing of 5 x 2 x 2 mm; expected 4 x 1.5 x 2 mm" in problem(stated)[1]
    (tmp_path / "m.csv").write_text("volume_id,path,spacing_mm,axes\nv,k.npy,4 1.5,slice height\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.csv")
    assert "spacing_mm is '4 1.5'; expected three numbers of mm" in str(caught.value)
    assert "axes is 'slice height'; expected height, width and some of" in str(caught.value)


def test_a_corpus_of_real_phase(tmp_path):
    """Built from k-space: not synthetic, and an assumed spacing is in plan, receipt and index."""
    image = phantom()
    np.save(tmp_path / "a.npy", fft2c(image).astype(np.complex64))
    np.save(tmp_path / "b.npy", fft2c(coil_images(image)).astype(np.complex64))
    (tmp_path / "m.csv").write_text("volume_id,path,kspace,spacing_mm\na,a.npy,a.npy,4 1 1\nb,b.npy,b.npy,\n")
    manifest = read_manifest(tmp_path / "m.csv")
    plan = make_plan(manifest, str(tmp_path / "c.zarr"), BuildOptions(phase="real", workers=1))
    assert any(
        name == "b" and "1 mm is assumed; state it in the column spacing_mm" in note for note, _, name in plan.notes
    )
    assert plan.num_slices == 2 * SLICES
    recipe = make_recipe(BuildOptions(phase="real"))
    assert recipe.tile == Tile()
    store = CorpusStore.create(tmp_path / "c.zarr", recipe.attributes())
    worker = open_worker(str(tmp_path / "c.zarr"), recipe, environment_class("cpu"))
    receipts = {row.volume_id: build_volume(Task(row), worker).receipt for row in manifest}
    assert "spacing_assumed" not in receipts["a"]["audit"]
    assert receipts["b"]["audit"]["spacing_assumed"] == {"mm": [1.0, 1.0, 1.0]}
    write_index(store, ["a", "b"])
    slices = KSpaceSlices(tmp_path / "c.zarr")
    assert [slices[n][3]["synthetic"] for n in (0, 3)] == [False, False]
    assert KSpaceSlices(tmp_path / "c.zarr", without_audit="spacing_assumed").volumes == ["a"]
    kspace = slices[1][0] * receipts["a"]["scale"]
    np.testing.assert_allclose(kspace, fft2c(image)[1], atol=1e-3 * np.abs(kspace).max())
