from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus
from PIL import Image

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.runlog import RunLog
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.manifests.record import ManifestRow
from rephase.pictures import picture_kspace, picture_magnitude, picture_phase, signal_mask
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.task import Outcome, Task
from rephase.pipeline.worker import open_worker
from rephase.reports.facts import Candidate
from rephase.reports.report import write_report
from rephase.reports.samples import choose_volumes, read_sample

VOID = {"img", "input", "meta"}


@dataclass
class Page(HTMLParser):
    """What a page says, and whether its elements are nested as they must be."""

    images: dict[str, str] = field(default_factory=dict)
    graphics: list[str] = field(default_factory=list)
    bars: list[dict[str, str]] = field(default_factory=list)
    wheel: str = ""
    rows: list[list[str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    stack: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag == "img":
            self.images[found["alt"]] = found["src"]
        if tag == "svg":
            self.graphics.append(found["aria-label"])
        if tag == "rect" and "fill" in found:
            self.bars.append(found)
        if tag == "image":
            self.wheel = found["href"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & set(self.stack):
            return
        self.words += [data] if data.strip() else []
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def tile(self, name: str) -> str:
        return self.words[self.words.index(name) + 1]


def read_page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.stack == []
    assert text.startswith("<!DOCTYPE html>")
    assert (
        text.count("<script>") == text.count("<script") <= 1
    )  # that which sorts the table of volumes, without any data
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "url(" not in text
    assert "@import" not in text
    return page


def pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def numpy_kspace(image: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)


def commit(store: CorpusStore, name: str, image: np.ndarray, **attributes) -> None:
    coils = image.ndim == 4
    target = np.sqrt((np.abs(image) ** 2).sum(1)) if coils else np.abs(image)
    key = "reconstruction_rss" if coils else "reconstruction_esc"
    arrays = {"kspace": numpy_kspace(image) + 0, key: target.astype(np.float32)}
    store.commit_volume(name, arrays, make_attributes(arrays, **attributes))


def test_report_of_a_corpus_that_the_pipeline_built(tmp_path):
    rng = np.random.default_rng(3)
    rows = []
    for name, shape in {"small": (3, 24, 20), "wide": (5, 16, 48)}.items():
        magnitude = np.zeros(shape, np.float32)
        magnitude[:, 4:-4, 4:-4] = rng.uniform(50, 100, (shape[0], shape[1] - 8, shape[2] - 8))
        np.save(tmp_path / f"{name}.npy", magnitude)
        path = str(tmp_path / f"{name}.npy")
        rows.append(ManifestRow(2, name, path, contrast="T1", split="train", licence="CC0-1.0"))
    rows.append(ManifestRow(4, "gone", str(tmp_path / "Jane Doe" / "gone.npy")))
    root = str(tmp_path / "c.zarr")
    recipe = make_recipe(BuildOptions(phase="smooth", seed=11))
    CorpusStore.create(root, recipe.attributes())
    worker = open_worker(root, recipe, {"device": "cpu", "torch": "9.9"})
    with RunLog(root, {"num_volumes": 3, "num_workers": 1}) as log:
        for row in rows:
            log.record(build_volume(Task(row), worker), "f" * 64, recipe.hash, row.line)
        log.end({"num_open": 0})
    path = write_report(root)
    assert path == tmp_path / "c.zarr.run" / "report.html"
    page = read_page(path)
    assert page.tile("Volumes") == "2"
    assert page.tile("Slices") == "8"
    assert page.tile("Arrays") == f"{(3 * 24 * 20 + 5 * 16 * 48) * 12 / 1000:.3g} kB"
    assert page.tile("Failed") == "1"
    assert "1 volume failed" in page.text
    assert ["24 × 20", "1", ""] in page.rows
    assert ["CC0-1.0", "2", ""] in page.rows
    assert ["gradient-echo (assumed)", "2", ""] in page.rows
    assert ["recipe_hash", recipe.hash] in page.rows
    assert ["recipe.seed", "11"] in page.rows
    assert ["gone", "missing", "no"] in [row[:3] for row in page.rows]
    assert "Jane" not in path.read_text(encoding="utf-8")
    stages = {row[0] for row in page.rows if len(row) == 5}
    assert {"read", "sample", "kspace", "commit"} <= stages
    assert "torch 9.9" in page.text
    assert sum("Phase of slice" in alt for alt in page.images) == 2
    wide = next(uri for alt, uri in page.images.items() if alt.startswith("Magnitude") and alt.endswith("wide"))
    assert pixels(wide).shape == (16, 48, 3)


def test_pictures_show_the_stored_phase_in_the_colours_of_the_legend(tmp_path):
    magnitude = np.zeros((3, 32, 40), np.float32)
    magnitude[:, 8:24, 10:30] = 1.0
    magnitude[:, 8:24, 30:34] = 0.01
    phase = np.zeros(magnitude.shape)
    phase[:, :, 20:] = np.pi / 2
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    commit(store, "v", magnitude * np.exp(1j * phase))
    page = read_page(write_report(tmp_path / "c.zarr"))
    wheel = pixels(page.wheel)
    side = len(wheel)
    at = {angle: wheel[int(side / 2 - 0.4 * side * np.sin(angle)), int(side / 2 + 0.4 * side * np.cos(angle))]
          for angle in (0, np.pi / 2, np.pi, -np.pi / 2)}  # fmt: skip
    shown = pixels(page.images["Phase of slice 1 of volume v, colours as in the legend"])
    assert shown.shape == (32, 40, 3)
    assert np.abs(shown[8:24, 10:20] - at[0]).max() <= 6  # within one step of the palette
    assert np.abs(shown[8:24, 20:30] - at[np.pi / 2]).max() <= 6
    assert np.abs(at[0] - at[np.pi / 2]).max() > 50
    faded = shown[8:24, 30:34]
    assert np.ptp(faded, axis=-1).max() < np.ptp(at[np.pi / 2]) / 2
    assert (shown[:8] == 128).all()
    brightness = {angle: colour.sum() for angle, colour in at.items()}
    assert max(brightness, key=brightness.get) == 0
    assert min(brightness, key=brightness.get) == np.pi


def test_histogram_counts_the_pixels_of_the_object(tmp_path):
    image = np.zeros((1, 16, 16), complex)
    image[:, 4:12, 4:8] = np.exp(0.5j)
    image[:, 4:12, 8:9] = np.exp(-2.0j)
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    commit(store, "v", image)
    page = read_page(write_report(tmp_path / "c.zarr"))
    assert "Phase histogram 40 pixels of the object" in page.text
    assert "Histogram of the phase of slice 0 of volume v, from minus pi to pi" in page.graphics
    heights = np.array([float(bar["height"]) for bar in page.bars])
    centres = -np.pi + (np.arange(60) + 0.5) * 2 * np.pi / 60
    assert heights.shape == (60,)
    assert centres[np.argmax(heights)] == pytest.approx(0.5, abs=np.pi / 60)
    second = np.argsort(heights)[-2]
    assert centres[second] == pytest.approx(-2.0, abs=np.pi / 60)
    assert heights[second] / heights.max() == pytest.approx(8 / 32, abs=0.01)


def test_magnitude_and_kspace_pictures_have_the_grey_of_their_values():
    ramp = np.linspace(1, 2, 100, dtype=np.float32).reshape(10, 10)
    ramp[0, 0] = 50.0  # one hot pixel must not make the rest black
    grey = pixels(picture_magnitude(ramp).uri)[..., 0]
    white = np.percentile(ramp, 99.5)
    assert np.abs(grey - np.clip(ramp / white, 0, 1) * 255).max() <= 0.5
    kspace = np.zeros((8, 6), np.float32)
    kspace[4, 3], kspace[0, 0], kspace[1, 1] = 200.0, 0.02, 2e-4
    grey = pixels(picture_kspace(kspace).uri)[..., 0]
    assert grey[4, 3] == 255
    assert grey[0, 0] == round(255 / 5)
    assert grey[1, 1] == grey[2, 2] == 0


def test_large_matrices_are_shown_by_every_nth_pixel():
    image = np.exp(1j * np.linspace(-3, 3, 1200 * 700).reshape(1200, 700)).astype(np.complex64)
    picture = picture_phase(image, np.ones(image.shape, bool))
    assert picture.step == 3
    small = picture_phase(image[::3, ::3], np.ones((400, 234), bool))
    assert (pixels(picture.uri) == pixels(small.uri)).all()


def test_true_proportions_come_from_the_spacing(tmp_path):
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    commit(store, "v", np.ones((1, 20, 10), complex), spacing_mm=[5.0, 1.0, 3.0])
    text = write_report(tmp_path / "c.zarr").read_text(encoding="utf-8")
    styles = [part.split('style="')[1].split('"')[0] for part in text.split("<img")[1:]]
    thumbnails = ["height:66.67%;width:100.00%"] * 2
    assert styles == [*thumbnails, *["width:100.000%;height:66.667%"] * 2, "width:33.333%;height:100.000%"]


def test_odd_volumes_one_pixel_empty_slices_nothing_at_all_many_coils(tmp_path):
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    commit(store, "one", np.full((1, 1, 1), 2.0 + 0j))
    sparse = np.zeros((9, 12, 12), complex)
    sparse[7, 4:8, 4:8] = 1j
    commit(store, "sparse", sparse)
    commit(store, "zero", np.zeros((3, 8, 8), complex))
    coils = np.zeros((3, 2, 12, 12), complex)
    coils[:, 0, 2:10, 2:10], coils[:, 1, 2:10, 2:10] = 3.0, 4.0j
    commit(store, "coils", coils)
    page = read_page(write_report(tmp_path / "c.zarr"))
    assert "Magnitude of slice 7 of volume sparse" in page.images
    assert "Magnitude of slice 1 of volume zero, which is empty" in page.images
    assert (pixels(page.images["Magnitude of slice 1 of volume zero, which is empty"]) == 0).all()
    assert "phase of coil 1, the strongest of 2" in page.text
    assert ["12 × 12, 2 coils", "1", ""] in page.rows
    assert page.text.count("no signal Phase histogram") == 1
    sample = read_sample(store, "coils")
    assert sample.magnitude[5, 5] == pytest.approx(5.0, rel=1e-5)
    assert np.angle(sample.image[5, 5]) == pytest.approx(np.pi / 2, abs=1e-5)


def test_slice_of_most_signal_is_taken_from_the_middle_third(tmp_path):
    image = np.zeros((9, 6, 6), complex)
    image[:, 2:4, 2:4] = np.array([9, 1, 1, 1, 2, 3, 1, 1, 9])[:, None, None]
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    commit(store, "v", image)
    assert read_sample(store, "v").slice_index == 5


def test_oversampled_kspace_is_cropped_to_the_reconstruction(tmp_path):
    image = np.zeros((1, 16, 12), complex)
    image[:, 6:10, 4:8] = 1.0
    target = np.abs(image[:, 4:12]).astype(np.float32)
    arrays = {"kspace": numpy_kspace(image) + 0, "reconstruction_esc": target}
    attributes = make_attributes(arrays, oversampling=2.0)
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    store.commit_volume("v", arrays, attributes)
    sample = read_sample(store, "v")
    assert np.abs(sample.magnitude - target[0]).max() < 1e-6
    assert sample.kspace.shape == (16, 12)


def test_signal_of_an_almost_empty_slice_is_not_its_rounding():
    magnitude = np.full((40, 40), 1e-8, np.float32)
    magnitude[3, 4] = 1.0
    assert signal_mask(magnitude).sum() == 1
    assert not signal_mask(np.zeros((4, 4), np.float32)).any()


def test_every_text_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>&\''
    root = tmp_path / "a<b>&c.zarr"
    store = CorpusStore.create(root, {**ROOT_ATTRIBUTES, "note": {evil: evil}})
    arrays = make_arrays()
    store.commit_volume(
        "v", arrays, make_attributes(arrays, contrast=evil, licence=evil, anatomy=evil, audit={evil: 1},
                                     environment={evil: evil}, phase_generator=evil, split=evil)
    )  # fmt: skip
    with RunLog(str(root), {}) as log:
        log.record(Outcome("<i>x", "failed", evil, public=evil), "", "", 2)
    path = write_report(root)
    page = read_page(path)
    assert "alert" not in path.read_text(encoding="utf-8").replace("alert(&#34;1&#34;)", "")
    assert "<i>" not in path.read_text(encoding="utf-8")
    assert "a<b>&c.zarr" in page.words
    assert [evil, "1", ""] in page.rows
    assert ["<i>x", evil, "no", evil] in page.rows


def test_corpora_without_a_volume_or_with_failures_alone(tmp_path):
    CorpusStore.create(tmp_path / "empty.zarr", ROOT_ATTRIBUTES)
    page = read_page(write_report(tmp_path / "empty.zarr"))
    assert page.tile("Volumes") == "0"
    assert "No volume was built" in page.text
    assert "no run log" in page.text
    assert not page.images
    root = tmp_path / "failed.zarr"
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    with RunLog(str(root), {"num_volumes": 2}) as log:
        said = "/data/P 1/x.nii: is not there; correct it"
        log.record(Outcome("a", "failed", "missing", said, "row 2: is not there; correct it"), "", "", 2)
        log.record(Outcome("b", "failed", "negative", said, "volume b (row 3): 3 values below 0; clip"), "", "", 3)
        log.record(Outcome("c", "failed", "missing", said, said), "", "")  # by an earlier version
    page = read_page(write_report(root))
    assert page.tile("Failed") == "3"
    assert ["a", "missing", "no", "row 2: is not there; correct it"] in page.rows
    assert ["b", "negative", "no", "volume b (row 3): 3 values below 0; clip"] in page.rows
    assert ["c", "missing", "no", "logged by an earlier version, whose messages have paths"] in page.rows
    assert any(row[-1] == "not ended" for row in page.rows)


def test_a_damaged_volume_is_reported_and_the_others_are_shown(tmp_path):
    make_corpus(tmp_path / "c.zarr", good={}, bad={}, unread={})
    (tmp_path / "c.zarr/volumes/bad/kspace/c.0.0.0").write_bytes(b"torn")
    (tmp_path / "c.zarr/volumes/unread/zarr.json").write_bytes(b"{")
    page = read_page(write_report(tmp_path / "c.zarr"))
    assert "volume bad: volumes/bad/kspace/c.0.0.0" in page.text
    assert "Magnitude of slice 1 of volume good" in page.images
    assert "Unreadable receipts: unread." in page.text


def test_failed_volumes_of_an_earlier_run_are_marked(tmp_path):
    make_corpus(tmp_path / "c.zarr", v={})
    with RunLog(str(tmp_path / "c.zarr"), {}) as log:
        log.record(Outcome("v", "failed", "changed", public="row 2: was committed from other bytes"), "", "", 2)
    page = read_page(write_report(tmp_path / "c.zarr"))
    assert ["v", "changed", "from an earlier run", "row 2: was committed from other bytes"] in page.rows


def test_choice_of_volumes_spreads_and_does_not_depend_on_order():
    many = [Candidate(f"a{i}", "T1", (64, 64), 3) for i in range(50)]
    few = [Candidate("b0", "T1", (32, 32), 3), Candidate("c0", "T2", (64, 64), 3), Candidate("d0", "PD", (8, 8), 1)]
    chosen = choose_volumes(many + few, 5)
    assert {"b0", "c0", "d0"} <= {one.name for one in chosen}
    assert len({one.name for one in chosen}) == 5
    assert choose_volumes([*few, *reversed(many)], 5) == chosen
    assert choose_volumes(few, 10) == sorted(few, key=lambda one: one.contrast)
    assert choose_volumes([], 3) == []


def test_report_is_never_written_into_the_hierarchy(tmp_path):
    make_corpus(tmp_path / "c.zarr", v={})
    with pytest.raises(RequestError, match="inside the corpus"):
        write_report(tmp_path / "c.zarr", tmp_path / "c.zarr" / "volumes" / "report.html")
    with pytest.raises(RequestError, match="is a directory"):
        write_report(tmp_path / "c.zarr", tmp_path)
    with pytest.raises(RequestError, match="no corpus here"):
        write_report(tmp_path / "nothing.zarr")
    out = tmp_path / "new" / "page.html"
    assert write_report(tmp_path / "c.zarr", out, num_volumes=0) == out
    assert "No images were requested" in read_page(out).text
    assert json.loads((tmp_path / "c.zarr/zarr.json").read_bytes())["attributes"]["seed"] == 7
