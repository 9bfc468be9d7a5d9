# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Events of backends, gateway pods, rules and proxies in the window, as sentences. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
from collections.abc import Set
from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._membership import addresses_by_pod, changes, gateway_changes
from ansible_collections.meshops.istio.plugins.module_utils._model import ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, Window


def membership_events(window: Window) -> list[str]:
    """Events of the endpoints: pods that were added, removed or changed readiness, and changes between two reads."""
    events: list[str] = []
    for before, after in itertools.pairwise(window.memberships()):
        old, new = ({backend.pod for backend in membership.backends} for membership in (before, after))
        events.extend(added_and_removed(old, new))
        was, now = addresses_by_pod(before).keys(), addresses_by_pod(after).keys()
        events.extend(f"pod {pod} became {'ready' if pod in now else 'not ready'}" for pod in sorted((was ^ now) & old & new))
    if not events and changes(window.before, window.after):
        events.append("endpoints changed and changed back")
    for entry in window.client_windows:
        eligible = {frozenset(checkpoint.eligible()) for checkpoint in entry.checkpoints if checkpoint.eligible()}
        if len(eligible) > 1 and not events:
            events.append(f"the eligible hosts in {proxies_of(window, entry)} changed")
    return list(dict.fromkeys(events))


def added_and_removed(old: Set[str], new: Set[str], whose: str = "") -> list[str]:
    return [*(f"pod {pod}{whose} was added" for pod in sorted(new - old)), *(f"pod {pod}{whose} was removed" for pod in sorted(old - new))]


def gateway_events(window: Window) -> list[str]:
    """Events of the gateway's pods."""
    events: list[str] = []
    for entry in window.client_windows:
        for first, second in itertools.pairwise(entry.checkpoints):
            if not gateway_changes(first, second):
                continue
            old, new = ({backend.pod for backend in checkpoint.gateway.ready()} for checkpoint in (first, second))
            events.extend(added_and_removed(old, new, f" of gateway {window.via}") or [f"the endpoints of gateway {window.via} changed and changed back"])
    return list(dict.fromkeys(events))


def configuration_events(window: Window) -> list[str]:
    """Changes of rules, from the API server, and changes of Envoy's configuration and restarts, from the clients."""
    before = {(rule.kind, rule.namespace, rule.name): rule for rule in window.rules_before}
    after = {(rule.kind, rule.namespace, rule.name): rule for rule in window.rules_after}
    events = [f"{before.get(name) or after[name]} changed" for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    for entry in window.client_windows:
        proxy = proxies_of(window, entry)
        events.extend(dict.fromkeys(f"{proxy} was not read at every checkpoint: {why}" for checkpoint in entry.checkpoints for why in checkpoint.unread))
        by_checkpoint = [checkpoint.views() for checkpoint in entry.checkpoints if not checkpoint.unread]
        # Views can be matched to proxies only while the gateway's pods are the same.
        replaced = any(gateway_changes(first, second) for first, second in itertools.pairwise(entry.checkpoints))
        for views in () if replaced else itertools.zip_longest(*by_checkpoint):
            uptimes = [view.uptime for view in views if view is not None and view.uptime is not None]
            if any(second < first for first, second in itertools.pairwise(uptimes)):
                events.append(f"{proxy} was restarted")
            if any(view is None for view in views) and any(view is not None for view in views):
                events.append(f"{proxy} did not always respond")
        if len({_configuration(view) for view in entry.views()}) > 1:
            events.append(f"route or cluster in {proxy} changed" if not window.via else f"route or cluster in {proxy} changed, or differs between its pods")
    return events


def proxies_of(window: Window, entry: ClientWindow) -> str:
    return f"gateway {window.via}" if window.via else f"the Envoy of {entry.client}"


def _configuration(view: ProxyView) -> tuple[object, object]:
    """Route and cluster without their versions, which change with every push."""
    return (view.route and replace(view.route, version=""), view.cluster and replace(view.cluster, version=""))
