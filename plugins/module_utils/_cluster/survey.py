# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read before the first request: target, clients, endpoints and rules. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import ISTIO_NAMESPACE, RULES, UNREADABLE, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import choose_clients
from ansible_collections.meshops.istio.plugins.module_utils._cluster.endpoints import read_membership
from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import choose_port, listener_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import concerns
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientChoice, JsonDict, ObjectVersion, Survey, Target

# The label prefix of Istio's persistent sessions: by a cookie, or with -header behind it by a header.
PERSISTENCE_LABEL = "istio.io/persistent-session"


def take_survey(cluster: Cluster, target: Target, choice: ClientChoice) -> Survey:
    """Everything that is read before the first request. Raises `CheckError`."""
    membership = read_membership(cluster, target)
    clients = choose_clients(cluster, choice, {backend.node: backend.zone for backend in membership.backends})
    return Survey(target, clients, membership, read_rules(cluster, target, choice.namespace), {"kubernetes": cluster.version()})


def find_target(cluster: Cluster, namespace: str, name: str, client_namespace: str, port: int | None, path: str, method: str) -> Target:
    """The service and the port to call. Raises `CheckError` with `no_service` or `no_port`."""
    service = cluster.service(namespace, name)
    if service is None:
        raise CheckError("no_service", f"There is no Service {namespace}/{name}. Next: correct the options namespace and service, or create it.")
    chosen = choose_port(service, port)
    host = name if client_namespace == namespace else f"{name}.{namespace}"
    labels = service["metadata"].get("labels") or {}
    persistence = tuple(f"{label}={value}" for label, value in sorted(labels.items()) if label in (PERSISTENCE_LABEL, f"{PERSISTENCE_LABEL}-header"))
    listener = listener_of(service, chosen)
    return Target(namespace, name, chosen["port"], chosen.get("name"), host, path, method, persistence=persistence, listener=listener)


def read_rules(cluster: Cluster, target: Target, client_namespace: str) -> tuple[ObjectVersion, ...]:
    """The versions of all rules that could affect the requests, except those that this account may not read.

    An account that may only read pods and services can still run the check: Envoy's own configuration, read in the
    client, also shows a change of the rules.
    """
    versions: list[ObjectVersion] = []
    for namespace in dict.fromkeys((target.namespace, client_namespace, ISTIO_NAMESPACE)):
        for plural, (kind, _version) in RULES.items():
            try:
                entries = cluster.listed(plural, namespace)
            except CheckError as error:
                if error.code not in UNREADABLE:
                    raise
                continue
            versions.extend(object_version(kind, entry["metadata"]) for entry in entries if concerns(kind, entry, target))
    return tuple(versions)


def object_version(kind: str, meta: JsonDict) -> ObjectVersion:
    return ObjectVersion(kind, meta["namespace"], meta["name"], meta["uid"], int(meta.get("generation") or 0))
