# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kubeconfig in the inventory as a file, because modules print options that are dictionaries: when one ends with an exception, with all secrets."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.filter.core import to_json

# Entries whose paths are relative to the kubeconfig; of a dictionary, to the current directory.
PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


def kubeconfig_path(kubeconfig: Any) -> Any:
    """The path of a file with this kubeconfig, readable by its owner only, which Ansible removes when the run ends. Other values stay as they are."""
    if not isinstance(kubeconfig, Mapping) or not kubeconfig:
        return kubeconfig
    content = to_json(with_whole_paths(kubeconfig)).encode()
    folder = Path(constants.DEFAULT_LOCAL_TMP)  # type: ignore[attr-defined]  # made from its configuration
    path = folder / f"kubeconfig-{hashlib.sha256(content).hexdigest()[:32]}"
    if not path.exists():
        # Written aside and renamed, because other workers read it too.
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    return str(path)


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"kubeconfig_path": kubeconfig_path}


def with_whole_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: str(Path(each).absolute()) if name in PATHS and isinstance(each, str) and each else with_whole_paths(each) for name, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [with_whole_paths(each) for each in value]
    return value
