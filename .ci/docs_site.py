# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the documentation site (`make docs-site`): pages of modules, filters and roles by antsibull-docs, and docs/*.md, as HTML in docs-site/.

Warnings are errors. Nothing is downloaded: references to other collections resolve through an inventory that is made here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix) / "bin"
COLLECTION = "meshops.istio"
SOURCE = f"https://github.com/{COLLECTION.replace('.', '/')}/blob/main"
# Labels of Ansible's own documentation that antsibull-docs refers to.
ANSIBLE = {
    "common_return_values": "reference_appendices/common_return_values.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
}


def reference(work: Path, rst: Path) -> None:
    """The pages of the collection, by antsibull-docs; it sees no other collections than kubernetes.core, whose documentation fragment is used."""
    kubernetes = Path(sysconfig.get_paths()["purelib"]) / "ansible_collections/kubernetes/core"
    for name, tree in ((COLLECTION, ROOT), ("kubernetes.core", kubernetes)):
        link = work / "collections/ansible_collections" / name.replace(".", "/")
        link.parent.mkdir(parents=True)
        link.symlink_to(tree)
    rst.mkdir(mode=0o755)
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(work / "collections"), "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "False"}
    # antsibull-docs starts ansible and ansible-doc by their names.
    settings["PATH"] = os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath)))
    options = ("--use-current", "--squash-hierarchy", "--no-indexes", "--no-add-antsibull-docs-version", "--fail-on-error", "--dest-dir", rst)
    subprocess.run((BIN / "antsibull-docs", "collection", *options, COLLECTION), check=True, env=os.environ | settings)


def pages(target: Path) -> None:
    """docs/*.md, where links to what is not a page of the site lead to the repository."""
    target.mkdir()
    for page in sorted((ROOT / "docs").glob("*.md")):
        (target / page.name).write_text(re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", _outward, page.read_text()))


def _outward(link: re.Match[str]) -> str:
    path = os.path.normpath(f"docs/{link.group(1)}")
    return link.group(0) if re.fullmatch(r"docs/[\w.-]+\.md(#.*)?", path) else f"]({SOURCE}/{path})"


def inventory(source: Path, target: Path) -> None:
    """An inventory of Sphinx with each label outside of the collection that its pages refer to."""
    text = "".join(page.read_text() for page in source.rglob("*.rst"))
    labels = dict(ANSIBLE)
    for namespace, name, plugin in re.findall(r"ansible_collections\.(\w+)\.(\w+)\.(\w+_(?:module|filter|role|lookup))\b", text):
        if f"{namespace}.{name}" != COLLECTION:
            labels[f"ansible_collections.{namespace}.{name}.{plugin}"] = f"collections/{namespace}/{name}/{plugin}.html"
    lines = "".join(f"{label} std:label -1 {uri} -\n" for label, uri in sorted(labels.items()))
    head = "# Sphinx inventory version 2\n# Project: Ansible\n# Version: \n# The remainder of this file is compressed using zlib.\n"
    target.write_bytes(head.encode() + zlib.compress(lines.encode()))


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs-site").absolute()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "source"
        shutil.copytree(ROOT / ".ci/docsite", source)
        reference(work, source / "collection")
        pages(source / "pages")
        inventory(source, source / "ansible.inv")
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run((sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", work / "doctrees", source, out), check=True)
    print(f"{out / 'index.html'}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} ended with {error.returncode}. Next: mend what is reported above.")
