"""The commands as Python functions, with the same option names and defaults, and results as objects.

Every function raises `RephaseError` where the command would exit with status 2. Long operations show a progress bar on
standard error if it is a terminal or a notebook.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rephase.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from rephase.builder.options import BuildOptions
    from rephase.builder.plan import Plan
    from rephase.builder.status import CorpusStatus
    from rephase.builder.summary import BuildSummary, RepairSummary
    from rephase.corpus.verify import VerifyResult
    from rephase.diffusion.generators import PhaseGenerator
    from rephase.exports.export import ExportSummary
    from rephase.manifests.manifest import Manifest

    Source = Manifest | Iterable[Mapping[str, object]] | str | os.PathLike[str]

__all__ = ["add_phase", "build", "build_phases", "export", "plan", "repair", "report", "status", "verify"]


def build(
    manifest: Source, corpus: str | os.PathLike[str], *, progress: bool = True, **options: object
) -> BuildSummary:
    """Build a corpus, or resume it: volumes that are committed are skipped.

    Parameters
    ----------
    manifest
        Path or URL of a manifest CSV; a manifest that was read; or rows, mappings from column to value, whose paths
        are relative to the working directory. Rows are kept in `<corpus>.run/rows-*.csv`, for `repair`.
    corpus
        Path or URL of the corpus.
    progress
        Show a progress bar on standard error.
    **options
        Those of `rephase build`, by the same names and defaults: `phase="smooth"`, `seed=1`, `workers=4`,
        `memory_limit="8GB"`, `overwrite=True`, ...

    Returns
    -------
    summary
        Volumes built, skipped and failed, each failure with its reason. `summary.exit_status` is that of the command;
        after Ctrl-C `summary.interrupted` is set and committed volumes remain.

    Raises
    ------
    RephaseError
        The manifest or an option is invalid, or another builder holds the lease; no volume was built.
    TypeError
        An option name is unknown.
    """
    from rephase.builder.run import build as build_corpus

    resolved = _build_options(options)
    return build_corpus(
        _manifest(manifest, corpus, resolved, keep=True), os.fspath(corpus), resolved, progress=progress
    )


def build_phases(
    manifest: Source,
    corpus: str | os.PathLike[str],
    phases: Sequence[str],
    *,
    progress: bool = True,
    **options: object,
) -> list[BuildSummary]:
    """Build or resume a corpus for each of several phases, from one reading of every source.

    Parameters
    ----------
    manifest, progress, options
        As `build`; `checkpoint`, `steps` and `replicas` hold for the phases that have them.
    corpus
        Path or URL, to whose name each phase is added: `brain-zero.zarr` for `brain.zarr`.
    phases
        Such as `["zero", "smooth", "diffusion"]`.

    Returns
    -------
    summaries
        In the order of the phases.
    """
    from rephase.builder.several import build_phases as build_all
    from rephase.builder.several import options_of, phase_roots
    from rephase.diffusion.phases import PHASES

    for phase in phases:
        if phase not in PHASES or list(phases).count(phase) > 1:
            raise RequestError(
                f"phases {list(phases)}: found {phase!r}; expected different ones of {', '.join(PHASES)}"
            )
    given: dict[str, object] = {name: options[name] for name in ("checkpoint", "steps", "replicas") if name in options}
    resolved = _build_options({name: value for name, value in options.items() if name not in given})
    parsed = {name: getattr(_build_options({"phase": "diffusion", **given}), name) for name in given}
    roots = phase_roots(os.fspath(corpus), phases)
    rows = _manifest(manifest, next(iter(roots.values())), resolved, keep=True)
    return build_all(rows, {roots[phase]: options_of(resolved, phase, parsed) for phase in phases}, progress=progress)


def plan(manifest: Source, corpus: str | os.PathLike[str], **options: object) -> Plan:
    """Compute the dry run of `build` with the same arguments: volumes, slices, bytes, memory, time."""
    from rephase.builder.plan import make_plan

    resolved = _build_options(options)
    return make_plan(_manifest(manifest, corpus, resolved, keep=False), os.fspath(corpus), resolved)


def status(corpus: str | os.PathLike[str]) -> CorpusStatus:
    """Read the committed volumes, the state of the last run, and the failures with reasons, also during a build."""
    from rephase.builder.status import read_status

    return read_status(os.fspath(corpus))


def verify(corpus: str | os.PathLike[str], *, workers: int | None = None) -> VerifyResult:
    """Check every checksum and invariant of a corpus; `result.ok` is True if no problem was found.

    `workers` is the number of threads; one per core if None.
    """
    from rephase.corpus.verify import verify_corpus

    return verify_corpus(os.fspath(corpus), workers)


def repair(
    corpus: str | os.PathLike[str],
    *,
    manifest: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    delete_unexpected: bool = False,
    progress: bool = True,
    **options: object,
) -> RepairSummary:
    """Check a corpus and rebuild only its damaged parts.

    Parameters
    ----------
    corpus
        Path or URL.
    manifest
        Path of the manifest that lists the sources; that of the latest run if None.
    checkpoint
        The weights with which the corpus was built; if None, the shipped ones or those named in the run log.
    dry_run
        Report the planned changes without making any.
    delete_unexpected
        Delete objects in the corpus that belong to no volume.
    progress
        Show a progress bar while volumes are rebuilt.
    **options
        Execution options, as in `build`: `workers`, `cluster`, `memory_limit`, ...; and `overwrite`.
    """
    from rephase.builder.repair import RepairOptions, repair_corpus
    from rephase.diffusion.shipped import find_checkpoint

    request = RepairOptions(
        None if manifest is None else os.fspath(manifest),
        None if checkpoint is None else find_checkpoint(os.fspath(checkpoint)),
        dry_run,
        delete_unexpected,
        _build_options(options),
    )
    return repair_corpus(os.fspath(corpus), request, bar=progress)


def export(
    corpus: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    format: str = "fastmri",  # noqa: A002 - as the command's option
    **options: object,
) -> ExportSummary:
    """Write the volumes of a corpus as files of another format; finished files are skipped.

    Parameters
    ----------
    corpus
        Path or URL.
    folder
        Output directory; created if missing.
    format
        "fastmri", "bart" or "ismrmrd".
    **options
        Those of `rephase export`: `split`, `contrast`, `volumes` (lists of names), `by_split`, `compression`.
    """
    from rephase.exports.export import ExportOptions, export_corpus

    names = {"split": "splits", "contrast": "contrasts"}
    values = {names.get(name, name): value for name, value in options.items()}
    known = {field.name for field in fields(ExportOptions)} - {"file_format"}
    _check_names("export", options, {name for name in (*known, *names) if name not in names.values()})
    request = ExportOptions(file_format=format, **values)  # type: ignore[arg-type]  # checked by ExportOptions
    return export_corpus(os.fspath(corpus), os.fspath(folder), request)


def report(
    corpus: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    volumes: int = 8,
    compare: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one HTML page about a corpus, with pictures of some volumes.

    Parameters
    ----------
    corpus
        Path or URL.
    output
        Path of the file; `<corpus>.run/report.html` if None.
    volumes
        Number of volumes shown with pictures.
    compare
        Path or URL of another corpus, compared with this one.

    Returns
    -------
    path
        Path of the page.
    """
    from rephase.reports.report import write_report

    return write_report(corpus, None if output is None else Path(output), num_volumes=volumes, compare=compare)


def add_phase(
    magnitude: ArrayLike,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    te_ms: float | None = None,
    field_t: float | None = None,
    sequence: str | None = None,
    seed: int = 0,
    generator: str | PhaseGenerator = "diffusion",
) -> NDArray[np.complex64]:
    """Sample a phase for magnitude slices, without manifest, Dask or corpus.

    Parameters
    ----------
    magnitude
        `(height width)` or `(slice height width)`, finite, >= 0, any scale; height is readout, width is phase encoding.
        Slices of one call are slices of one volume.
    spacing_mm
        (height, width), or (slice, height, width), which makes the phase of contiguous slices coherent.
    te_ms
        Echo time.
    field_t
        Field strength.
    sequence
        Family of the pulse sequence, one of `rephase.sequences.SEQUENCES`: a spin echo refocuses the field, so its echo
        time adds no phase. If None, it is inferred from the echo time.
    seed
        Equal seeds produce equal phase on machines of one type.
    generator
        As for `rephase build --phase`, except "real"; or a custom generator (`rephase.diffusion.generators`).

    Returns
    -------
    image
        complex64 of the same shape, `|image|` equal to the magnitude within float32 rounding. `fft2c` transforms it to
        k-space.

    Raises
    ------
    RephaseError
        If the magnitude, the spacing or the generator is unusable.
    """
    import numpy as np
    import torch

    from rephase.diffusion.generators import Conditions, SliceKey, WholeVolume
    from rephase.diffusion.registry import generator_for
    from rephase.pipeline.magnitude import prepare_magnitude
    from rephase.pipeline.pixel_audit import acquired_share
    from rephase.pipeline.sampling import CONTIGUOUS_MM
    from rephase.sequences import SEQUENCES, assume_sequence, dephasing_time_ms

    values = np.asarray(magnitude, dtype=np.float32)
    if values.ndim not in (2, 3):
        raise RequestError(f"magnitude: has shape {values.shape}; expected (height, width) or (slice, height, width)")
    spacing = None if spacing_mm is None else tuple(float(step) for step in spacing_mm)
    if spacing is not None and (len(spacing) not in (2, 3) or not all(0 < step < np.inf for step in spacing)):
        raise RequestError(f"spacing_mm: found {spacing_mm}; expected (height, width) or (slice, height, width) in mm")
    for name, fact in (("te_ms", te_ms), ("field_t", field_t)):
        if fact is not None and not 0 <= fact < np.inf:
            raise RequestError(f"{name}: found {fact}; expected a finite number >= 0, or None where it is not known")
    volume = values if values.ndim == 3 else values[None]
    prepared = prepare_magnitude(volume)
    if sequence not in (None, *SEQUENCES):
        raise RequestError(f"sequence {sequence!r}: expected one of {', '.join(SEQUENCES)}, or None if unknown")
    family = sequence or assume_sequence(None, te_ms)
    conditions = Conditions(
        None if spacing is None else (spacing[-2], spacing[-1]),
        dephasing_time_ms(family, te_ms),
        field_t,
        spacing[0] if spacing is not None and len(spacing) == 3 else None,
        family,
        acquired=acquired_share(prepared.stored),
    )
    if spacing is not None and len(spacing) == 3 and len(volume) > 1 and spacing[0] <= CONTIGUOUS_MM:
        whole = WholeVolume(torch.from_numpy(prepared.stored), (spacing[0], spacing[1], spacing[2]))
        conditions = dataclasses.replace(conditions, volume=whole)
    sampler = generator_for(_generator(generator) if isinstance(generator, str) else generator, family)
    keys = [SliceKey(seed, "volume", 0, slice_index) for slice_index in range(len(volume))]
    phasor = sampler.sample_phase(torch.from_numpy(prepared.stored), keys, conditions).cpu().numpy()
    image: NDArray[np.complex64] = np.multiply(volume, phasor, dtype=np.complex64).reshape(values.shape)
    return image


@lru_cache(maxsize=4)
def _generator(name: str) -> PhaseGenerator:
    """Load a generator once; loading its weights takes longer than sampling a slice."""
    from rephase.diffusion.devices import choose_device
    from rephase.diffusion.phases import generated_phases
    from rephase.diffusion.registry import make_generator

    if name not in generated_phases():
        raise RequestError(f"generator {name!r}: expected one of {', '.join(generated_phases())}")
    return make_generator(name, device=choose_device())


def _build_options(options: Mapping[str, object]) -> BuildOptions:
    """Return the options of a build, by their command-line names; texts are parsed as on the command line."""
    from rephase.builder.options import ARGUMENTS, BuildOptions

    _check_names("build", options, ARGUMENTS)
    return BuildOptions.from_values(options)


def _check_names(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError, as Python does for an unexpected keyword, and name the nearest one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def _manifest(source: Source, corpus: str | os.PathLike[str], options: BuildOptions, keep: bool) -> Manifest:
    """Read a manifest. Rows are written as one first: next to the corpus if `keep`, for `repair`, else temporarily."""
    from rephase.corpus.storage.base import run_folder
    from rephase.files import private_folder, replacing, sha256
    from rephase.manifests.manifest import Manifest
    from rephase.manifests.parse import read_manifest
    from rephase.text import is_url

    if isinstance(source, Manifest):
        return source
    if isinstance(source, str | os.PathLike):
        return read_manifest(source, options.read_columns)
    text = _csv_of(list(source))
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "rows.csv"
        path.write_text(text, encoding="utf-8")
        manifest = read_manifest(path, options.read_columns)  # wrong rows leave nothing next to the corpus
    if not keep:
        return manifest
    folder = run_folder(os.fspath(corpus))
    if is_url(folder):
        raise RequestError(f"{corpus}: rows need a local corpus, beside which they are kept; write a manifest CSV")
    # named by its content, so that the rows of an earlier run, which its log names, stay as they are
    path = Path(folder) / f"rows-{sha256(text.encode())[:12]}.csv"
    private_folder(path.parent)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return read_manifest(path, options.read_columns)


def _cell(value: object) -> str:
    """Format a value as a manifest has it: numbers of a tuple, such as `spacing_mm`, separated by blanks."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _csv_of(rows: list[Mapping[str, object]]) -> str:
    """Format rows as a manifest with absolute paths."""
    from rephase.manifests.manifest import PATH_COLUMNS
    from rephase.text import is_url

    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["volume_id", "path"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: _cell(value) for name, value in row.items() if value is not None}
        for name in PATH_COLUMNS:
            if cells.get(name) and not is_url(cells[name]):
                cells[name] = os.path.abspath(cells[name])  # noqa: PTH100 - `resolve` would follow links
        writer.writerow(cells)
    return file.getvalue()
