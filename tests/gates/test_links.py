# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every link of every page leads somewhere, its anchor included: in the working tree, and from the pages of the artifact within the artifact."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness import ROOT, project_files

PAGES = [name for name in project_files() if name.suffix == ".md" and not (ROOT / name).is_symlink()]
CODE = re.compile(r"^[ ]*```.*?^[ ]*```[ ]*$|<!--.*?-->|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^ {0,3}\[[^\]]+\]:\s*(\S+)|\b(?:href|src)=\"([^\"]+)\"", re.MULTILINE)
# A page of the repository by its address on GitHub is as good as a relative link, and as easily broken.
OWN = re.compile(r"https://github\.com/meshops/istio/(?:blob|tree|raw)/main/")


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a page, and those that stand in its HTML."""
    text = page.read_text()
    found: list[str] = []
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", re.sub(r"^[ ]*```.*?^[ ]*```[ ]*$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        earlier = sum(1 for name in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", name))
        found.append(f"{slug}-{earlier}" if earlier else slug)
    return frozenset([*found, *re.findall(r"\b(?:id|name)=\"([^\"]+)\"", text)])


def broken_links(tree: Path, page: Path) -> Iterator[str]:
    """The links of a page of a tree that lead nowhere in this tree."""
    for match in LINK.finditer(CODE.sub("", (tree / page).read_text())):
        link = "".join(group or "" for group in match.groups())
        own = OWN.match(link)
        if re.match(r"[a-z]+:", link) and not own:
            continue
        path, _mark, anchor = (link[own.end() :] if own else link).partition("#")
        base = ROOT if own else (tree / page).parent
        target = (base / path).resolve() if path else tree / page
        inside = target.exists() and target.is_relative_to(base if own else tree.resolve())
        if not inside or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_of_the_working_tree(page: Path):
    assert not list(broken_links(ROOT, page))


def test_links_of_the_artifact(artifact: Path, tmp_path: Path):
    with tarfile.open(artifact) as opened:
        opened.extractall(tmp_path, filter="data")
    pages = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*.md"))]
    assert len(pages) > 10
    broken = {str(page): links for page in pages if (links := list(broken_links(tmp_path, page)))}
    assert not broken


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[there](other.md) [heading](other.md#two-words) [twice](other.md#twice-1) [own](#here)\n# Here", []),
        ("[gone](gone.md)", ["gone.md"]),
        ("[no heading](other.md#gone)", ["other.md#gone"]),
        ("[no heading](#gone)", ["#gone"]),
        ("[out of it](../outside.md)", ["../outside.md"]),
        ("[by name][there]\n\n[there]: gone.md", ["gone.md"]),
        ('<img src="gone.png">', ["gone.png"]),
        ("`[code](gone.md)`\n\n```text\n[code](gone.md)\n```", []),
        ("[elsewhere](https://istio.io/gone) <https://istio.io>", []),
        ("[here](https://github.com/meshops/istio/blob/main/README.md)", []),
        ("[gone](https://github.com/meshops/istio/blob/main/GONE.md)", ["https://github.com/meshops/istio/blob/main/GONE.md"]),
    ],
)
def test_broken_links_are_found(tmp_path: Path, text: str, broken: list[str]):
    (tmp_path / "outside.md").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "other.md").write_text("# Two `words`!\n## Twice\n### Twice\n")
    (tree / "page.md").write_text(text)
    assert list(broken_links(tree, Path("page.md"))) == broken
