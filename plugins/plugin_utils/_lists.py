# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shared by the filters. Private to the collection: it may change at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.vars import merge_hash


def dicts(value: Any, name: str) -> list[dict[str, Any]]:
    """A filter's input as a list of dicts. Raises AnsibleFilterError, naming the filter `name`, for anything else."""
    items = None if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable) else list(value)
    if items is None or not all(isinstance(item, Mapping) for item in items):
        raise AnsibleFilterError(f"{name} needs lists of dicts. See: ansible-doc -t filter meshops.istio.{name}")
    return [dict(item) for item in items]


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as Ansible's `combine` with recursive=true: later parts win, and lists are replaced as a whole."""
    result: dict[str, Any] = {}
    for part in parts:
        result = merge_hash(result, dict(part))  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    return result
