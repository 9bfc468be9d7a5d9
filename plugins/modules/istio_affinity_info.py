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
  - Optional permission to list destinationrules, envoyfilters and sidecars.
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
      - The default is one pod with the label for each zone, from the service's own namespace. Without such a pod, only the
        objects of the API server are read, because a pod of one tenant must not vouch for the services of another.
      - Pods whose namespace is named here are read for all services, unless the service's own namespace has some.
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
      description:
        - The key. C(origin) says whether it comes from the option or from the rule in force.
        - V(null) if neither names one.
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
        - V(unknown) if the inspection allows no statement, for example because a page of Envoy could not be read completely, or
          the service is hidden from the client pod. C(why) names the reason.
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
          description: Whether route and cluster hash on the key, and the hosts are exactly the ready pods that the cluster selects.
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

from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect, connection_spec, failing_in_words, make_module
from ansible_collections.meshops.istio.plugins.module_utils._inspection import inspect
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict
from ansible_collections.meshops.istio.plugins.module_utils._options import client_spec, key_spec, read_wanted


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


def main() -> None:
    module = make_module(argument_spec())
    with failing_in_words(module):
        run(module)


def run(module: Any) -> None:
    try:
        services, unread = inspect(read_wanted(module.params), connect(module))
    except CheckError as error:
        module.fail_json(msg=error.msg, error={"code": error.code, "msg": error.msg}, services=[])
    module.exit_json(changed=False, services=services, unread=unread)


if __name__ == "__main__":
    main()
