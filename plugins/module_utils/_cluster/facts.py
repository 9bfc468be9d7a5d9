# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The objects that a cause may involve. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import EXPLAINING, ISTIO_NAMESPACE, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import name_of
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, Facts, JsonDict, ProxyView, Target

ISTIOD_SELECTOR = "app=istiod"


def _readable(read: Callable[..., Any], *words: str) -> Any:
    """The result of a read, or None if it fails: no verdict needs these objects."""
    try:
        return read(*words)
    except CheckError:
        return None


def read_facts(cluster: Cluster, targets: Sequence[Target], clients: Sequence[ClientPod], views: Iterable[ProxyView | None] = ()) -> Facts:
    """The objects that a cause may involve, for one service or many. Unreadable objects are left out: no verdict needs them.
    `views` tell which control plane serves the clients."""
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
    planes = {view.control_plane for view in views if view is not None and view.control_plane}
    root = root_of(planes)
    rules = {kind: _rules_to_explain(cluster, plural, (*namespaces, root)) for plural, (kind, _version) in EXPLAINING.items()}
    istiod = _readable(cluster.pods, root, ISTIOD_SELECTOR) or []
    return Facts(
        services={name_of(service): service for service in services},
        namespaces={name: body for name in namespaces if (body := _readable(cluster.namespace, name))},
        rules={kind: tuple(found) for kind, (found, _why) in rules.items()},
        pods={name_of(pod): pod for pod in pods},
        versions={"istiod": control_plane_version(cluster, planes, istiod)},
        revisions=tuple(sorted({(pod["metadata"].get("labels") or {}).get("istio.io/rev", "default") for pod in istiod})),
        root_namespace=root,
        unread={kind: why for kind, (_found, why) in rules.items() if why},
    )


def root_of(planes: Iterable[str]) -> str:
    """The namespace of the control planes with these addresses, by default Istio's root namespace."""
    namespaces = {namespace for plane in planes if (namespace := _place_of(plane)[0])}
    return namespaces.pop() if len(namespaces) == 1 else ISTIO_NAMESPACE


def _place_of(address: str) -> tuple[str, str]:
    """Namespace and name of the Service in `istiod-canary.istio-system.svc:15012`; no namespace for another host."""
    match = re.fullmatch(r"([^.:]+)\.([^.:]+)\.svc(?:[.:].*)?", address)
    return (match.group(2), match.group(1)) if match else ("", "")


def control_plane_version(cluster: Cluster, planes: Iterable[str], istiod: Sequence[JsonDict]) -> str | None:
    """The version of the control plane that serves the clients' proxies, by default that of these pods; None if it is not known, or
    they have several."""
    pods = [pod for address in sorted(planes) for pod in _pods_at(cluster, address)]
    versions = {image_version(pod) for pod in pods or istiod}
    return versions.pop() if len(versions) == 1 else None


def _pods_at(cluster: Cluster, address: str) -> list[JsonDict]:
    """The pods behind the address of a Service."""
    namespace, name = _place_of(address)
    service = _readable(cluster.service, namespace, name) if namespace else None
    return _pods_of(cluster, service) if service else []


def _pods_of(cluster: Cluster, service: JsonDict) -> list[JsonDict]:
    """The pods that a Service selects."""
    selector = (service.get("spec") or {}).get("selector") or {}
    wanted = ",".join(f"{name}={value}" for name, value in selector.items())
    return _readable(cluster.pods, service["metadata"]["namespace"], wanted) or [] if selector else []


def _rules_to_explain(cluster: Cluster, plural: str, namespaces: Sequence[str]) -> tuple[list[JsonDict], str | None]:
    """The rules of all namespaces, or without permission for that, of those in which Istio looks for rules; and why some of
    these could not be read."""
    try:
        return cluster.listed(plural, None), None
    except CheckError as error:
        why = error.msg
    by_namespace = [_readable(cluster.listed, plural, namespace) for namespace in dict.fromkeys(namespaces)]
    return [rule for rules in by_namespace for rule in rules or []], why if None in by_namespace else None


def image_version(pod: JsonDict) -> str | None:
    """The tag of the pod's first image, without a variant (`1.31.0-distroless` is 1.31.0); None if it is no version."""
    image = pod["spec"]["containers"][0].get("image", "")
    match = re.search(r":v?(\d+\.\d+\.\d+)", image)
    return match.group(1) if match else None
