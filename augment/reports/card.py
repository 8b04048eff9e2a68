"""`rephase card`: the data card of a corpus, as README.md with the header of Hugging Face and as Croissant metadata."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rephase.corpus.index import INDEX_KEY, OPTIONAL_COLUMNS, REQUIRED_COLUMNS, read_index
from rephase.corpus.storage.base import run_folder
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.files import private_folder, replacing, sha256
from rephase.reports import sections
from rephase.reports.facts import UNKNOWN, CorpusFacts, gather_facts
from rephase.text import format_bytes, is_url

_SHOWN = ("Contrast", "Pulse sequence", "Anatomy", "Field strength", "Matrix", "Split", "Phase")
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/", "recordSet": "cr:recordSet", "references": "cr:references",
    "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
"""The context that Croissant 1.0 prescribes."""


def write_card(
    root: str | os.PathLike[str], out: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write `README.md` and `croissant.json` of a corpus.

    Parameters
    ----------
    root
        Path or URL of the corpus; it needs an index.
    out
        Folder. Default: `<corpus>.run/card` next to the corpus.
    progress
        Called with (receipts read, receipts in total).

    Returns
    -------
    paths
        The two files.

    Raises
    ------
    RequestError
        If there is no corpus, or the folder cannot be written.
    """
    store = CorpusStore.open(root)
    if out is None:
        if is_url(store.root):
            raise RequestError(f"{store.root}: is a URL; expected a local folder for its card; use -o FOLDER")
        out = Path(run_folder(store.root)) / "card"
        private_folder(out.parent)
    if not is_url(store.root) and Path(store.root).resolve() in (out.resolve(), *out.resolve().parents):
        raise RequestError(f"{out}: is inside the corpus; expected a folder outside; choose one beside it")
    facts = gather_facts(store, progress)
    columns = read_index(store.root, attributes=store.attributes).columns
    document = store.storage.get(INDEX_KEY) or b""
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "README.md": readme(facts),
        "croissant.json": json.dumps(croissant(facts, columns, document), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with replacing(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def licences_of(facts: CorpusFacts) -> list[str]:
    """Return the licences that the manifest states for the sources."""
    return sorted(facts.tallies.get("Licence", Counter()).keys() - {UNKNOWN})


def readme(facts: CorpusFacts) -> str:
    """Return the card as Markdown, with the YAML header that Hugging Face reads."""
    licences = licences_of(facts)
    thousands = "n<1K" if facts.num_slices < 1000 else "1K<n<10K" if facts.num_slices < 10_000 else "10K<n<100K"
    thousands = thousands if facts.num_slices < 100_000 else "100K<n<1M" if facts.num_slices < 10**6 else "1M<n<10M"
    header = {
        "pretty_name": facts.title, "license": licences[0].lower() if len(licences) == 1 else "other",
        "tags": ["mri", "k-space", "synthetic", "medical", "zarr"], "size_categories": [thousands],
    }  # fmt: skip
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())  # JSON is YAML
    known = [name for name in _SHOWN if set(facts.tallies.get(name, ())) - {UNKNOWN}]
    tables = "\n".join(
        f"| {name} | {', '.join(f'{value} ({count})' for value, count, _ in sections.tally(facts.tallies[name]))} |"
        for name in known
    )
    ranges = "\n".join(f"| {name} | {low:.4g} to {high:.4g} |" for name, (low, high, _) in facts.ranges.items())
    flags = "\n".join(f"- `{word}`: {count} volumes. {meaning}" for word, count, meaning, _ in sections.flags(facts))
    return f"""---
{yaml}
---

# {facts.title}

{facts.num_volumes:,} volumes with {facts.num_slices:,} slices of synthetic k-space from {facts.num_subjects:,} subjects
({format_bytes(facts.array_bytes)} before compression), a Zarr v3 hierarchy made by rephase {version("rephase")}.
The magnitudes are those of the source archives; **the phase is synthetic** unless its generator is `real`.

## Use

For pretraining and augmentation. Report results on real k-space only; not for clinical use, nor for work that
depends on the true phase.

```python
from rephase import KSpaceSlices

kspace, mask, target, attributes, name, index = KSpaceSlices("{facts.title}")[0]
```

## Contents

| fact | volumes |
|---|---|
{tables}
{ranges}

Licences of the sources: {", ".join(licences) or "not stated; those of the archives apply"}.

## Known processing of the sources

{flags or "No flag was found, which proves nothing: a magnitude hides much of its history."}

## Citation

{sections.citation(facts)}
"""


def croissant(facts: CorpusFacts, columns: dict[str, list[Any]], index_document: bytes) -> dict[str, Any]:
    """Return the metadata in Croissant 1.0 (JSON-LD): the index as a file, and its columns as a record set."""
    kinds: dict[type, str] = {str: "sc:Text", bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float"}
    fields = []
    for column in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
        value = next((one for one in columns.get(column, ()) if one is not None), None)
        if type(value) in kinds:
            fields.append(
                {
                    "@type": "cr:Field", "@id": f"volumes/{column}", "name": column,
                    "dataType": kinds[type(value)],
                    "source": {
                        "fileObject": {"@id": "index"},
                        "extract": {"jsonPath": f"$.attributes.columns.{column}[*]"},
                    },
                }
            )  # fmt: skip
    licences = licences_of(facts)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.title,
        "description": f"{facts.num_slices:,} slices of synthetic MRI k-space, {facts.num_volumes:,} volumes (Zarr).",
        "citeAs": sections.citation(facts),
        "license": licences or ["not stated; those of the source archives apply"],
        "version": "1.0.0",
        "keywords": ["MRI", "k-space", "synthetic data"],
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": "index", "name": "index", "contentUrl": INDEX_KEY,
                "encodingFormat": "application/json", "sha256": sha256(index_document),
                "description": "The index: a list per fact, in the order of the volumes.",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": "volumes", "name": "volumes",
                "description": "A record per volume; its arrays are volumes/<name>/kspace and the target.",
                "key": {"@id": "volumes/name"}, "field": fields,
            }
        ],
    }  # fmt: skip
