#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_affinity_info
short_description: Show session affinity as the client's Envoy has it, and what a maintenance would move
version_added: 1.0.0
description:
  - Reads, from client pods inside the mesh, what their Envoy knows about a service - the hash policy of its route, the
    balancing of its cluster and the hosts that it can choose - and compares it with what the API server says.
  - Looks at one service, at every service of some namespaces that asks for session affinity, or at all such services
    of the cluster.
  - Says of each, without sending anything, whether sessions can stick (C(static_verdict)), on which pod each session
    lands, and which sessions a drain, a scale-down or a scale-up would move (O(what_if)).
  - Sends no request to any service. It does not fail on what it finds, only on what keeps it from looking at anything;
    what else may not be read is returned in C(unread).
  - Wait with C(until) for C(in_sync) to know that a rule and the ready pods have reached the client, instead of sleeping.
requirements:
  - kubernetes >= 24.2.0
  - A client pod with a shell and C(curl) 7.84.0 or newer.
  - With O(namespace) and O(service), the permission to get pods and services, to list endpointslices, and to get and
    create pods/exec for the client pods. Without O(service), to list services, pods and endpointslices too. To list
    destinationrules and envoyfilters helps.
options:
  namespace:
    description:
      - The namespace of the service, or several namespaces to look for services that ask for affinity.
      - The default is all namespaces that may be read.
    type: list
    elements: str
    required: false
  service:
    description:
      - The name of one service, which is then shown whether it asks for affinity or not.
      - The default is every service that asks for affinity, by a DestinationRule with C(consistentHash) or by what the
        Envoy of a client pod has.
    type: str
    required: false
  port:
    description:
      - The port of the service, by its number.
      - The default is every port that a client's Envoy balances by a hash; where none is, those that Istio takes for
        HTTP by their names or C(appProtocol), or else all.
    type: int
  client:
    description:
      - The pods inside the mesh from which the services are seen.
      - The default is one labelled pod for each zone in the service's own namespace, or where there is none, in the
        other namespaces that are looked at. Without any, only the objects of the API server are read.
      - The module never runs anything in a pod that is neither named here nor carries the label.
    type: dict
    suboptions:
      pod:
        description: The name of one pod. Give O(client.namespace) too, unless O(namespace) is a single one.
        type: str
      selector:
        description: The label selector of the client pods. One ready pod for each zone is taken.
        type: str
        default: meshops.istio/probe=true
      container:
        description:
          - The container to run in.
          - The default is the one that C(kubectl exec) takes, but never C(istio-proxy).
        type: str
      namespace:
        description: The namespace of the client pods.
        type: str
      max:
        description: Take up to so many ready pods of the selector, whatever their zones.
        type: int
  session_ids:
    description:
      - The values of the key whose pods are to be predicted.
      - They may be somebody's tokens. They are not sent anywhere, but they are part of the result.
    type: list
    elements: str
  what_if:
    description:
      - A maintenance to compute the effect of, for the sessions of O(session_ids), or without these for a thousand
        generated ones.
      - The options can be combined. Pods that are not said to be removed stay.
    type: dict
    suboptions:
      remove_pods:
        description: The names of pods that go.
        type: list
        elements: str
      drain_node:
        description: The name of a node all pods of which go.
        type: str
      replicas:
        description: How many pods there are in the end. The default is as many as now, so what goes is replaced.
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

- name: Find every service of the cluster that asks for affinity
  meshops.istio.istio_affinity_info:
  register: affinity

- name: Show those where sessions can't stick, and why
  ansible.builtin.debug:
    msg: "{{ item.namespace }}/{{ item.service }}:{{ item.port }} {{ item.why }}"
  loop: "{{ affinity.services | selectattr('static_verdict', 'equalto', 'does_not') }}"
  loop_control:
    label: "{{ item.service }}"

- name: Which of these sessions move when node-2 is drained
  meshops.istio.istio_affinity_info:
    namespace: sample
    service: nginx-service
    session_ids: "{{ open_sessions }}"
    what_if:
      drain_node: node-2
  register: drain

- name: Warn their owners
  ansible.builtin.debug:
    msg: >-
      {{ drain.services[0].what_if.must_move | length }} sessions lose their pod; with new pods in place
      {{ drain.services[0].what_if.expected_share.low }} to {{ drain.services[0].what_if.expected_share.high }} of all move.
"""

RETURN = r"""
services:
  description: One entry for each port of each service that was looked for. Nothing where there is none.
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
      description: The balancing of the first client's cluster, as Envoy calls it. V(null) where no Envoy was read.
      type: str
      sample: RING_HASH
    rule:
      description:
        - The DestinationRule that the first client's Envoy was given, as C(namespace/name).
        - Where no Envoy was read, the first one that asks for affinity.
      type: str
      sample: sample/nginx-destinationrule
    static_verdict:
      description:
        - Whether sessions can stick, by what was read. V(sticks) where every client's Envoy has both halves of
          affinity for the key, all of them balance alike, and each can choose every ready pod. V(does_not) where
          something found there breaks it.
        - V(unknown) where what was read does not say; C(why) names what forbids to say.
      type: str
      sample: sticks
    why:
      description: The reason for C(static_verdict), in a sentence.
      type: str
      sample: the Envoy of pod sample/test-pod hashes on header user-session by RING_HASH over 3 ready pods
    findings:
      description: Causes of broken affinity that were found, root cause first, as M(meshops.istio.istio_affinity_check) has them.
      type: list
      elements: dict
    prediction:
      description: Whether the pods of sessions can be predicted, and if not, what forbids it.
      type: dict
      sample: {available: true, reason: null}
    sessions:
      description: The sessions of O(session_ids), or those generated for O(what_if).
      type: list
      elements: dict
      contains:
        id:
          description: The value of the key.
          type: str
        predicted:
          description: The pod that it lands on. V(null) where that can't be predicted.
          type: str
    what_if:
      description: The effect of O(what_if). V(null) without that option.
      type: dict
      contains:
        must_move:
          description: The sessions on the pods that go. Exact. V(null) where not known.
          type: list
          elements: str
        if_not_replaced:
          description: The sessions that move if nothing takes the place of these pods, those of C(must_move) among them. Exact. V(null) where not known.
          type: list
          elements: str
        expected_share:
          description:
            - C(low) and C(high), the share of all sessions that move to the end of the maintenance, new pods in place. A
              new pod's address decides what it takes over and is not known before, so this is a range that
              holds in 99 of 100 cases.
            - Both are the same where no new pod is to come.
          type: dict
          sample: {low: 0.303, high: 0.375}
        ring_hash_share:
          description: The share that usually moves in this maintenance by ring hash.
          type: float
        maglev_share:
          description: The share that usually moves in this maintenance by Maglev.
          type: float
        pods:
          description: How many pods there are C(now), how many of them are C(removed), and how many there are C(then).
          type: dict
        reason:
          description: What forbids to compute what is V(null).
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
          description: Address and port.
          type: str
        node:
          description: The node that it runs on.
          type: str
        zone:
          description: The zone of that node.
          type: str
        ready:
          description: Whether it is ready.
          type: bool
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
unread:
  description: What this account may not read or what could not be looked at, in sentences.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect, connection_spec
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
    module = AnsibleK8SModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        services, unread = inspect(read_wanted(module.params), connect(module))
    except CheckError as error:
        module.fail_json(msg=error.msg, error={"code": error.code, "msg": error.msg}, services=[])
    module.exit_json(changed=False, services=services, unread=unread)


if __name__ == "__main__":
    main()
