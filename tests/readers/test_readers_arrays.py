import hashlib
import math

import h5py
import nibabel as nib
import numpy as np
import pytest

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.registry import describe_row, hash_source, probe, read_volume

HEADER = b"""<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><acquisitionSystemInformation>
<systemFieldStrength_T>2.8936</systemFieldStrength_T></acquisitionSystemInformation><encoding>
<encodedSpace><matrixSize><x>24</x><y>18</y><z>1</z></matrixSize>
<fieldOfView_mm><x>280</x><y>150</y><z>4.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>12</x><y>16</y><z>1</z></matrixSize>
<fieldOfView_mm><x>120</x><y>80</y><z>3</z></fieldOfView_mm></reconSpace></encoding>
<sequenceParameters><TR>2500</TR><TE>27.5</TE></sequenceParameters></ismrmrdHeader>"""


def row_of(path, **columns):
    return ManifestRow(line=2, volume_id="v", path=str(path), **columns)


def problem_of(row, **arguments):
    with pytest.raises(VolumeError) as caught:
        read_volume(row, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value.reason, str(caught.value)


def phantom(shape=(4, 7, 6), seed=0):
    return np.random.default_rng(seed).rayleigh(100, shape).astype(np.float32)


def write_h5(path, attributes=None, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        file.attrs.update(attributes or {})
    return path


def fft2c(image):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def test_three_readers_give_the_same_volume_of_one_phantom(tmp_path):
    axial = phantom()
    np.save(tmp_path / "p.npy", axial)
    write_h5(tmp_path / "p.h5", reconstruction_rss=axial)
    # As some converter may leave it: axes (superior, right, anterior), all but the first against LPS.
    affine = np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    nib.Nifti1Image(axial[:, ::-1, ::-1].transpose(0, 2, 1), affine).to_filename(tmp_path / "p.nii.gz")
    volumes = [read_volume(row_of(tmp_path / name, slice_axis=0)) for name in ("p.npy", "p.h5", "p.nii.gz")]
    for volume in volumes:
        np.testing.assert_array_equal(volume.magnitude, axial)
        assert volume.magnitude.dtype == np.float32
        assert (volume.orientation, volume.spacing_mm, volume.transposed) == ("SPL", (1.0, 1.0, 1.0), False)
        np.testing.assert_array_equal(np.array(volume.affine)[:3, :3], np.array(volumes[0].affine)[:3, :3])
        assert volume.phase is volume.segmentation is None
    assert "orientation" in volumes[0].acquisition
    assert "orientation" not in volumes[2].acquisition


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.int32, np.float16, np.float64])
def test_npy_of_any_numbers(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    path = tmp_path / "a.npy"
    np.save(path, array)
    row = row_of(path)
    volume = read_volume(row)
    np.testing.assert_array_equal(volume.magnitude, array.astype(np.float32))
    assert volume.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == hash_source(row)
    assert describe_row(row) == (3, 4, 5)
    assert (volume.acquisition["source_format"], volume.acquisition["spacing"]) == ("npy", "assumed: 1 mm")


def test_npy_of_one_slice_and_of_another_slice_axis(tmp_path):
    np.save(tmp_path / "a.npy", phantom()[0])
    np.save(tmp_path / "b.npy", np.moveaxis(phantom(), 0, 2))
    np.testing.assert_array_equal(read_volume(row_of(tmp_path / "a.npy")).magnitude, phantom()[:1])
    row = row_of(tmp_path / "b.npy", slice_axis=2)
    np.testing.assert_array_equal(read_volume(row).magnitude, phantom())
    assert describe_row(row) == (4, 7, 6)


def test_complex_npy(tmp_path):
    image = phantom() * np.exp(1j * np.random.default_rng(1).uniform(-3, 3, (4, 7, 6)))
    path = tmp_path / "c.npy"
    np.save(path, image)
    assert read_volume(row_of(path)).phase is None
    volume = read_volume(row_of(path, phase=str(path)))
    np.testing.assert_allclose(volume.magnitude * np.exp(1j * volume.phase), image, rtol=1e-5)


def test_bad_npy(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", phantom())
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "four.npy", np.zeros((1, 2, 3, 4)))
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 3)))
    np.save(tmp_path / "phase.npy", np.random.default_rng(0).uniform(-math.pi, math.pi, (4, 32, 32)))
    np.save(tmp_path / "whole.npy", phantom())
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("hello")
    expected = {
        "objects.npy": "unreadable", "archive.npz": "unsupported", "words.npy": "unsupported",
        "four.npy": "unsupported", "none.npy": "unsupported", "phase.npy": "not_magnitude", "short.npy": "unreadable",
        "text.npy": "unreadable", "gone.npy": "missing",
    }  # fmt: skip
    assert {name: problem_of(row_of(tmp_path / name, format="npy"))[0] for name in expected} == expected
    assert problem_of(row_of(tmp_path / "whole.npy"), limit_bytes=1000)[0] == "too_large"


def test_fastmri_reconstruction_and_its_header(tmp_path):
    image = phantom((3, 12, 16))
    attributes = {"acquisition": "AXFLAIR", "patient_id": "hidden", "max": image.max()}
    path = write_h5(tmp_path / "f.h5", attributes, reconstruction_rss=image, ismrmrd_header=np.bytes_(HEADER))
    volume = read_volume(row_of(path))
    np.testing.assert_array_equal(volume.magnitude, image)
    assert volume.spacing_mm == (3.0, 10.0, 5.0)
    assert (volume.te_ms, volume.field_t, volume.contrast) == (27.5, 2.8936, "FLAIR")
    assert (volume.phase_encode, volume.transposed) == ("row", False)
    assert "hidden" not in str(volume.acquisition)
    by_hand = read_volume(row_of(path, te_ms=1.0, field_t=1.5, contrast="T1"))
    assert (by_hand.te_ms, by_hand.field_t, by_hand.contrast) == (1.0, 1.5, "T1")


def test_single_coil_files_give_their_own_target(tmp_path):
    esc, rss = phantom((2, 8, 8), 1), phantom((2, 8, 8), 2)
    kspace = np.zeros((2, 16, 8), np.complex64)
    single = write_h5(tmp_path / "s.h5", kspace=kspace, reconstruction_esc=esc, reconstruction_rss=rss)
    multi = write_h5(tmp_path / "m.h5", kspace=kspace[:, None], reconstruction_rss=rss)
    np.testing.assert_array_equal(read_volume(row_of(single)).magnitude, esc)
    np.testing.assert_array_equal(read_volume(row_of(single, dataset="reconstruction_rss")).magnitude, rss)
    np.testing.assert_array_equal(read_volume(row_of(multi)).magnitude, rss)


def test_any_dataset_by_name_and_bad_hdf5(tmp_path):
    path = tmp_path / "x.bin"
    with h5py.File(path, "w") as file:
        file["images/t1"] = phantom().transpose(1, 2, 0)
        file["words"] = np.bytes_(b"x")
        file.create_dataset("huge", (100_000, 100_000, 1000), np.float32, chunks=(1, 64, 64))
        file.create_dataset("other", (1, 4, 4), np.int32, external=[(str(tmp_path / "text.h5"), 0, 64)])
    np.testing.assert_array_equal(read_volume(row_of(path, dataset="images/t1", slice_axis=2)).magnitude, phantom())
    assert problem_of(row_of(path, dataset="huge"), limit_bytes=10**9)[0] == "too_large"
    reason, message = problem_of(row_of(path))
    assert reason == "ambiguous"
    assert "images" in message
    assert problem_of(row_of(path, dataset="images"))[0] == "mismatch"
    assert problem_of(row_of(path, dataset="nothing"))[0] == "mismatch"
    assert problem_of(row_of(path, dataset="words"))[0] == "unsupported"
    assert problem_of(row_of(path, dataset="other"))[0] == "unsupported"
    (tmp_path / "text.h5").write_text("no HDF5 at all, and longer than sixty-four bytes, which is what is looked at")
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:3000])
    assert problem_of(row_of(tmp_path / "text.h5"))[0] == "unreadable"
    assert problem_of(row_of(tmp_path / "short.h5"))[0] == "unreadable"


def complex_phantom(shape=(3, 24, 20)):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    magnitude = np.where(x**2 + y**2 < 0.8, 1 + 0.3 * rng.random(shape), 0)
    return magnitude * np.exp(1j * (1.5 * x + y**2 + 0.4)), x, y


def test_single_coil_kspace_yields_the_complex_image(tmp_path):
    image, _, _ = complex_phantom()
    path = write_h5(tmp_path / "k.h5", kspace=fft2c(image).astype(np.complex64))
    row = row_of(path, kspace=str(path))
    volume = read_volume(row)
    np.testing.assert_allclose(volume.magnitude * np.exp(1j * volume.phase), image, atol=1e-5)
    assert describe_row(row) == image.shape
    assert volume.source_sha256 == hash_source(row)
    cut = write_h5(
        tmp_path / "cut.h5",
        kspace=fft2c(image).astype(np.complex64),
        reconstruction_esc=np.ones((3, 12, 20), np.float32),
    )
    row = row_of(cut, kspace=str(cut))
    np.testing.assert_allclose(read_volume(row).magnitude, np.abs(image[:, 6:18]), atol=1e-5)
    assert describe_row(row) == (3, 12, 20)


def test_multi_coil_kspace_keeps_magnitude_and_phase(tmp_path):
    image, x, y = complex_phantom((3, 64, 64))
    centres = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    maps = np.stack(
        [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 3 + 1j * (0.3 * a * x + 0.8 * i)) for i, (a, b) in enumerate(centres)]
    )
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    kspace = fft2c(image[:, None] * maps).astype(np.complex64)
    path = write_h5(tmp_path / "k.h5", kspace=kspace)
    volume = read_volume(row_of(path, kspace=str(path)))
    inside = x**2 + y**2 < 0.6
    np.testing.assert_allclose(volume.magnitude[:, inside], np.abs(image)[:, inside], rtol=0.03)
    # The phase is the object's plus one smooth offset that all slices share.
    offset = volume.magnitude * np.exp(1j * volume.phase) * np.conj(image)
    phasor = offset / np.where(np.abs(offset) > 0, np.abs(offset), 1)
    mean = phasor[:, inside].mean()
    assert np.abs(mean) > 0.97
    assert np.abs(phasor[0] - phasor[2])[inside].max() < 0.1
    again = read_volume(row_of(path, kspace=str(path)))
    np.testing.assert_array_equal(again.phase, volume.phase)


@pytest.mark.parametrize("place", [(0, 1, 3, 3), (0, 1, 32, 32)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_kspace_that_is_not_finite_is_refused(tmp_path, place, value):
    kspace = np.ones((2, 3, 64, 64), np.complex64)
    kspace[place] = value
    path = write_h5(tmp_path / "k.h5", kspace=kspace, reconstruction_rss=np.ones((2, 64, 64), np.float32))
    reason, message = problem_of(row_of(path, kspace=str(path)))
    assert reason == "not_finite" and "k-space" in message


@pytest.mark.parametrize("coils", [(), (3,)])
def test_kspace_with_lines_of_zeros_between_others_is_undersampled(tmp_path, coils):
    kspace = fft2c(np.random.default_rng(0).normal(size=(2, *coils, 32, 32))).astype(np.complex64)
    kspace[..., :4] = 0  # partial Fourier and padding are no gaps
    partial = write_h5(tmp_path / "a.h5", kspace=kspace)
    assert read_volume(row_of(partial, kspace=str(partial))).magnitude.shape == (2, 32, 32)
    kspace[..., [n for n in range(32) if n % 4 and abs(n - 16) > 2]] = 0
    path = write_h5(tmp_path / "b.h5", kspace=kspace)
    for row in (row_of(path, kspace=str(path)), row_of(path)):
        reason, message = problem_of(row)
        assert reason == "unsupported" and "11 of 25" in message


def test_undersampled_or_odd_kspace_is_refused(tmp_path):
    kspace = np.ones((2, 8, 8), np.complex64)
    masked = write_h5(tmp_path / "a.h5", kspace=kspace, mask=np.ones(8))
    real = write_h5(tmp_path / "b.h5", kspace=kspace.real)
    empty = write_h5(tmp_path / "c.h5", other=kspace)
    assert problem_of(row_of(masked, kspace=str(masked)))[0] == "unsupported"
    assert problem_of(row_of(real, kspace=str(real)))[0] == "unsupported"
    assert problem_of(row_of(empty, kspace=str(empty)))[0] == "mismatch"


def test_formats_by_signature_without_a_suffix(tmp_path):
    np.save(tmp_path / "a.npy", phantom())
    (tmp_path / "a.npy").rename(tmp_path / "array")
    write_h5(tmp_path / "recon", reconstruction_rss=phantom())
    nib.Nifti1Image(phantom(), np.eye(4)).to_filename(tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").rename(tmp_path / "image")
    assert [
        read_volume(row_of(tmp_path / name)).acquisition["source_format"] for name in ("array", "recon", "image")
    ] == [
        "npy",
        "hdf5",
        "nifti",
    ]


def test_urls_are_opened_by_fsspec(tmp_path):
    import fsspec

    np.save(tmp_path / "a.npy", phantom())
    content = (tmp_path / "a.npy").read_bytes()
    with fsspec.open("memory://readers/a.npy", "wb") as file:
        file.write(content)
    row = row_of("memory://readers/a.npy")
    volume = read_volume(row)
    np.testing.assert_array_equal(volume.magnitude, phantom())
    assert volume.source_sha256 == hashlib.sha256(content).hexdigest() == hash_source(row)
    assert describe_row(row) == (4, 7, 6)
    assert problem_of(row_of("memory://readers/gone.npy"))[0] == "missing"
    assert problem_of(row_of("nosuchscheme://x/a.npy"))[0] == "unreadable"
    np.testing.assert_array_equal(read_volume(row_of((tmp_path / "a.npy").as_uri())).magnitude, phantom())


def test_associated_npy_files_follow_the_axes_of_the_magnitude_file(tmp_path):
    np.save(tmp_path / "m.npy", np.moveaxis(phantom(), 0, 2))
    phase = np.random.default_rng(2).uniform(-3, 3, (7, 6, 4)).astype(np.float32)
    np.save(tmp_path / "p.npy", phase)
    np.save(tmp_path / "bad.npy", phase[:3])
    np.save(tmp_path / "nan.npy", phase * np.nan)
    np.save(tmp_path / "hz.npy", phase * 100)
    row = row_of(tmp_path / "m.npy", slice_axis=2, phase=str(tmp_path / "p.npy"))
    np.testing.assert_allclose(read_volume(row).phase, np.moveaxis(phase, 2, 0), atol=1e-6)
    for name, reason in (("bad", "mismatch"), ("nan", "not_finite"), ("hz", "unsupported")):
        assert problem_of(row_of(tmp_path / "m.npy", slice_axis=2, phase=str(tmp_path / f"{name}.npy")))[0] == reason


def test_probe_of_a_folder(tmp_path):
    image = phantom((3, 12, 16))
    kspace = np.ones((3, 24, 18), np.complex64)
    attributes = {"acquisition": "AXT2", "patient_id": "p1"}
    write_h5(tmp_path / "f.h5", attributes, reconstruction_esc=image, kspace=kspace, ismrmrd_header=np.bytes_(HEADER))
    write_h5(tmp_path / "unknown.h5", stuff=image)
    (tmp_path / "bad.h5").write_text("x")
    nib.Nifti1Image(phantom(), np.eye(4)).to_filename(tmp_path / "sub-7_T1w.nii.gz")
    (tmp_path / "notes.txt").write_text("nothing to see")
    np.save(tmp_path / "array.npy", image)
    probed = probe(sorted(tmp_path.iterdir()))
    assert [(path.name, bool(reason)) for path, reason in probed.unreadable] == [("bad.h5", True)]
    found = {(header.path.name, header.kind): header for header in probed.headers}
    assert set(found) == {("f.h5", "magnitude"), ("f.h5", "kspace"), ("sub-7_T1w.nii.gz", "magnitude")}
    fastmri = found["f.h5", "magnitude"]
    assert (fastmri.num_slices, fastmri.height, fastmri.width, fastmri.contrast) == (3, 12, 16, "T2")
    assert (fastmri.te_ms, fastmri.field_t, fastmri.subject_key) == (27.5, 2.8936, "p1")
    assert found["f.h5", "kspace"].pair_key == fastmri.pair_key
    nifti = found["sub-7_T1w.nii.gz", "magnitude"]
    assert (nifti.contrast, nifti.subject_key) == ("T1", str(tmp_path / "sub-7"))


def test_the_transform_of_arrays_is_that_of_tensors():
    import torch

    from rephase.diffusion.fourier import ifft2c
    from rephase.numpy_fourier import ifft2c_array

    random = np.random.default_rng(3)
    for shape in ((2, 8, 6), (2, 7, 9)):
        kspace = (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)
        np.testing.assert_allclose(ifft2c_array(kspace), ifft2c(torch.from_numpy(kspace)).numpy(), atol=1e-6)


def test_a_header_that_python_could_not_parse_beside_another_thread_is_read_again(tmp_path, monkeypatch):
    """`ast.literal_eval` may raise SystemError where two threads are in it (gh-106905)."""
    np.save(tmp_path / "v.npy", np.ones((2, 3, 4), np.float32))
    sound, calls = np.lib.format.open_memmap, []

    def first_fails(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=72, after=68)")
        return sound(*arguments, **keywords)

    monkeypatch.setattr(np.lib.format, "open_memmap", first_fails)
    assert read_volume(row_of(tmp_path / "v.npy")).magnitude.shape == (2, 3, 4)
    assert len(calls) == 2
