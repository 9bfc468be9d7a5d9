# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores an image in the lab's registry, where running nodes can pull it at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.istio_lab import LabError, delete_tree

DOCUMENTATION = r"""
module: istio_lab_image
short_description: Store an image in the embedded lab's registry
description:
  - Copies an image with all its tags from one registry storage to another, and replaces the image of that name there.
  - The registry of each node serves images directly from that storage, and never writes to it.
options:
  name: {description: Name of the image without a registry and a tag., type: str, required: true}
  source: {description: The storage that has the image., type: path, required: true}
  registry: {description: The storage of the lab's registry., type: path, required: true}
"""

VERSION = "docker/registry/v2"


def repository(storage: Path, name: str) -> Path:
    return storage / VERSION / "repositories" / name


def blob(storage: Path, digest: str) -> Path:
    return storage / VERSION / "blobs/sha256" / digest[:2] / digest


def linked(folder: Path) -> dict[str, str]:
    """The content of a repository: its links, each with the blob that it names."""
    return {str(link.relative_to(folder)): link.read_text() for link in sorted(folder.rglob("link"))}


def blobs(links: dict[str, str]) -> set[str]:
    return {link.strip().removeprefix("sha256:") for link in links.values()}


def whole(storage: Path, name: str) -> dict[str, str] | None:
    """The links of an image, if all its blobs exist."""
    links = linked(repository(storage, name))
    return links if links and all((blob(storage, digest) / "data").exists() for digest in blobs(links)) else None


def replace(source: Path, registry: Path, name: str) -> None:
    """Copy the blobs first: a visible image is always complete, even if this process is killed."""
    wanted = blobs(linked(repository(source, name)))
    for digest in wanted:
        target = blob(registry, digest)
        if not (target / "data").exists():
            partial = target.with_name(f"{target.name}.partial")
            delete_tree(partial)
            shutil.copytree(blob(source, digest), partial)
            delete_tree(target)
            partial.rename(target)
    there = repository(registry, name)
    before = blobs(linked(there))
    partial = registry / f"{there.name}.partial"
    delete_tree(partial)
    shutil.copytree(repository(source, name), partial)
    delete_tree(there)
    there.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(there)
    others = blobs(linked(registry / VERSION / "repositories"))
    for digest in before - others:
        delete_tree(blob(registry, digest))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "path", "required": True},
            "registry": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    name, source, registry = module.params["name"], Path(module.params["source"]), Path(module.params["registry"])
    wanted = whole(source, name)
    if not wanted:
        module.fail_json(msg=f"The image {name} is incomplete in {source}. Next: delete {source.parent} to rebuild it.")
    changed = whole(registry, name) != wanted
    if changed and not module.check_mode:
        try:
            replace(source, registry, name)
        except (LabError, OSError) as error:
            module.fail_json(msg=f"The image {name} cannot be stored in {registry}: {error}")
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
