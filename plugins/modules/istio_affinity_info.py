#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_affinity_info
short_description: Inspect session affinity in the clients' Envoys, and predict which sessions a maintenance moves
version_added: 1.0.0
description:
  - Reads the state of Envoy in client pods inside the mesh - the hash policy of the service's route, the load balancing
    policy of its cluster and the hosts that Envoy can select - and compares it with the objects of the API server.
  - Inspects one service, every service of some namespaces that asks for session affinity, or all such services of the
    cluster.
  - Reports for each service whether sessions can stick (C(static_verdict)), on which pod each session lands, and which
    sessions a drain, a scale-down or a scale-up would move (O(what_if)).
  - Sends no request to any service. The module does not fail because of its findings, only if nothing can be inspected.
    Objects that cannot be read are listed in RV(unread).
  - To wait until a rule and the ready pods have reached the client, use C(until) with C(in_sync) instead of a pause.
requirements:
  - kubernetes >= 24.2.0
  - A client pod with a shell and C(curl) 7.84.0 or newer.
  - With O(namespace) and O(service), permission to get pods and services, to list endpointslices, and to get and create
    pods/exec for the client pods. Without O(service), also permission to list services, pods and endpointslices.
  - Optional permission to list destinationrules and envoyfilters.
options:
  namespace:
    description:
      - The namespace of the service, or several namespaces to search for services that ask for affinity.
      - The default is all namespaces that the account may read.
    type: list
    elements: str
    required: false
  service:
    description:
      - The name of one service, which is inspected even if it does not ask for affinity.
      - The default is every service that asks for affinity, by a DestinationRule with C(consistentHash) or in the
        configuration of a client pod's Envoy.
    type: str
    required: false
  port:
    description:
      - The port number of the service.
      - The default is every port that a client's Envoy balances by a hash. Without any, the default is the ports that
        Istio treats as HTTP by their names or C(appProtocol), or else all ports.
    type: int
  client:
    description:
      - The pods inside the mesh whose Envoys are read.
      - The default is one pod with the label for each zone, from the service's own namespace, or if it has none, from
        the other inspected namespaces. Without such a pod, only the objects of the API server are read.
      - The module only runs commands in pods that are named here or carry the label.
    type: dict
    suboptions:
      pod:
        description: The name of one pod. Requires O(client.namespace), unless O(namespace) is a single namespace.
        type: str
      selector:
        description: The label selector of the client pods. One ready pod in each zone is used.
        type: str
        default: meshops.istio/probe=true
      container:
        description:
          - The container that runs the commands.
          - The default is the container that C(kubectl exec) uses, but never C(istio-proxy).
        type: str
      namespace:
        description: The namespace of the client pods.
        type: str
      max:
        description: The maximum number of client pods, regardless of zone.
        type: int
  session_ids:
    description:
      - The values of the key to predict the landing pods of.
      - They are not sent to any service, but they are part of the result. Protect the result if they are tokens of real users.
    type: list
    elements: str
  what_if:
    description:
      - The maintenance to predict the effect of, for the sessions of O(session_ids), or by default for a thousand
        generated sessions.
      - The options can be combined. All other pods stay.
    type: dict
    suboptions:
      remove_pods:
        description: The names of the pods to remove.
        type: list
        elements: str
      drain_node:
        description: The node to drain. All its pods are removed.
        type: str
      replicas:
        description: The number of replicas after the change. By default unchanged, which means that removed pods are replaced.
        type: int
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

- name: Inspect every service of the cluster that asks for affinity
  meshops.istio.istio_affinity_info:
  register: affinity

- name: Show services where sessions cannot stick, and why
  ansible.builtin.debug:
    msg: "{{ item.namespace }}/{{ item.service }}:{{ item.port }} {{ item.why }}"
  loop: "{{ affinity.services | selectattr('static_verdict', 'equalto', 'does_not') }}"
  loop_control:
    label: "{{ item.service }}"

- name: Predict which sessions move when node-2 is drained
  meshops.istio.istio_affinity_info:
    namespace: sample
    service: nginx-service
    session_ids: "{{ open_sessions }}"
    what_if:
      drain_node: node-2
  register: drain

- name: Show the number of affected sessions
  ansible.builtin.debug:
    msg: >-
      {{ drain.services[0].what_if.must_move | length }} sessions lose their pod; with new pods in place
      {{ drain.services[0].what_if.expected_share.low }} to {{ drain.services[0].what_if.expected_share.high }} of all move.
"""

RETURN = r"""
services:
  description: One entry for each port of each inspected service. Empty if no service was found.
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
      description: The port number.
      type: int
    key:
      description: The key. C(origin) says whether it comes from the option or from the rule in force.
      type: dict
      sample: {type: header, name: user-session, origin: option}
    algorithm:
      description: The load balancing policy of the first client's cluster, as named by Envoy. V(null) if no Envoy was read.
      type: str
      sample: RING_HASH
    rule:
      description:
        - The DestinationRule that the first client's Envoy uses, as C(namespace/name).
        - If no Envoy was read, the first DestinationRule that asks for affinity.
      type: str
      sample: sample/nginx-destinationrule
    static_verdict:
      description:
        - Whether sessions can stick according to the inspection. V(sticks) if every client's Envoy has both halves of
          affinity for the key, all Envoys balance alike, and each can select every ready pod. V(does_not) if a finding
          breaks affinity.
        - V(unknown) if the inspection allows no statement. C(why) names the reason.
      type: str
      sample: sticks
    why:
      description: The reason for C(static_verdict), in a sentence.
      type: str
      sample: the Envoy of pod sample/test-pod hashes on header user-session by RING_HASH over 3 ready pods
    findings:
      description: The causes of broken affinity, the root cause first, in the form that M(meshops.istio.istio_affinity_check) returns.
      type: list
      elements: dict
    prediction:
      description: Whether the landing pods of sessions can be predicted, and if not, the reason.
      type: dict
      sample: {available: true, reason: null}
    sessions:
      description: The sessions of O(session_ids), or the sessions generated for O(what_if).
      type: list
      elements: dict
      contains:
        id:
          description: The value of the key.
          type: str
        predicted:
          description: The landing pod of the session. V(null) if it cannot be predicted.
          type: str
    what_if:
      description: The effect of O(what_if). V(null) without that option.
      type: dict
      contains:
        must_move:
          description: The sessions on the removed pods. Exact. V(null) if unknown.
          type: list
          elements: str
        if_not_replaced:
          description: The sessions that move if the removed pods are not replaced, including those of C(must_move). Exact. V(null) if unknown.
          type: list
          elements: str
        expected_share:
          description:
            - C(low) and C(high), the share of all sessions that have moved by the end of the maintenance, with the new
              pods in place. The address of a new pod decides which sessions it takes over and is not known in advance.
              Therefore this is a range that holds in 99 of 100 cases.
            - Both are equal if no new pod is created.
          type: dict
          sample: {low: 0.303, high: 0.375}
        ring_hash_share:
          description: The share of sessions that typically moves in this maintenance with ring hash.
          type: float
        maglev_share:
          description: The share of sessions that typically moves in this maintenance with Maglev.
          type: float
        pods:
          description: The number of pods before (C(now)) and after the maintenance (C(then)), and the number of C(removed) pods.
          type: dict
        reason:
          description: Why values of this result are V(null).
          type: str
    backends:
      description: The endpoints of the service.
      type: list
      elements: dict
      contains:
        pod:
          description: The name of the pod.
          type: str
        address:
          description: The address and port of the pod.
          type: str
        node:
          description: The node that the pod runs on.
          type: str
        zone:
          description: The zone of that node.
          type: str
        ready:
          description: Whether the pod is ready.
          type: bool
    proxies:
      description: One entry for each client pod. Empty if no client pod is ready.
      type: list
      elements: dict
      contains:
        client:
          description: The client pod, as C(namespace/name).
          type: str
        hash_policy:
          description: The hash policies of the route.
          type: list
          elements: dict
        lb_policy:
          description: The load balancing policy of the cluster. V(null) if the pod has no Envoy, or the Envoy no such cluster.
          type: str
        hosts:
          description: The hosts of the cluster.
          type: list
          elements: dict
        in_sync:
          description: Whether route and cluster hash on the key, and the hosts are exactly the ready pods of the service.
          type: bool
        missing:
          description: What is missing for C(in_sync), in a sentence.
          type: str
unread:
  description: Objects that the account may not read or that could not be inspected, in sentences.
  returned: always
  type: list
  elements: str
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils import _what_if
from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_seen
from ansible_collections.meshops.istio.plugins.module_utils._discovery import Found, Scope, find, look_at_all, read_objects
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, ClientPod, Facts, JsonDict, Key, Membership, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._options import (
    DEFAULT_KEY,
    Connection,
    client_choice,
    client_spec,
    connection_spec,
    given_key,
    key_in_force,
    key_spec,
)
from ansible_collections.meshops.istio.plugins.module_utils._plan import generated
from ansible_collections.meshops.istio.plugins.module_utils._prediction import Prediction, predict
from ansible_collections.meshops.istio.plugins.module_utils._result import finding_result, halves
from ansible_collections.meshops.istio.plugins.module_utils._ring import hashes_of
from ansible_collections.meshops.istio.plugins.module_utils._static import Seen, static_verdict
from ansible_collections.meshops.istio.plugins.module_utils._survey import ClientChoice, Cluster, read_facts
from ansible_collections.meshops.istio.plugins.module_utils._what_if import Balancing, Plan


def argument_spec() -> JsonDict:
    return {
        **connection_spec(),
        "namespace": {"type": "list", "elements": "str"},
        "service": {"type": "str"},
        "port": {"type": "int"},
        "client": client_spec(),
        "key": key_spec(),
        "session_ids": {"type": "list", "elements": "str", "no_log": False},
        "what_if": {
            "type": "dict",
            "options": {
                "remove_pods": {"type": "list", "elements": "str"},
                "drain_node": {"type": "str"},
                "replicas": {"type": "int"},
            },
        },
    }


@dataclass(frozen=True)
class Wanted:
    """The options, read and found to make sense."""

    scope: Scope
    choice: ClientChoice
    key: Key | None
    sessions: tuple[str, ...]
    plan: Plan | None


def read_wanted(params: JsonDict) -> Wanted:
    """Raises L(CheckError) with C(bad_option)."""
    namespaces = tuple(dict.fromkeys(params.get("namespace") or ())) or None
    if namespaces is not None and not all(namespaces):
        raise CheckError("bad_option", "Option namespace holds an empty name. Next: correct it, or leave the option out for all namespaces.")
    alone = namespaces[0] if namespaces is not None and len(namespaces) == 1 else ""
    choice = client_choice({**params, "namespace": alone})
    if choice.pod is not None and not choice.namespace:
        raise CheckError("bad_option", "Option client.pod needs client.namespace, as the option namespace does not say which one is meant.")
    sessions = tuple(dict.fromkeys(params.get("session_ids") or ()))
    scope = Scope(namespaces, params.get("service"), params.get("port"))
    return Wanted(scope, choice, given_key(params), sessions, _what_if.read_plan(params.get("what_if")))


def gather(module: Any) -> tuple[list[JsonDict], list[str]]:
    """The services, and what could not be read."""
    wanted = read_wanted(module.params)
    connection = Connection(module)
    cluster = Cluster(connection.client)
    objects = read_objects(cluster, wanted.scope, wanted.choice)
    looks = look_at_all(connection.configuration, wanted.scope, objects)
    found = find(wanted.scope, objects, looks)
    if wanted.plan and found:
        check_plan(cluster, wanted.plan, found)
    unread = [*objects.unread, *(look.error for look in looks.values() if look.error)]
    facts = read_facts(cluster, [entry.target for entry in found], list(looks)) if found else None
    return [{**describe(entry, wanted), "findings": causes_of(entry, wanted, facts)} for entry in found], list(dict.fromkeys(unread))


def causes_of(entry: Found, wanted: Wanted, facts: Facts | None) -> list[JsonDict]:
    """What can be found without a request. Where the endpoints may not be read there is too little to say."""
    if facts is None or entry.membership is None:
        return []
    key = wanted.key or key_of(entry, next((seen.view for seen in entry.seen if seen.view), None))
    expected = wanted.key is not None or bool(entry.asked.keys)
    situation = situation_seen(entry.target, key, facts, [(seen.client, seen.view) for seen in entry.seen if not seen.error], entry.membership, expected)
    return [finding_result(finding) for finding in find_causes(situation)]


def check_plan(cluster: Cluster, plan: Plan, found: Sequence[Found]) -> None:
    """The pods and the node of the option must be there. Raises L(CheckError) with C(bad_option)."""
    backends = [backend for entry in found for backend in backends_of(entry)]
    pods = {backend.pod for backend in backends}
    unknown = [pod for pod in plan.remove_pods if pod not in pods]
    if unknown:
        listed = ", ".join(sorted(pods)[:10]) or "none"
        raise CheckError("bad_option", f"Option what_if.remove_pods: no service looked at has a pod {unknown[0]}; there are {listed}. Next: correct it.")
    nodes = {backend.node for backend in backends if backend.node}
    if plan.drain_node and plan.drain_node not in nodes and not node_exists(cluster, plan.drain_node):
        listed = ", ".join(sorted(nodes)) or "none"
        raise CheckError(
            "bad_option", f"Option what_if.drain_node: there is no node {plan.drain_node}; the pods looked at are on {listed}. Next: kubectl get nodes."
        )


def node_exists(cluster: Cluster, name: str) -> bool:
    """Whether there is such a node; not known, so no, where nodes may not be read."""
    try:
        return cluster.node(name) is not None
    except CheckError as error:
        if error.code != "forbidden":
            raise
        return False


def backends_of(entry: Found) -> tuple[Backend, ...]:
    return entry.membership.backends if entry.membership else ()


def describe(entry: Found, wanted: Wanted) -> JsonDict:
    """One entry of the result."""
    views = [seen.view for seen in entry.seen]
    first = next((view for view in views if view), None)
    key = wanted.key or key_of(entry, first)
    static = static_verdict(key, entry.target, entry.asked, entry.membership, entry.seen)
    sessions = wanted.sessions
    if wanted.plan and not sessions:
        sessions = tuple(generated(key, number) for number in range(1, _what_if.SESSIONS + 1))
    prediction = predict(key, sessions, views, backends_of(entry))
    return {
        "namespace": entry.target.namespace,
        "service": entry.target.service,
        "port": entry.target.port,
        "key": {"type": key.type, "name": key.name, "origin": key.origin},
        "algorithm": first.cluster.lb_policy if first and first.cluster else None,
        "rule": rule_of(entry, first),
        "static_verdict": static.verdict,
        "why": static.why,
        "prediction": {"available": prediction.available, "reason": prediction.reason},
        "sessions": [{"id": session, "predicted": prediction.pods.get(session)} for session in sessions],
        "what_if": what_if(wanted.plan, key, prediction, first, entry, sessions),
        "backends": [
            {"pod": backend.pod, "address": backend.address, "node": backend.node, "zone": backend.zone, "ready": backend.ready}
            for backend in backends_of(entry)
        ],
        "proxies": [describe_proxy(seen, key, entry.membership) for seen in entry.seen],
    }


def key_of(entry: Found, first: ProxyView | None) -> Key:
    """By what the first client's Envoy has, else by what the objects ask for."""
    in_force = key_in_force(first)
    return entry.asked.keys[0] if in_force == DEFAULT_KEY and entry.asked.keys else in_force


def rule_of(entry: Found, first: ProxyView | None) -> str | None:
    if first is not None and first.cluster is not None:
        return first.cluster.rule
    return next(iter(entry.asked.rules), None)


def what_if(plan: Plan | None, key: Key, prediction: Prediction, view: ProxyView | None, entry: Found, sessions: Sequence[str]) -> JsonDict | None:
    if plan is None:
        return None
    if not prediction.available or view is None or view.cluster is None:
        return _what_if.no_answer(prediction.reason or "no Envoy was read")
    if len({host.weight for host in view.hosts if host.healthy}) > 1:
        return _what_if.no_answer("hosts have different weights, and that of a new pod is not known")
    balancing = Balancing.of(view.cluster, view.eligible())
    return _what_if.answer(plan, balancing, backends_of(entry), sessions, hashes_of(view, key, sessions))


def describe_proxy(seen: Seen, key: Key, membership: Membership | None) -> JsonDict:
    view = seen.view
    missing = seen.error or what_is_missing(seen.client, view, key, membership)
    return {
        "client": str(seen.client),
        "hash_policy": [{"type": policy.type, "name": policy.name} for policy in view.route.hash_policies] if view and view.route else [],
        "lb_policy": view.cluster.lb_policy if view and view.cluster else None,
        "hosts": [{"address": host.address, "health": host.health_flags, "priority": host.priority} for host in view.hosts] if view else [],
        "in_sync": missing is None,
        "missing": missing,
    }


def what_is_missing(client: ClientPod, view: ProxyView | None, key: Key, membership: Membership | None) -> str | None:
    """None where both halves are there and the hosts are the ready pods."""
    if view is None:
        return f"no Envoy answers in pod {client}" + ("" if client.sidecar else "; it has no sidecar (istio-proxy)")
    if not view.balances_by(key):
        return f"the Envoy of pod {client} {halves(view, key)}"
    if membership is None:
        return "the endpoints of the service may not be read"
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
        services, unread = gather(module)
    except CheckError as error:
        module.fail_json(msg=error.msg, error={"code": error.code, "msg": error.msg}, services=[])
    module.exit_json(changed=False, services=services, unread=unread)


if __name__ == "__main__":
    main()
