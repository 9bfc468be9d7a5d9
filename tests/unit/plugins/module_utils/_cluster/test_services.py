# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List calls, and what is done without rights."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import Lists
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError


class Account:
    """The list calls of an account: what each namespace may read (None: the whole cluster). Stands for the API server."""

    def __init__(self, allowed: dict[str | None, list[str]], namespaces: tuple[str, ...] | None) -> None:
        self.allowed = allowed
        self.known = namespaces

    def listed(self, plural: str, namespace: str | None, _selector: str = "") -> list[dict[str, Any]]:
        if plural not in self.allowed.get(namespace, []):
            raise CheckError("forbidden", f"No permission to list {plural} in {namespace}.")
        return [{"metadata": {"name": "shop", "namespace": namespace or "all"}}]

    def namespaces(self) -> tuple[str, ...]:
        if self.known is None:
            raise CheckError("forbidden", "No permission to list namespaces.")
        return self.known


def lists(account: Account, namespaces: tuple[str, ...] | None) -> Lists:
    return Lists(account, namespaces)  # type: ignore[arg-type] # the two calls that it makes


def test_an_account_without_the_whole_cluster_reads_namespace_by_namespace() -> None:
    found = lists(Account({"a": ["services"]}, ("a", "b")), None)
    assert [item["metadata"]["namespace"] for item in found.items("services") or []] == ["a"]
    assert found.unread == ["No permission to list services in b."]


def test_nothing_readable_is_told_from_nothing_there() -> None:
    assert lists(Account({}, ("a",)), ("a",)).items("endpointslices") is None


def test_an_account_that_may_not_even_list_namespaces_is_told_what_to_do() -> None:
    with pytest.raises(CheckError, match="name them in the option namespace"):
        lists(Account({}, None), None).items("services")
