#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_affinity_info
short_description: Show session affinity as the client's Envoy has it
version_added: 1.0.0
description:
  - Reads, from client pods inside the mesh, what their Envoy knows about a service - the hash policy of its route, the
    balancing of its cluster and the hosts that it can choose.
  - Sends no request to any service. It does not fail on what it finds, only on what keeps it from looking.
  - Wait with C(until) for C(in_sync) to know that a rule and the ready pods have reached the client, instead of sleeping.
requirements:
  - kubernetes >= 24.2.0
  - A client pod with a shell and C(curl) 7.84.0 or newer.
  - The permission to get pods and services, to list endpointslices, and to get and create pods/exec for the client pods.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - meshops.istio.attributes
  - meshops.istio.target
seealso:
  - module: meshops.istio.istio_affinity_check
author:
  - meshops.istio contributors (!UNKNOWN)
"""

EXAMPLES = r"""
---
- name: Wait until the client's Envoy has the rule and exactly the ready pods
  meshops.istio.istio_affinity_info:
    namespace: sample
    service: nginx-service
    key:
      type: header
      name: user-session
  register: affinity
  until:
    - affinity.services | length > 0
    - affinity.services[0].proxies | length > 0
    - affinity.services[0].proxies | rejectattr('in_sync') | length == 0
  retries: 30
  delay: 2
"""

RETURN = r"""
services:
  description: The service, or nothing where it does not exist.
  returned: always
  type: list
  elements: dict
  contains:
    namespace:
      description: The namespace of the service.
      type: str
    service:
      description: The name of the service.
      type: str
    port:
      description: The port that was looked at.
      type: int
    key:
      description: The key, and whether the option or the rule in force said so.
      type: dict
      sample: {type: header, name: user-session, origin: option}
    algorithm:
      description: The balancing of the first client's cluster, as Envoy calls it.
      type: str
      sample: RING_HASH
    rule:
      description: The DestinationRule that the first client's Envoy was given, as C(namespace/name).
      type: str
      sample: sample/nginx-destinationrule
    backends:
      description: The endpoints of the service.
      type: list
      elements: dict
    proxies:
      description: One entry for each client pod. Empty where no client pod is ready.
      type: list
      elements: dict
      contains:
        client:
          description: The client pod, as C(namespace/name).
          type: str
        hash_policy:
          description: What the route hashes on.
          type: list
          elements: dict
        lb_policy:
          description: The balancing of the cluster. V(null) where the pod has no Envoy or the Envoy no such cluster.
          type: str
        hosts:
          description: The hosts of the cluster.
          type: list
          elements: dict
        in_sync:
          description: Whether route and cluster hash on the key, and the hosts are exactly the ready pods of the service.
          type: bool
        missing:
          description: What is missing for C(in_sync), in words.
          type: str
"""

from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, JsonDict, Key, Membership, ProxyView, Target
from ansible_collections.meshops.istio.plugins.module_utils._options import (
    Connection,
    client_choice,
    client_spec,
    connection_spec,
    given_key,
    key_in_force,
    key_spec,
)
from ansible_collections.meshops.istio.plugins.module_utils._probe import look
from ansible_collections.meshops.istio.plugins.module_utils._result import halves
from ansible_collections.meshops.istio.plugins.module_utils._survey import Cluster, choose_clients, find_target, read_membership


def argument_spec() -> JsonDict:
    return {
        **connection_spec(),
        "namespace": {"type": "str", "required": True},
        "service": {"type": "str", "required": True},
        "port": {"type": "int"},
        "client": client_spec(),
        "key": key_spec(),
    }


def gather(module: Any) -> list[JsonDict]:
    params = module.params
    wanted = given_key(params)
    choice = client_choice(params)
    connection = Connection(module)
    cluster = Cluster(connection.api_client)
    try:
        target = find_target(cluster, params["namespace"], params["service"], choice.namespace, params["port"], "/", "GET")
    except CheckError as error:
        if error.code == "no_service":
            return []
        raise
    membership = read_membership(cluster, target)
    try:
        clients = choose_clients(cluster, choice)
    except CheckError as error:
        if error.code not in ("no_client", "client_not_running"):
            raise
        clients = ()
    views = {client: look(connection.new_api_client(), target, client)[0] for client in clients}
    return [describe(target, wanted, membership, views)]


def describe(target: Target, wanted: Key | None, membership: Membership, views: dict[ClientPod, ProxyView | None]) -> JsonDict:
    """One entry of the result."""
    first = next((view for view in views.values() if view), None)
    key = wanted or key_in_force(first)
    return {
        "namespace": target.namespace,
        "service": target.service,
        "port": target.port,
        "key": {"type": key.type, "name": key.name, "origin": key.origin},
        "algorithm": first.cluster.lb_policy if first and first.cluster else None,
        "rule": first.cluster.rule if first and first.cluster else None,
        "backends": [
            {"pod": backend.pod, "address": backend.address, "node": backend.node, "zone": backend.zone, "ready": backend.ready}
            for backend in membership.backends
        ],
        "proxies": [describe_proxy(client, view, key, membership) for client, view in views.items()],
    }


def describe_proxy(client: ClientPod, view: ProxyView | None, key: Key, membership: Membership) -> JsonDict:
    missing = what_is_missing(client, view, key, membership)
    return {
        "client": str(client),
        "hash_policy": [{"type": policy.type, "name": policy.name} for policy in view.route.hash_policies] if view and view.route else [],
        "lb_policy": view.cluster.lb_policy if view and view.cluster else None,
        "hosts": [{"address": host.address, "health": host.health_flags, "priority": host.priority} for host in view.hosts] if view else [],
        "in_sync": missing is None,
        "missing": missing,
    }


def what_is_missing(client: ClientPod, view: ProxyView | None, key: Key, membership: Membership) -> str | None:
    """None where both halves are there and the hosts are the ready pods."""
    if view is None:
        return f"no Envoy answers in pod {client}" + ("" if client.sidecar else "; it has no sidecar (istio-proxy)")
    if not view.balances_by(key):
        return f"the Envoy of pod {client} {halves(view, key)}"
    ready = {backend.address for backend in membership.ready()}
    hosts = set(view.eligible())
    if hosts != ready:
        return f"the Envoy of pod {client} can choose {len(hosts & ready)} of {len(ready)} ready pods, and {len(hosts - ready)} others"
    if not ready:
        return "the service has no ready pod"
    return None


def main() -> None:
    module = AnsibleK8SModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        services = gather(module)
    except CheckError as error:
        module.fail_json(msg=error.msg, error={"code": error.code, "msg": error.msg}, services=[])
    module.exit_json(changed=False, services=services)


if __name__ == "__main__":
    main()
