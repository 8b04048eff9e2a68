"""A corpus written from augment/FORMAT.md alone, without any code of the package, is sound and read."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import xarray
import zarr
from paths import PROJECT

from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices

DOCUMENT = (PROJECT / "augment" / "FORMAT.md").read_text()
CONVENTIONS = json.loads(re.search(r"`conventions` is\n\n```json\n(.*?)```", DOCUMENT, re.S)[1])
SHAPE = (5, 12, 10)
SPACING = [3.0, 0.5, 0.75]
FIXED = {
    "acquisition": "AXT1", "affine": [[0, 0, 0.75, 0], [0, 0.5, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]], "anatomy": None,
    "audit": {}, "contrast": "T1", "encoding_size": [12, 10, 1], "environment": {"device": "cpu"}, "field_t": 3.0,
    "licence": None, "name": "head-01", "nfe": 0, "noise_sigma": 0.0, "num_slices": 5, "orientation": "SPL",
    "oversampling": 1.0, "padding_left": 0, "padding_right": 10, "patient_id": "s1", "phase_encode": "row",
    "phase_generator": "zero", "recon_size": [12, 10, 1], "replica": 0, "row_hash": "1" * 64, "scale": 2.0, "seed": 1,
    "source_sha256": "2" * 64, "spacing_mm": SPACING, "split": None, "storage": "kspace", "te_ms": None,
    "transposed": False,
}  # fmt: skip


def document(value: dict[str, Any], indent: int | None = 2) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def group(attributes: dict[str, Any]) -> bytes:
    return document({"attributes": attributes, "node_type": "group", "zarr_format": 3})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def array(folder: Path, name: str, values: np.ndarray, axes: list[str], fill: Any, dtype: str) -> dict[str, Any]:
    """Write an array of one shard; return its part of the receipt."""
    blosc = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE, blocksize=0, typesize=4)
    little, checked = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    options = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0, "typesize": 4}
    inner = [little, {"name": "blosc", "configuration": options}, checked]
    sharding = {
        "chunk_shape": [1, *values.shape[1:]], "codecs": inner, "index_codecs": [little, checked],
        "index_location": "end",
    }  # fmt: skip
    metadata = document(
        {
            "attributes": {}, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(values.shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}], "data_type": dtype,
            "dimension_names": axes, "fill_value": fill, "node_type": "array", "shape": list(values.shape),
            "storage_transformers": [], "zarr_format": 3,
        }
    )  # fmt: skip
    body, index, crcs = b"", b"", ""
    for part in values:
        packed = bytes(blosc.encode(np.ascontiguousarray(part)))
        chunk = packed + crc(packed)
        index += struct.pack("<QQ", len(body), len(chunk))
        crcs += chunk[-4:].hex()
        body += chunk
    shard = body + index + crc(index)
    (folder / name).mkdir(parents=True)
    (folder / name / "zarr.json").write_bytes(metadata)
    (folder / name / "c.0.0.0").write_bytes(shard)
    return {
        "arrays": {name: {"shape": list(values.shape), "dtype": dtype, "chunks_per_shard": len(values)}},
        "checksums": {f"{name}/zarr.json": sha256(metadata), f"{name}/c.0.0.0": sha256(shard)},
        "chunk_crc32c": {name: crcs},
    }


def write_corpus(root: Path) -> np.ndarray:
    """Write a corpus of one volume as the document says; return its magnitude."""
    rng = np.random.default_rng(0)
    magnitude = rng.random(SHAPE, dtype=np.float32) + 0.1
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(magnitude, axes), norm="ortho"), axes).astype(np.complex64)
    kspace = kspace + np.complex64(0)  # no -0.0
    recipe = {"algorithm": 13, "checkpoint_sha256": None, "format": 1, "phase": "zero", "seed": 1}
    digest = sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode())
    folder = root / "volumes" / "head-01"
    parts = [
        array(folder, "kspace", kspace, ["slice", "k_height", "k_width"], ["NaN", 0.0], "complex64"),
        array(folder, "reconstruction_esc", magnitude, ["slice", "height", "width"], "NaN", "float32"),
    ]
    space = [{"name": name, "type": "space", "unit": "millimeter"} for name in ("slice", "height", "width")]
    scale = {"path": "reconstruction_esc", "coordinateTransformations": [{"type": "scale", "scale": SPACING}]}
    receipt = {
        **FIXED, "recipe_hash": digest, "max": float(magnitude.max()),
        "norm": float(np.sqrt(np.square(magnitude.astype(np.float64)).sum())),
        "ome": {"version": "0.5", "multiscales": [{"axes": space, "datasets": [scale]}]},
        **{key: {name: value for part in parts for name, value in part[key].items()} for key in parts[0]},
    }  # fmt: skip
    root_attributes = {
        "checkpoint_hash": None, "conventions": CONVENTIONS, "format": 1, "recipe": recipe, "recipe_hash": digest,
        "seed": 1,
    }  # fmt: skip
    (root / "zarr.json").write_bytes(group(root_attributes))
    (root / "volumes" / "zarr.json").write_bytes(group({}))
    (folder / "zarr.json").write_bytes(group(receipt))
    write_the_index(root, receipt)
    return magnitude


def write_the_index(root: Path, receipt: dict[str, Any]) -> None:
    copied = (
        "name", "num_slices", "acquisition", "max", "norm", "patient_id", "split", "contrast", "anatomy", "field_t",
        "te_ms", "orientation", "scale", "phase_generator", "nfe", "noise_sigma", "oversampling", "padding_left",
        "padding_right", "storage", "seed", "replica",
    )  # fmt: skip
    row = {key: receipt[key] for key in copied} | {
        "num_coils": 0, "height": 12, "width": 10, "target": "reconstruction_esc", "target_height": 12,
        "target_width": 10, "kspace_chunks_per_shard": 5, "target_chunks_per_shard": 5, "has_mask": False,
        "has_segmentation": False, "has_sens_maps": False, "spacing_slice_mm": 3.0, "spacing_height_mm": 0.5,
        "spacing_width_mm": 0.75, "audit": [], "receipt_sha256": sha256(group(receipt)),
    }  # fmt: skip
    columns = {key: [value] for key, value in row.items()}
    attributes = {"num_volumes": 1, "columns": columns, "crc32": "0" * 8}
    whole = {"attributes": attributes, "node_type": "group", "zarr_format": 3}
    attributes["crc32"] = f"{zlib.crc32(document(whole, None)):08x}"
    (root / "index").mkdir()
    (root / "index" / "zarr.json").write_bytes(document(whole, None))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    root = tmp_path_factory.mktemp("document") / "c.zarr"
    return root, write_corpus(root)


def test_it_is_sound(written: tuple[Path, np.ndarray]) -> None:
    result = verify_corpus(written[0])
    assert (result.problems, result.num_volumes, result.num_slices) == ([], 1, 5)


def test_a_loader_reads_it(written: tuple[Path, np.ndarray]) -> None:
    root, magnitude = written
    _, _, target, attributes, name, _ = KSpaceSlices(root)[3]
    assert (name, attributes["max"]) == ("head-01", float(magnitude.max()))
    np.testing.assert_array_equal(target, magnitude[3])


def test_the_index_has_the_same_bytes_when_the_package_writes_it(written: tuple[Path, np.ndarray]) -> None:
    document_of = written[0] / "index" / "zarr.json"
    before = document_of.read_bytes()
    write_index(CorpusStore.open(written[0]), ["head-01"])
    assert document_of.read_bytes() == before


def test_zarr_reads_its_fill_value_as_documented(written: tuple[Path, np.ndarray]) -> None:
    volume = zarr.open_group(str(written[0]), mode="r")["volumes/head-01"]
    assert np.isnan(volume["kspace"].fill_value) and np.isnan(volume["reconstruction_esc"].fill_value)


def test_xarray_opens_a_volume_with_named_axes(written: tuple[Path, np.ndarray]) -> None:
    root, magnitude = written
    with xarray.open_zarr(str(root / "volumes" / "head-01"), consolidated=False, chunks=None) as volume:
        assert volume.reconstruction_esc.dims == ("slice", "height", "width")
        assert volume.kspace.dims == ("slice", "k_height", "k_width")
        np.testing.assert_array_equal(volume.reconstruction_esc.sel(slice=2), magnitude[2])
        (image,) = volume.attrs["ome"]["multiscales"]
        assert [axis["unit"] for axis in image["axes"]] == ["millimeter"] * 3
        assert image["datasets"][0]["coordinateTransformations"][0]["scale"] == SPACING
