"""An evaluation from a manifest to its tables: read, sample, measure, compare, classify, write."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rephase.diffusion.registry import make_generator
from rephase.errors import RequestError, VolumeError
from rephase.evaluation.classifier import CONTROLS, ClassifierResult, classify, num_trainings
from rephase.evaluation.comparison import SMOOTH, closed_gaps, compare, find_ties, judge
from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.page import Example, make_page
from rephase.evaluation.patches import Item, make_items
from rephase.evaluation.result import Evaluation
from rephase.evaluation.sampling import Contestant, Sampler, code_digest, decode
from rephase.evaluation.scores import Score, draws_diversity, score_session
from rephase.evaluation.sessions import RealVolume, group_sessions, read_real
from rephase.evaluation.tables import markdown
from rephase.files import replacing
from rephase.manifests.parse import read_manifest
from rephase.pipeline.environment import machine_facts

Codes = dict[tuple[str, str], NDArray[np.uint16]]
"""Phase codes of generated slices, by the generator's label and the volume."""

_EXAMPLES = 12


@dataclass(frozen=True)
class Request:
    """What to evaluate on.

    `split` takes only rows of that split; `seed` is that of the generators; `output` is the folder for the results and
    for samples that can be taken again; `group_column` names a further column of the manifest that says which rows may
    show one person.
    """

    manifest: Path
    split: str | None = None
    seed: int = 0
    output: Path | None = None
    group_column: str | None = None
    classifier: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Sampled:
    """Real volumes, what every contestant made of them, and the scores; `left_out` says which rows do not take part."""

    volumes: list[RealVolume]
    codes: Codes
    scores: list[Score]
    left_out: list[str]


def evaluate(request: Request, contestants: Sequence[Contestant], config: EvaluationConfig) -> Evaluation:
    """Compare generators on the real slices of a manifest, and write the results where a folder is named.

    Raises
    ------
    RequestError
        No row has real phase, or the output folder cannot be written.
    """
    return finish(request, contestants, config, sample(request, contestants, config))


def sample(request: Request, contestants: Sequence[Contestant], config: EvaluationConfig) -> Sampled:
    """Read the real volumes, sample every contestant's phase of them, and score it; see `evaluate`."""
    if request.output is not None:
        _make_folder(request.output)
    volumes, left_out = _read(request, config)
    with tqdm(total=_num_samples(volumes, contestants, config), desc="sampling", unit="slice", disable=None) as bar:
        kept = None if request.output is None else request.output / "samples"
        sampler = Sampler(kept, request.device, bar.update)
        codes: Codes = {}
        scores = [
            score
            for session, members in group_sessions(volumes).items()
            for score in _score(session, members, contestants, sampler, codes, config, request.seed)
        ]
    return Sampled(volumes, codes, scores, left_out)


def finish(
    request: Request, contestants: Sequence[Contestant], config: EvaluationConfig, sampled: Sampled
) -> Evaluation:
    """Classify, compare and write what was sampled."""
    volumes = sampled.volumes
    classifier = _classify(volumes, sampled.codes, contestants, config, request) if request.classifier else None
    result = Evaluation(
        machine_facts(request.device),
        _settings(request, config, volumes),
        [_describe(one) for one in contestants],
        sampled.scores,
        classifier=classifier,
        left_out=sampled.left_out,
    )
    result = conclude(result, contestants, config)
    if request.output is not None:
        write(result, request.output, _examples(group_sessions(volumes), sampled.codes, contestants))
    return result


def conclude(result: Evaluation, contestants: Sequence[Contestant], config: EvaluationConfig) -> Evaluation:
    """Draw from the scores what they say."""
    scores = result.scores
    labels = {role: [one.label for one in contestants if one.role == role] for role in ("model", "against", "baseline")}
    references = [SMOOTH] if SMOOTH in labels["baseline"] else labels["baseline"][:1]
    return replace(
        result,
        gaps=closed_gaps(scores, config),
        differences=[
            line
            for label in (*labels["model"], *labels["against"], *labels["baseline"])
            for reference in references
            if label != reference
            for line in compare(scores, config, label, reference)
        ],
        verdicts=[line for one, other in _pairs(contestants, config) for line in judge(scores, config, one, other)],
        ties=find_ties(scores, config, labels["model"], labels["baseline"]),
    )


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
    kept = () if request.group_column is None else (request.group_column,)
    rows = list(read_manifest(request.manifest, kept))
    chosen = [row for row in rows if request.split in (None, row.split)]
    volumes, left_out = [], []
    for row in tqdm(chosen, desc="reading", unit="volume", disable=None):
        try:
            volumes.append(read_real(row, config.max_slices, request.group_column))
        except VolumeError as error:
            left_out.append(str(error))
    if not volumes:
        which = f" of split {request.split!r}" if request.split else ""
        mend = "; no row has a split; leave --split out" if which and not any(row.split for row in rows) else ""
        raise RequestError("\n".join([f"{request.manifest}: no row{which} with real phase{mend}", *left_out[:10]]))
    return volumes, left_out


def _score(
    session: str,
    members: Sequence[RealVolume],
    contestants: Sequence[Contestant],
    sampler: Sampler,
    codes: Codes,
    config: EvaluationConfig,
    seed: int,
) -> list[Score]:
    generated = []
    places = [_places(one, config) for one in members]
    for contestant in contestants:
        made = [sampler.sample_codes(contestant, one, seed) for one in members]
        codes |= {(contestant.label, one.volume_id): code for one, code in zip(members, made, strict=True)}

        def draw(
            volume: RealVolume, chosen: Sequence[int], seed: int, one: Contestant = contestant
        ) -> NDArray[np.complex64]:
            return sampler.sample(one, volume, seed, chosen)

        spread = draws_diversity(members, places, draw, range(seed, seed + config.seeds))
        generated.append((contestant.label, made, spread))
    return score_session(session, members, generated, config.is_descriptive(members[0].anatomy))


def _places(volume: RealVolume, config: EvaluationConfig) -> list[int]:
    """Positions of the slices of which several draws are made: the middle ones, which show most of the object."""
    if config.seeds < 2:
        return []
    count = len(volume.real.slices)
    wanted = min(config.diversity_slices, count)
    first = (count - wanted) // 2
    return list(range(first, first + wanted))


def _num_samples(volumes: Sequence[RealVolume], contestants: Sequence[Contestant], config: EvaluationConfig) -> int:
    slices = sum(len(one.real.slices) + config.seeds * len(_places(one, config)) for one in volumes)
    return slices * len(contestants)


def _classify(
    volumes: Sequence[RealVolume],
    codes: Codes,
    contestants: Sequence[Contestant],
    config: EvaluationConfig,
    request: Request,
) -> ClassifierResult:
    """Judge every generator, and the controls, which are sampled where they do not take part."""
    sampler = Sampler(None)
    controls = [Contestant(name, make_generator(name)) for name in CONTROLS]
    for one in controls:
        for volume in volumes:
            if (one.label, volume.volume_id) not in codes:
                codes[one.label, volume.volume_id] = sampler.sample_codes(one, volume, request.seed)
    labels = list(dict.fromkeys(one.label for one in (*contestants, *controls)))
    groups = classifier_groups(volumes)
    levels = config.classifier.phase_levels
    real = make_items([one.real for one in volumes], groups, levels)

    def items(label: str) -> list[Item]:
        made = [one.real.with_phasor(decode(codes[label, one.volume_id])) for one in volumes]
        return make_items(made, groups, levels)

    generated = ((label, items(label)) for label in labels)  # one at a time: all of them may not fit into memory
    total = num_trainings(len(labels), config.classifier)
    with tqdm(total=total, desc="classifier", unit="training", disable=None) as bar:
        return classify(real, generated, config.classifier, request.device, bar.update)


def classifier_groups(volumes: Sequence[RealVolume]) -> list[str]:
    """What the classifier keeps together: sessions (or wider groups), or volumes where there is one session only."""
    groups = [one.group for one in volumes]
    return groups if len(set(groups)) > 1 else [one.volume_id for one in volumes]


def _pairs(contestants: Sequence[Contestant], config: EvaluationConfig) -> list[tuple[str, str]]:
    """Which generators are judged for non-inferiority: the default against the teacher, and against each other one."""
    models = {one.nfe: one.label for one in contestants if one.role == "model"}
    if not models:
        return []
    default = models.get(config.noninferiority.steps) or models[min(models)]
    teacher = models.get(config.noninferiority.teacher_steps)
    pairs = [(default, teacher)] if teacher is not None and teacher != default else []
    return pairs + [(default, one.label) for one in contestants if one.role == "against"]


def _settings(request: Request, config: EvaluationConfig, volumes: Sequence[RealVolume]) -> dict[str, Any]:
    sources = hashlib.sha256("".join(sorted(one.source_sha256 for one in volumes)).encode()).hexdigest()
    return {
        "manifest_sha256": hashlib.sha256(request.manifest.read_bytes()).hexdigest(),
        "sources_sha256": sources,
        "code_sha256": code_digest(),
        "rephase": importlib.metadata.version("rephase"),
        "split": request.split,
        "seed": request.seed,
        "volumes": len(volumes),
        "slices": sum(len(one.real.slices) for one in volumes),
        "sessions": len({one.session for one in volumes}),
        "classifier_groups": len(set(classifier_groups(volumes))),
        "config": asdict(config),
    }


def _describe(one: Contestant) -> dict[str, Any]:
    return {"label": one.label, "role": one.role, "nfe": one.nfe, "identity": one.identity}


def _examples(
    sessions: Mapping[str, Sequence[RealVolume]], codes: Codes, contestants: Sequence[Contestant]
) -> list[Example]:
    """The slice with the largest object of each session's first volume, of the first sessions."""
    examples = []
    for session, members in list(sessions.items())[:_EXAMPLES]:
        one = members[0]
        place = int(one.real.support.sum(axis=(1, 2)).argmax())
        phasors = {"real": one.real.phasor[place]}
        phasors |= {c.label: decode(codes[c.label, one.volume_id][place]) for c in contestants}
        name = f"{session}: slice {one.real.slices[place]} of {one.volume_id}"
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
