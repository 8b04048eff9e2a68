"""The corpora of an experiment, made where they are absent: one for each phase, of the same magnitudes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from rephase.builder.options import BuildOptions
from rephase.builder.shared import SharedCluster, one_cluster
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.experiments.arms import NATURAL, REAL, ZERO
from rephase.experiments.natural import write_pictures
from rephase.experiments.subjects import Rows, write_rows
from rephase.files import replacing, sha256
from rephase.manifests.manifest import PATH_COLUMNS
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

    def digests(self) -> dict[str, str]:
        """Return a digest of each index, which names the receipts of all volumes, as `train-zero` or `test-zero`."""
        roots = sorted({*self.train.values(), *self.test.values()})
        return {root.stem: sha256((root / INDEX_KEY).read_bytes()) for root in roots}

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
    # real data first: what they lack is told before anything long
    wanted = [("train", REAL), ("test", REAL), *(("train", name) for name in names if name != REAL), ("test", ZERO)]
    train, test, skipped = dict[str, Path](), dict[str, Path](), list[str]()
    with ExitStack() as stack:
        builder = None
        for kind, name in tqdm(list(dict.fromkeys(wanted)), desc="corpora", unit="corpus", disable=None):
            root = folder / f"{kind}-{name}.zarr"
            source = manifests["test" if kind == "test" else "real" if name == REAL else "synthetic"]
            options = BuildOptions(phase=name if name != NATURAL else "smooth", seed=_SEED, retry_failed=True)
            if name == NATURAL:
                source = write_pictures(folder / "natural", num_pictures)
            if name == "diffusion":
                options = replace(options, checkpoint=checkpoint)
            note = root.with_suffix(".json")
            made_of = _made_of(source, checkpoint if name == "diffusion" else None)
            failures = _noted(note, made_of)
            if failures is None:
                builder = builder or stack.enter_context(one_cluster(workers))
                failures = _build(builder, source, root, options)
                with replacing(note) as partial:
                    partial.write_text(json.dumps({"made_of": made_of, "failures": failures}), encoding="utf-8")
            skipped += failures
            (test if kind == "test" else train)[name] = root
    corpora = Corpora(train, test, list(dict.fromkeys(skipped)))
    _check_one_reading(corpora)
    return corpora


def check_single_coil(corpora: Corpora) -> None:
    """Refuse corpora with coils, which no network of the experiments reads.

    Raises
    ------
    RequestError
        If there are any.
    """
    for root in (*corpora.train.values(), *corpora.test.values()):
        slices = KSpaceSlices(root)
        if slices.volume_matrix(0)[0]:
            raise RequestError(f"{root}: has several coils; expected single-coil k-space")


def _made_of(manifest: Path, checkpoint: Path | None) -> str:
    """Return a digest of the rows, and of size and time of the files that they name, as `make` compares them."""
    paths = {getattr(row, name) for row in read_manifest(manifest) for name in PATH_COLUMNS} | {checkpoint}
    facts = []
    for path in sorted(str(path) for path in paths if path is not None):
        found = Path(path).stat() if Path(path).is_file() else None
        facts.append((path, found and found.st_size, found and found.st_mtime_ns))
    return sha256((manifest.read_text("utf-8") + json.dumps(facts)).encode())


def _noted(note: Path, made_of: str) -> list[str] | None:
    """Return the failures of a corpus that is complete; None if it must be built, or is of other rows."""
    try:
        found = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return list(found["failures"]) if found.get("made_of") == made_of and note.with_suffix(".zarr").is_dir() else None


def _build(builder: SharedCluster, manifest: Path, root: Path, options: BuildOptions) -> list[str]:
    """Build one corpus and return the reasons of the volumes that failed."""
    summary = builder.build(read_manifest(manifest), str(root), options)
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.stopped:
        raise RequestError(f"{root}: {summary.stopped}; run the same command again to resume")
    failures = [f"{name}: {one_line(failure.message, 400)}" for name, failure in summary.failed.items()]
    if not summary.built + summary.skipped:
        what = "with real phase could be read" if options.phase == REAL else "could be built"
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
