# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Known problems of the versions in use. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Hit, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import version_of, waypoint_without_route
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix

SECTION = Section("Advisories on versions")


def _proxies(situation: Situation) -> Iterator[tuple[str, str, tuple[int, int, int]]]:
    """Each proxy with its version, as text and as numbers."""
    for client, view in situation.readable():
        version = version_of(view.proxy_version)
        if view.proxy_version is not None and version is not None:
            yield proxy_name(situation, client), view.proxy_version, version


@SECTION.cause(
    "A1",
    "The Envoy of Istio 1.30.0 does not rebuild the ring when pods are added",
    symptom="pods that were added after the client started get no session",
    evidence="the version of the client's proxy is 1.30.0",
    fix="upgrade to Istio 1.30.1 or newer",
    reference="https://github.com/istio/istio/issues/60312",
    synthetic="istio #60312 names the version",
)
def stale_rings(situation: Situation) -> Iterator[Hit]:
    for proxy, text, version in _proxies(situation):
        if version == (1, 30, 0):
            yield Hit(evidence((proxy, "version", text)), Fix("manual", "Upgrade Istio and its proxies to 1.30.1 or newer."), "warning")


@SECTION.cause(
    "A2",
    "A waypoint of Istio before 1.31 hashes only if the service has a VirtualService",
    symptom="in ambient mode, sessions move although the rule exists",
    evidence="the Service or its namespace uses a waypoint, no VirtualService leads to the service, and istiod is older than 1.31",
    fix="upgrade to Istio 1.31, or add a VirtualService with the service itself as its only destination",
    reference="https://github.com/istio/istio/issues/61045",
    synthetic="istio #61045 names the versions",
)
def old_waypoint(situation: Situation) -> Iterator[Hit]:
    items = waypoint_without_route(situation)
    if items and not situation.moved():
        yield Hit(evidence(*items), Fix("manual", "Upgrade Istio to 1.31 or newer, or add a VirtualService that leads to the service itself."), "warning")


@SECTION.cause(
    "A3",
    "The proxy and istiod are more than two minor versions apart, which Istio does not support",
    symptom="an old proxy misinterprets or ignores the configuration of a newer istiod",
    evidence="the versions of the client's proxy and of istiod",
    fix="recreate the client pod to give it the proxy version of this istiod",
    reference="https://istio.io/latest/docs/releases/supported-releases/",
    synthetic="Istio's page of supported releases",
)
def version_skew(situation: Situation) -> Iterator[Hit]:
    text = situation.facts.versions.get("istiod")
    istiod = version_of(text)
    for proxy, own, version in _proxies(situation):
        if istiod is not None and (version[0] != istiod[0] or abs(version[1] - istiod[1]) > 2):
            yield Hit(evidence((proxy, "version", own), ("istiod", "version", text)), Fix("manual", "Restart the client's workload."), "warning")
