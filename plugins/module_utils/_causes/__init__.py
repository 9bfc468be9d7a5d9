# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalogue of causes for sessions that do not stick, or for affinity that could not be proven. Pure.

A cause is one function in the file of its section, registered by the decorator of the section. Causes that hold at the same
time are reported in the order of the sections, and of the causes in them: the root cause first.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.meshops.istio.plugins.module_utils._causes import advisories, choice, client, delivery, fakes, halves, hosts, key, protocol, rule
from ansible_collections.meshops.istio.plugins.module_utils._causes._base import SEVERITIES, Cause, Client, Hit, Section, Situation, evidence
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    ClientPod,
    Facts,
    Finding,
    Fix,
    Key,
    Membership,
    ProxyView,
    Survey,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Verdict, Window

__all__ = ["CATALOGUE", "SECTIONS", "Cause", "Client", "Situation", "find_causes", "situation_of", "situation_of_inspection"]

SECTIONS: tuple[Section, ...] = tuple(module.SECTION for module in (client, protocol, halves, rule, delivery, key, hosts, choice, fakes, advisories))
CATALOGUE: tuple[Cause, ...] = tuple(cause for section in SECTIONS for cause in section.causes)


def situation_of(survey: Survey, facts: Facts, window: Window, verdict: Verdict) -> Situation:
    """The situation of a check."""
    clients = tuple(Client(entry.client, tuple(entry.views())) for entry in window.client_windows)
    return Situation(window.key, survey.target, facts, clients, window.after, window, verdict)


def situation_of_inspection(
    target: Target, key: Key, facts: Facts, views: Iterable[tuple[ClientPod, ProxyView | None]], membership: Membership, expected: bool
) -> Situation:
    """The situation of an inspection. `expected` is whether an option or a rule asks for affinity."""
    clients = tuple(Client(pod, (view,) if view is not None else ()) for pod, view in views)
    return Situation(target=target, key=key, facts=facts, clients=clients, membership=membership, expected=expected)


def find_causes(situation: Situation) -> list[Finding]:
    """All causes that hold, root cause first: errors, then warnings, then infos, each in the order of the catalogue."""
    findings: dict[tuple[str, str], Finding] = {}
    for cause in CATALOGUE:
        for hit in _hits(cause, situation):
            # Several clients may show the same cause: report it once.
            findings.setdefault((cause.id, hit.fix.body), Finding(cause.id, hit.severity, cause.title, hit.evidence, hit.fix, cause.reference))
    return sorted(findings.values(), key=lambda finding: SEVERITIES.index(finding.severity))


def _hits(cause: Cause, situation: Situation) -> list[Hit]:
    """The hits of one cause. If it fails on an object of unknown form, only this cause is lost, never the verdict."""
    try:
        return list(cause.find(situation))
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        items = evidence((situation.source, "objects of the service", f"{type(error).__name__}: {error}"))
        return [Hit(items, Fix("manual", f"Could not determine whether {cause.id} holds. Report this with the objects of the service."), "info")]
