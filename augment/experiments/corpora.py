"""The corpora of an experiment, made where they are absent: one for each phase, of the same magnitudes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.experiments.arms import NATURAL, REAL, ZERO
from rephase.experiments.natural import write_pictures
from rephase.experiments.subjects import Rows, write_rows
from rephase.manifests.parse import read_manifest
from rephase.text import one_line

_SEED = 0


@dataclass(frozen=True)
class Corpora:
    """Paths of corpora by name, those of training data and those of test data.

    Attributes
    ----------
    train, test
        Paths by the name of the phase, `real` or `natural`.
    skipped
        One line for each volume that could not be built.
    """

    train: Mapping[str, Path]
    test: Mapping[str, Path]
    skipped: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Return a digest of the indexes, which name the receipts of all volumes."""
        digest = hashlib.sha256()
        for root in sorted({*self.train.values(), *self.test.values()}):
            digest.update(root.name.encode() + (root / INDEX_KEY).read_bytes())
        return digest.hexdigest()

    def sources(self, name: str, *, test: bool = False) -> dict[str, str]:
        """Return the SHA-256 of the source of each volume of a corpus."""
        store = CorpusStore.open((self.test if test else self.train)[name])
        receipts = {volume: store.receipt(volume) for volume in store.names()}
        return {volume: str(one["source_sha256"]) for volume, one in receipts.items() if one is not None}


def make_corpora(
    rows: Rows,
    names: Sequence[str],
    folder: Path,
    *,
    num_pictures: int,
    checkpoint: Path | None = None,
    workers: int | None = None,
) -> Corpora:
    """Build the corpora of the training arms, and of the tests on real and on zero phase, or resume them.

    Parameters
    ----------
    rows
        Training, test and magnitude rows.
    names
        Phases, `real` and `natural`.
    folder
        Where corpora and their manifests are.
    num_pictures
        Pictures of the corpus `natural`.
    checkpoint
        Weights of the phase `diffusion`; None for the shipped ones.
    workers
        Processes of each build.

    Raises
    ------
    RequestError
        If no volume of a corpus could be built, or a source changed between two builds; one line for each reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifests = {
        "real": write_rows(rows.manifest, rows.train, folder / "train-real.csv"),
        "synthetic": write_rows(rows.magnitudes_manifest, rows.magnitudes, folder / "train-synthetic.csv"),
        "test": write_rows(rows.manifest, rows.test, folder / "test.csv"),
    }
    train, test, skipped = dict[str, Path](), dict[str, Path](), list[str]()
    wanted = [("train", name) for name in dict.fromkeys(names)] + [("test", REAL), ("test", ZERO)]
    for kind, name in tqdm(wanted, desc="corpora", unit="corpus", disable=None):
        root = folder / f"{kind}-{name}.zarr"
        source = manifests["test" if kind == "test" else "real" if name == REAL else "synthetic"]
        phase = name
        if name == NATURAL:
            source, phase = write_pictures(folder / "natural", num_pictures), "smooth"
        skipped += _build(source, root, phase, checkpoint if name == "diffusion" else None, workers)
        (test if kind == "test" else train)[name] = root
    corpora = Corpora(train, test, list(dict.fromkeys(skipped)))
    _check_one_reading(corpora)
    return corpora


def _build(manifest: Path, root: Path, phase: str, checkpoint: Path | None, workers: int | None) -> list[str]:
    """Build one corpus and return the reasons of the volumes that failed."""
    options = BuildOptions(phase=phase, seed=_SEED, checkpoint=checkpoint, workers=workers, retry_failed=True)
    summary = build(read_manifest(manifest), str(root), options, say=lambda line: None, progress=False)
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.stopped:
        raise RequestError(f"{root}: {summary.stopped}; run the same command again to resume")
    failures = [f"{name}: {one_line(failure.message, 400)}" for name, failure in summary.failed.items()]
    if not summary.built + summary.skipped:
        what = "with real phase could be read" if phase == REAL else "could be built"
        raise RequestError("\n".join([f"{manifest.name}: no row {what}", *failures[:10]]))
    return failures


def _check_one_reading(corpora: Corpora) -> None:
    """Compare the sources of the synthetic corpora: all arms must have the same magnitudes."""
    seen: dict[str, tuple[str, str]] = {}
    for name in corpora.train:
        if name in (REAL, NATURAL):
            continue
        for volume, digest in corpora.sources(name).items():
            first, known = seen.setdefault(volume, (name, digest))
            if digest != known:
                raise RequestError(
                    f"{volume}: its source changed between the corpora {first} and {name}; expected one; delete "
                    f"{corpora.train[first].parent} to build them again"
                )
