"""The documents at the entrance: links lead somewhere, the citation is of this version, the sdist has them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from paths import PROJECT

import rephase

FOLDERS = ("augment", "cluster", "diffusion", "manifests")
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.md"))])


def anchors(path):
    """Anchors of the headings of a document, as hosts of repositories make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_to_files_and_headings(document):
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.M | re.S)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(target)
    assert wrong == []


def test_the_citation_is_of_this_version_and_licence():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert (citation["type"], str(citation["version"])) == ("software", project["version"])
    assert citation["license"] in project["license"].split(" AND ")
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2504.07560" and paper["url"] in (PROJECT / "README.md").read_text()


def test_the_sdist_has_every_document_of_the_entrance():
    (line,) = re.findall(r"^include (.*)$", (PROJECT / "MANIFEST.in").read_text("utf-8"), re.M)
    assert {path.name for path in PROJECT.glob("*.md")} - {"README.md"} <= set(line.split())
    assert "CITATION.cff" in line.split()


def test_the_sdist_has_the_packages_and_their_tests():
    grafted = re.findall(r"^graft (.*)$", (PROJECT / "MANIFEST.in").read_text("utf-8"), re.M)
    assert sorted(grafted) == sorted([*FOLDERS, "tests"])
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert settings["include-package-data"] is False  # else the wheel would have the weights under the GPL


def test_the_documentation_site_is_built_without_a_warning():
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    built = subprocess.run(
        [sys.executable, PROJECT / "tests" / "documentation" / "__main__.py"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    page = (PROJECT / "build" / "site" / "reference" / "index.html").read_text("utf-8")
    assert all(f'id="{module}.{name}"' in page for module, names in rephase._MODULES.items() for name in names)
    assert "rephase view" in (PROJECT / "build" / "site" / "commands" / "index.html").read_text("utf-8")
