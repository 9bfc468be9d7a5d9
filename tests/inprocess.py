# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules without Ansible around them, for runs of hundreds of checks: the module's own functions, on a real cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import requires

from ansible_collections.meshops.istio.plugins.module_utils._check import check, fails_task
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect
from ansible_collections.meshops.istio.plugins.module_utils._inspection import inspect
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError
from ansible_collections.meshops.istio.plugins.module_utils._options import read_settings, read_wanted
from ansible_collections.meshops.istio.plugins.module_utils._result import error_result
from ansible_collections.meshops.istio.plugins.modules.istio_affinity_check import argument_spec
from ansible_collections.meshops.istio.plugins.modules.istio_affinity_info import argument_spec as info_argument_spec


def _filled(spec: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Parameters as AnsibleModule would hand them over: defaults filled in, options within options too."""
    unknown = given.keys() - spec.keys()
    assert not unknown, f"no such options: {unknown}"
    filled: dict[str, Any] = {}
    for name, option in spec.items():
        value = given.get(name, option.get("default"))
        if isinstance(value, str) and option.get("type") == "list":
            value = [value]
        filled[name] = _filled(option["options"], value) if isinstance(value, dict) and "options" in option else value
    return filled


def _module(spec: dict[str, Any], kubeconfig: Path, options: dict[str, Any]) -> Any:
    params = _filled(spec, {"kubeconfig": str(kubeconfig)} | options)
    return SimpleNamespace(params=params, check_mode=False, server_side_dry_run=False, requires=requires)


def ask_info(kubeconfig: Path, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """One look by istio_affinity_info: the services, and what could not be read. Raises CheckError where the module fails."""
    module = _module(info_argument_spec(), kubeconfig, options)
    return inspect(read_wanted(module.params), connect(module))


def run_info(kubeconfig: Path, **options: Any) -> list[dict[str, Any]]:
    """One look by istio_affinity_info; nothing where it could not look yet."""
    try:
        return ask_info(kubeconfig, **options)[0]
    except CheckError:
        return []


def run_task(kubeconfig: Path, **options: Any) -> tuple[bool, dict[str, Any]]:
    """One check: whether its task would fail, and its result."""
    module = _module(argument_spec(), kubeconfig, options)
    try:
        result, moved = check(module.params, read_settings(module.params), connect(module))
    except CheckError as error:
        result, moved = error_result(error), False
    return fails_task(result, moved, module.params), result


def run_check(kubeconfig: Path, **options: Any) -> dict[str, Any]:
    """One check; its result, with the task's own failing left out."""
    return run_task(kubeconfig, **options)[1]
