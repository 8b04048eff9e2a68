"""Where a build found manifest, weights and coils: `<corpus>.run/request.json`, from which `rephase repair` continues.

Beside a corpus, only this file, `build.toml` and the rows that Python gave to a build have paths; the run log has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rephase.corpus.storage.open import open_run_folder
from rephase.redaction import without_secrets

_KEY = "request.json"
_MOST = 20


def note_request(root: str, manifest: str, places: Mapping[str, Path | None], token: str = "") -> None:
    """Note the manifest, unless it is a URL with secrets, and other files; those of earlier builds are kept.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    manifest
        Path or URL.
    places
        Absolute path of a file by its kind: "checkpoints" for weights, "banks" for coils; None without one.
    token
        That of the lease.
    """
    found = _read(root)
    document: dict[str, Any] = {
        kind: list(dict.fromkeys([*([str(path)] if path is not None else []), *noted_places(root, kind)]))[:_MOST]
        for kind, path in places.items()
    }
    document["manifest"] = manifest if manifest and without_secrets(manifest) == manifest else found.get("manifest")
    if document != found:
        open_run_folder(root, token).put(_KEY, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def noted_manifest(root: str) -> str | None:
    """Return the manifest of the latest build; None if none is noted."""
    manifest = _read(root).get("manifest")
    return manifest if isinstance(manifest, str) else None


def noted_places(root: str, kind: str) -> list[str]:
    """Return the files of a kind, as for `note_request`, of all builds, the latest first."""
    found = _read(root).get(kind)
    return [str(path) for path in found] if isinstance(found, list) else []


def _read(root: str) -> dict[str, Any]:
    try:
        document = json.loads(open_run_folder(root).get(_KEY) or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
