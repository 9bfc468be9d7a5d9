# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds one part of the lab, unless it exists with the same content."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.istio_lab import LabError, Layout, Step, delete_tree, end_build, remember_process

DOCUMENTATION = r"""
module: istio_lab_part
short_description: Build a part of the embedded lab
description:
  - Runs a script in a new directory, which becomes the part after the script succeeds.
  - Directories of the same part with other content are deleted then.
options:
  cache: {description: The lab's folder., type: path, required: true}
  name: {description: Name of the part., type: str, required: true}
  path: {description: The path of the part, which ends in the hash of its inputs., type: path, required: true}
  script: {description: The script that builds it., type: path, required: true}
  environment: {description: The environment variables of the script., type: dict, required: true}
"""


def die_with_parent() -> None:
    """Ends the build together with the module that waits for it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def build(layout: Layout, name: str, path: Path, script: str, environment: dict[str, str]) -> None:
    layout.parts.mkdir(parents=True, exist_ok=True)
    # A killed play may have left an earlier build running.
    end_build(layout)
    builder = layout.parts / ".builder"
    for partial in layout.parts.glob("*.partial"):
        delete_tree(partial)

    step = Step(layout, f"build-{name}")
    partial = path.with_name(f"{path.name}.partial")
    partial.mkdir()
    remember_process(builder, os.getpid())
    # The build has its own namespaces: no mount outlives it, and killing its first process ends all others.
    step.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", script],
        f"Building {name}",
        cwd=partial,
        env={**os.environ, **environment},
        preexec_fn=die_with_parent,
    )
    builder.unlink()
    partial.rename(path)
    for other in layout.parts.glob(f"{name}-*"):
        if other != path and other.name.removeprefix(f"{name}-").isalnum():
            delete_tree(other)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cache": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "script": {"type": "path", "required": True},
            "environment": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    path = Path(options["path"])
    if path.exists():
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    started = time.monotonic()
    try:
        build(Layout(Path(options["cache"])), options["name"], path, options["script"], {k: str(v) for k, v in options["environment"].items()})
    except (LabError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, seconds=round(time.monotonic() - started))


if __name__ == "__main__":
    main()
