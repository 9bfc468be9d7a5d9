# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The objects that a cause may involve. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import EXPLAINING, ISTIO_NAMESPACE, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import name_of
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, Facts, JsonDict, Target

ISTIOD_SELECTOR = "app=istiod"


def _readable(read: Callable[..., Any], *words: str) -> Any:
    """The result of a read, or None if it fails: no verdict needs these objects."""
    try:
        return read(*words)
    except CheckError:
        return None


def read_facts(cluster: Cluster, targets: Sequence[Target], clients: Sequence[ClientPod]) -> Facts:
    """The objects that a cause may involve, for one service or many. Unreadable objects are left out: no verdict needs them."""
    namespaces = list(dict.fromkeys([*(target.namespace for target in targets), *(client.namespace for client in clients)]))
    services: list[JsonDict] = []
    pods: list[JsonDict] = []
    if len(targets) == 1:
        service = _readable(cluster.service, targets[0].namespace, targets[0].service)
        services = [service] if service else []
        pods = _pods_of(cluster, service) if service else []
    else:
        for namespace in dict.fromkeys(target.namespace for target in targets):
            services += _readable(cluster.services, namespace) or []
            pods += _readable(cluster.pods, namespace, "") or []
    for place, name in dict.fromkeys((target.via.namespace, target.via.service) for target in targets if target.via):
        gateway = _readable(cluster.service, place, name) if place and name else None
        services += [gateway] if gateway else []
        pods += _pods_of(cluster, gateway) if gateway else []
    known = {name_of(pod) for pod in pods}
    pods += [pod for client in clients if (client.namespace, client.pod) not in known and (pod := _readable(cluster.pod, client.namespace, client.pod))]
    istiod = _readable(cluster.pods, ISTIO_NAMESPACE, ISTIOD_SELECTOR) or []
    return Facts(
        services={name_of(service): service for service in services},
        namespaces={name: body for name in namespaces if (body := _readable(cluster.namespace, name))},
        rules={kind: tuple(_rules_to_explain(cluster, plural, namespaces)) for plural, (kind, _version) in EXPLAINING.items()},
        pods={name_of(pod): pod for pod in pods},
        versions={"istiod": image_version(istiod[0]) if istiod else None},
        revisions=tuple(sorted({(pod["metadata"].get("labels") or {}).get("istio.io/rev", "default") for pod in istiod})),
    )


def _pods_of(cluster: Cluster, service: JsonDict) -> list[JsonDict]:
    """The pods that a Service selects."""
    selector = (service.get("spec") or {}).get("selector") or {}
    wanted = ",".join(f"{name}={value}" for name, value in selector.items())
    return _readable(cluster.pods, service["metadata"]["namespace"], wanted) or [] if selector else []


def _rules_to_explain(cluster: Cluster, plural: str, namespaces: Sequence[str]) -> list[JsonDict]:
    """The rules of all namespaces, or without permission for that, of those in which Istio looks for rules."""
    try:
        return cluster.listed(plural, None)
    except CheckError:
        by_namespace = [_readable(cluster.listed, plural, namespace) or [] for namespace in dict.fromkeys((*namespaces, ISTIO_NAMESPACE))]
        return [rule for rules in by_namespace for rule in rules]


def image_version(pod: JsonDict) -> str | None:
    """The tag of the pod's first image, without a variant (`1.31.0-distroless` is 1.31.0); None if it is no version."""
    image = pod["spec"]["containers"][0].get("image", "")
    match = re.search(r":v?(\d+\.\d+\.\d+)", image)
    return match.group(1) if match else None
