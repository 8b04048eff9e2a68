"""`rephase evaluate phase`: read, sample, measure, compare, classify, write."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rephase.diffusion.registry import make_generator
from rephase.errors import RequestError, VolumeError
from rephase.evaluation.candidates import Candidate
from rephase.evaluation.classifier import CONTROLS, FamilySeparation, classify, num_trainings
from rephase.evaluation.comparison import Evaluation, compare_all
from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.page import Example, make_page
from rephase.evaluation.patches import Item, make_items
from rephase.evaluation.sampling import Sampler, code_digest, decode
from rephase.evaluation.scores import Score, sample_diversity, score_session
from rephase.evaluation.sessions import WITHHOLDABLE, RealVolume, group_sessions, read_real
from rephase.evaluation.tables import markdown
from rephase.files import replacing
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.manifests.splits import HELD_BACK, rows_of_split
from rephase.manifests.where import parse_where, rows_where
from rephase.pipeline.environment import machine_facts

Codes = dict[tuple[str, str], NDArray[np.uint16]]
"""Phase codes of generated slices, by the generator's label and the volume."""

_EXAMPLES = 12


@dataclass(frozen=True)
class Request:
    """The data of an evaluation.

    `split` selects rows; None selects all but those of `rephase.manifests.splits.HELD_BACK`. `where` has conditions of
    `rephase.manifests.where`. `withheld` names facts of
    the volumes that the generators are not told. `seed` is that of the generators; `output` is the folder for results
    and for samples to resume from; `group_column` names a manifest column by which rows of one person are kept
    together.
    """

    manifest: Path
    split: str | None = None
    where: str | None = None
    seed: int = 0
    output: Path | None = None
    group_column: str | None = None
    withheld: tuple[str, ...] = ()
    classifier: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.where is not None:
            try:
                parse_where(self.where)
            except ValueError as error:
                raise RequestError(f"--where: {error}") from None
        unknown = sorted(set(self.withheld) - set(WITHHOLDABLE))
        if unknown:
            raise RequestError(f"--withhold {unknown[0]}: unknown; expected some of {', '.join(WITHHOLDABLE)}")


@dataclass(frozen=True)
class Sampled:
    """Real volumes, the generated phase codes, the scores, and the rows that were skipped."""

    volumes: list[RealVolume]
    codes: Codes
    scores: list[Score]
    skipped: list[str]


def evaluate(request: Request, candidates: Sequence[Candidate], config: EvaluationConfig) -> Evaluation:
    """Compare generators on the real slices of a manifest, and write the results if a folder is given.

    Raises
    ------
    RequestError
        If no row has real phase, or the output folder cannot be written.
    """
    return finish(request, candidates, config, sample(request, candidates, config))


def sample(request: Request, candidates: Sequence[Candidate], config: EvaluationConfig) -> Sampled:
    """Read the real volumes, sample the phase of every candidate, and score it; see `evaluate`."""
    if request.output is not None:
        _make_folder(request.output)
    volumes, skipped = _read(request, config)
    with tqdm(total=_num_samples(volumes, candidates, config), desc="sampling", unit="slice", disable=None) as bar:
        kept = None if request.output is None else request.output / "samples"
        sampler = Sampler(kept, request.device, bar.update)
        codes: Codes = {}
        scores = [
            score
            for members in group_sessions(volumes).values()
            for score in _score(members, candidates, sampler, codes, config, request.seed)
        ]
    return Sampled(volumes, codes, scores, skipped)


def finish(request: Request, candidates: Sequence[Candidate], config: EvaluationConfig, sampled: Sampled) -> Evaluation:
    """Classify, compare, and write the results of sampled candidates."""
    volumes = sampled.volumes
    classifier = _classify(volumes, sampled.codes, candidates, config, request) if request.classifier else ()
    result = Evaluation(
        machine_facts(request.device),
        _settings(request, config, volumes),
        [_describe(one) for one in candidates],
        sampled.scores,
        classifier=classifier,
        skipped=sampled.skipped,
    )
    result = compare_all(result, candidates, config)
    if request.output is not None:
        write(result, request.output, _examples(group_sessions(volumes), sampled.codes, candidates))
    return result


def write(result: Evaluation, folder: Path, examples: Sequence[Example]) -> None:
    """Write `evaluation.json`, `evaluation.md` and `evaluation.html`."""
    texts = {
        "evaluation.json": json.dumps(result.to_json(), indent=2) + "\n",
        "evaluation.md": markdown(result) + "\n",
        "evaluation.html": make_page(result, examples),
    }
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def _read(request: Request, config: EvaluationConfig) -> tuple[list[RealVolume], list[str]]:
    rows = read_rows(request)
    volumes, skipped = [], []
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volumes.append(read_real(row, config.max_slices, request.group_column, request.withheld))
        except VolumeError as error:
            skipped.append(str(error))
    if not volumes:
        which = f" of split {request.split!r}" if request.split else ""
        raise RequestError("\n".join([f"{request.manifest}: no row{which} with real phase", *skipped[:10]]))
    return volumes, skipped


def read_rows(request: Request) -> list[ManifestRow]:
    """Read the rows of the requested split; without one, all but those of `rephase.manifests.splits.HELD_BACK`.

    Raises
    ------
    RequestError
        If there are none.
    """
    kept = () if request.group_column is None else (request.group_column,)
    rows = list(read_manifest(request.manifest, kept))
    rows = rows_where(rows, request.where)
    if not rows:
        raise RequestError(
            f"{request.manifest}: no row for --where {request.where!r}; expected one or more; correct it"
        )
    chosen = rows_of_split(rows, request.split)
    if not chosen and request.split:
        fix = "" if any(row.split for row in rows) else "; no row has a split; remove --split"
        raise RequestError(f"{request.manifest}: no row of split {request.split!r} with real phase{fix}")
    if not chosen:
        raise RequestError(
            f"{request.manifest}: all rows are of split {HELD_BACK!r}, which is evaluated only on request; add --split "
            f"{HELD_BACK}"
        )
    return chosen


def _score(
    members: Sequence[RealVolume],
    candidates: Sequence[Candidate],
    sampler: Sampler,
    codes: Codes,
    config: EvaluationConfig,
    seed: int,
) -> list[Score]:
    generated = []
    places = [_places(one, config) for one in members]
    for candidate in candidates:
        made = [sampler.sample_codes(candidate, one, seed) for one in members]
        codes |= {(candidate.label, one.volume_id): code for one, code in zip(members, made, strict=True)}

        def sample_again(
            volume: RealVolume, chosen: Sequence[int], seed: int, one: Candidate = candidate
        ) -> NDArray[np.complex64]:
            return sampler.sample(one, volume, seed, chosen)

        spread = sample_diversity(members, places, sample_again, range(seed, seed + config.seeds))
        generated.append((candidate.label, made, spread))
    return score_session(members, generated)


def _places(volume: RealVolume, config: EvaluationConfig) -> list[int]:
    """Return the positions of the slices for the diversity: the middle ones, which show most of the object."""
    if config.seeds < 2:
        return []
    count = len(volume.real.slices)
    chosen = min(config.diversity_slices, count)
    first = (count - chosen) // 2
    return list(range(first, first + chosen))


def _num_samples(volumes: Sequence[RealVolume], candidates: Sequence[Candidate], config: EvaluationConfig) -> int:
    slices = sum(len(one.real.slices) + config.seeds * len(_places(one, config)) for one in volumes)
    return slices * len(candidates)


def _classify(
    volumes: Sequence[RealVolume],
    codes: Codes,
    candidates: Sequence[Candidate],
    config: EvaluationConfig,
    request: Request,
) -> tuple[FamilySeparation, ...]:
    """Classify every candidate and the controls, which are sampled if they are not candidates."""
    sampler = Sampler(None)
    controls = [Candidate(name, make_generator(name)) for name in CONTROLS]
    for one in controls:
        for volume in volumes:
            if (one.label, volume.volume_id) not in codes:
                codes[one.label, volume.volume_id] = sampler.sample_codes(one, volume, request.seed)
    labels = list(dict.fromkeys(one.label for one in (*candidates, *controls)))
    groups, families = classifier_groups(volumes), [one.family for one in volumes]
    levels = config.classifier.phase_levels
    real = make_items([one.real for one in volumes], groups, families, levels)

    def items(label: str) -> list[Item]:
        made = [one.real.with_phasor(decode(codes[label, one.volume_id])) for one in volumes]
        return make_items(made, groups, families, levels)

    generated = ((label, items(label)) for label in labels)  # lazily, since all of them may not fit into memory
    total = num_trainings(len(labels), config.classifier)
    with tqdm(total=total, desc="classifier", unit="training", disable=None) as bar:
        return classify(real, generated, config.classifier, config.interval, request.device, bar.update)


def classifier_groups(volumes: Sequence[RealVolume]) -> list[str]:
    """Return the group of each volume for the classifier: its session or wider group; itself with only one group."""
    groups = [one.group for one in volumes]
    return groups if len(set(groups)) > 1 else [one.volume_id for one in volumes]


def _settings(request: Request, config: EvaluationConfig, volumes: Sequence[RealVolume]) -> dict[str, Any]:
    sources = hashlib.sha256("".join(sorted(one.source_sha256 for one in volumes)).encode()).hexdigest()
    return {
        "manifest_sha256": hashlib.sha256(request.manifest.read_bytes()).hexdigest(),
        "sources_sha256": sources,
        "code_sha256": code_digest(),
        "rephase": importlib.metadata.version("rephase"),
        "split": request.split or f"all but {HELD_BACK}",
        "withheld": list(request.withheld),
        "seed": request.seed,
        "volumes": len(volumes),
        "slices": sum(len(one.real.slices) for one in volumes),
        "sessions": len({one.session for one in volumes}),
        "families": dict(Counter(one.family for one in volumes)),
        "classifier_groups": len(set(classifier_groups(volumes))),
        "config": asdict(config),
    }


def _describe(one: Candidate) -> dict[str, Any]:
    return {"label": one.label, "role": one.role, "nfe": one.nfe, "identity": one.identity}


def _examples(
    sessions: Mapping[tuple[str, str], Sequence[RealVolume]], codes: Codes, candidates: Sequence[Candidate]
) -> list[Example]:
    """Return the slice with the largest object of the first volume of each of the first sessions."""
    examples = []
    for (session, family), members in list(sessions.items())[:_EXAMPLES]:
        one = members[0]
        place = int(one.real.support.sum(axis=(1, 2)).argmax())
        phasors = {"real": one.real.phasor[place]}
        phasors |= {c.label: decode(codes[c.label, one.volume_id][place]) for c in candidates}
        name = f"{session}, {family}: slice {one.real.slices[place]} of {one.volume_id}"
        mm = one.real.spacing_mm
        examples.append(Example(name, one.real.magnitude[place], one.real.support[place], phasors, (mm[1], mm[2])))
    return examples


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{folder}: {error.strerror}; expected a folder for the results; choose another -o"
        ) from error
