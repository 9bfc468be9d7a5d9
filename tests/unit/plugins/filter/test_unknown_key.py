# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A static verdict without a key."""

from __future__ import annotations

import pytest

from ansible_collections.meshops.istio.plugins.filter.affinity import judged_by_expectation


@pytest.mark.parametrize("verdict", ["unknown", "does_not"])
def test_without_a_key_the_static_verdict_stands(verdict: str) -> None:
    """An Envoy that could not be read has no key to differ from the expected one."""
    service = {"namespace": "shop", "service": "cart", "key": None, "static_verdict": verdict, "why": "the Envoy could not be read completely"}
    target = {"namespace": "shop", "service": "cart", "key": {"type": "header", "name": "user-session"}}
    assert judged_by_expectation(target, service, rules_read=True) == service
