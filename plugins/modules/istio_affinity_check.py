#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_affinity_check
short_description: Prove that every session sticks to one pod behind Istio
version_added: 1.0.0
description:
  - Sends requests with many session IDs from a client pod inside the mesh to a service and fails if any session ID
    lands on more than one pod.
  - It also fails if affinity could not be proven, for example as backends came and went during the measurement, or as
    requests without a session ID did not spread either. The return value RV(verdict) tells these cases apart.
  - One exec in each client pod runs C(curl) for all requests. Nothing is installed and no object is changed.
  - A verdict holds for the client pods, the port and the path that were probed, while the set of backends stays as it is.
    Istio promises no more, as consistent hashing moves some sessions whenever a backend comes or goes.
requirements:
  - kubernetes >= 24.2.0
  - A client pod with a shell and C(curl) 7.84.0 or newer.
  - The permission to get pods and services, to list endpointslices, and to get and create pods/exec for the client
    pods. With list on destinationrules, virtualservices, sidecars and envoyfilters, a rule that changed during the
    measurement is noticed by its generation too, and with list on all of these and on serviceentries in all
    namespaces, and get on namespaces, RV(findings) can name every cause.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - meshops.istio.attributes
  - meshops.istio.target
attributes:
  check_mode:
    support: full
    details:
      - Reads and plans, but sends no request. RV(verdict) is then V(null) and RV(requests) has the planned number.
      - A service that does not exist yet is no failure in check mode, so that a play that would create it can go on.
options:
  path:
    description: The path to request, with its query string if any, percent-encoded.
    type: str
    default: /
  method:
    description: The request method. Methods that may change something in the application are not offered.
    type: str
    choices: [GET, HEAD, OPTIONS]
    default: GET
  headers:
    description: More headers to send with each request, for example an authorization.
    type: dict
  profile:
    description:
      - How much to send where O(sessions), O(session_ids) and O(requests) do not say it.
      - V(quick) sends 3 requests for each session, V(default) 20 and V(deep) 50.
      - V(quick) and V(default) use 20 sessions or 12 for each ready backend, V(deep) at least 60; never more than 120.
    type: str
    choices: [quick, default, deep]
    default: default
  sessions:
    description:
      - How many session IDs to generate, called V(meshops-check-1) and so on.
      - The spread over the pods is always measured with at least 20; the module adds what is missing.
      - On a port that Envoy takes for TCP, with O(key.type=source_ip), each client pod is one session by its own address. It sends
        the requests of all of them.
    type: int
  session_ids:
    description:
      - The session IDs to send, as they are. With O(key.type=source_ip) they are addresses, sent as C(X-Forwarded-For); they are
        refused on a port that Envoy takes for TCP, where no header is read.
      - Set C(no_log) on the task if they are tokens of real users.
    type: list
    elements: str
  requests:
    description: How many requests to send for each session ID, at least 2.
    type: int
  concurrency:
    description: How many requests are in flight at once, from each client.
    type: int
    default: 10
  rate:
    description:
      - The most requests in any second, from all clients together.
      - Without it, requests are sent as fast as O(concurrency) allows.
    type: int
  max_requests:
    description:
      - The most requests to send, from all clients together and over all O(attempts).
      - A plan of more is refused before anything is sent, and another attempt that would exceed it is not made.
    type: int
  stop_on:
    description:
      - When to stop for the service's own sake. The verdict is then V(inconclusive), with the RV(error) V(stopped), unless
        a session was seen on two pods before.
      - Whoever wrote the answer counts, the application as well as an Envoy or a gateway on the way.
      - Without O(rate), no more requests than O(concurrency) are sent before their answers are looked at.
    type: dict
    suboptions:
      statuses:
        description: Stop on the first answer with one of these statuses.
        type: list
        elements: int
        default: [429]
      server_errors:
        description: Stop once more answers than this share of the planned requests are server errors (5xx).
        type: float
  timeout:
    description: Seconds for the whole run. The deadline also ends it inside the client pods.
    type: int
    default: 300
  connection:
    description:
      - V(new) opens a connection for each request, so that a balancer of connections can't be taken for affinity.
      - With V(keepalive) connections are reused. The result is then at best V(not_proven).
    type: str
    choices: [new, keepalive]
    default: new
  via:
    description:
      - Go through a gateway, as a client outside the mesh does, instead of to the service itself.
      - Rule and hosts are then read from every ready pod of the gateway, in its container C(istio-proxy).
      - The requests may meet any pod of the gateway; that these agree is part of the verdict.
    type: dict
    suboptions:
      namespace:
        description: The namespace of the gateway's Service.
        type: str
        default: istio-system
      service:
        description: The Service of the gateway. Either this or O(via.address) is required.
        type: str
      address:
        description:
          - A host name or an address of a gateway that is no Service of this cluster.
          - What its Envoy knows can't be read then, so RV(prediction) is not available.
        type: str
      host:
        description: The Host header, as the gateway's routes know it.
        type: str
        required: true
      port:
        description: The port of the gateway.
        type: int
        default: 80
  identify:
    description:
      - How the pod that answers is known.
      - V(header) takes it from the response headers of O(identify_header).
      - V(body) takes it from the response body by O(identify_pattern). Requests are then sent one after the other.
      - V(access_log) looks each request up in the log of the client's sidecar, by a request ID that the check sets. The
        log must be on, and the account needs to get pods/log in the namespace of the client.
      - V(upstream) reads the counters of the client's sidecar around the requests of each session, for an application
        that says nothing of itself. Other requests from the same client to the service at the same time spoil it.
      - V(auto) takes V(header) if the first answers name a backend, else V(upstream).
    type: str
    choices: [auto, header, body, access_log, upstream]
    default: auto
  identify_pattern:
    description:
      - A Python regular expression whose first group, or all of it, is the name or address of the pod in the body.
      - Required with O(identify=body), and of no use otherwise.
    type: str
  identify_header:
    description:
      - The response headers in which the application names the pod that answers, the most trusted first. The value must
        be the name, the IP address or the C(address:port) of exactly one backend.
    type: list
    elements: str
    default: [X-Pod-Name, X-Pod, X-Hostname, X-Served-By, X-Backend-Server, X-Instance-Id]
  max_flip_rate:
    description:
      - The share of requests on which sessions might still move, by the 95 % bound of what was measured, that is good
        enough for V(passed). Every request without an answer from a known pod counts as a move.
      - The default is V(0.02), and V(0.08) with O(profile=quick), which sends too little to prove more.
    type: float
  fail_on:
    description:
      - The verdicts that fail the task, besides V(error).
      - A session that was seen on two pods fails the task whatever this says, unless O(tolerate_explained_moves=true)
        and every move went with a change of the backends.
    type: list
    elements: str
    choices: [failed, inconclusive, not_proven]
    default: [failed, inconclusive, not_proven]
  tolerate_explained_moves:
    description: Do not fail for sessions that moved with a change of the backends if V(inconclusive) is not in O(fail_on).
    type: bool
    default: false
  attempts:
    description:
      - How often to measure at most. Only a result that is V(inconclusive) for no other reason than a change of the
        backends is measured again. Every attempt is in RV(attempts).
    type: int
    default: 1
  settle:
    description: Seconds that the backends must have been the same before another attempt, waited for up to O(timeout).
    type: int
    default: 10
  explain:
    description:
      - When to look for causes, see RV(findings).
      - V(on_failure) does if the verdict is not V(passed), V(always) also then, V(never) not at all.
      - That reads the service, its pods, namespaces and Istio's rules. What the account may not read is left out.
    type: str
    choices: [on_failure, always, never]
    default: on_failure
  seed:
    description: The number that decides the order of the requests. A random one is taken and returned otherwise.
    type: int
  max_sessions_returned:
    description: The most entries in RV(sessions). Sessions that moved come first. All counts stay complete.
    type: int
    default: 200
seealso:
  - module: meshops.istio.istio_affinity_info
  - module: kubernetes.core.k8s_exec
  - name: Consistent hashing in Istio
    description: The reference of the rule that is checked.
    link: https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB
author:
  - meshops.istio contributors (!UNKNOWN)
"""

EXAMPLES = r"""
---
- name: Prove that the sample's sessions stick
  meshops.istio.istio_affinity_check:
    namespace: sample
    service: nginx-service
    key:
      type: header
      name: user-session

- name: Check a shop's cart gently, from a named pod, by its cookie
  meshops.istio.istio_affinity_check:
    namespace: shop
    service: cart
    port: 8080
    path: /healthz
    client:
      namespace: probes
      pod: probe-0
    key:
      type: cookie
      name: cart
    rate: 20
    concurrency: 4
    max_requests: 2500
    stop_on:
      statuses: [429]
      server_errors: 0.02

- name: Look at the result without failing the play
  meshops.istio.istio_affinity_check:
    namespace: sample
    service: nginx-service
    fail_on: []
    tolerate_explained_moves: true
  register: affinity
  failed_when: affinity.verdict == 'error'

- name: Show what was found
  ansible.builtin.debug:
    var: affinity.msg
"""

RETURN = r"""
verdict:
  description:
    - V(passed) if every session stayed on one pod, sessions spread, requests without the key spread, and the bound is met.
    - V(failed) if a session landed on more than one pod without a change of the backends that explains it.
    - V(inconclusive) if nothing can be said, for example since backends or rules changed.
    - V(not_proven) if sessions stuck, but perhaps for another reason than the key.
    - V(error) if the check could not run.
    - V(null) in check mode.
  returned: always
  type: str
  sample: passed
error:
  description: Why the check could not run, or why it broke off.
  returned: always
  type: dict
  contains:
    code:
      description: A stable word, for example V(no_service) or V(forbidden).
      type: str
    msg:
      description: The sentence for people.
      type: str
msg:
  description: The verdict with its reasons, the next step and what was measured.
  returned: always
  type: str
  sample: >-
    passed: 36 of 36 sessions stayed on one pod each; at most 0.44% of requests leave their session's pod (95 %).
    Measured: 740 requests from sample/test-pod to http://nginx-service/ (port 80), 3 ready backends, 0.9 s.
key:
  description: What the sessions were told apart by, and whether the option or the rule in force said so.
  returned: always
  type: dict
  sample: {type: header, name: user-session, origin: option}
sessions:
  description: The pods that each session landed on, up to O(max_sessions_returned) sessions.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The session ID.
      type: str
    pods:
      description: The number of requests by pod.
      type: dict
      sample: {nginx-deployment-5d9c7b8f4-abcde: 20}
    by_client:
      description: The same for each client pod.
      type: dict
    predicted:
      description: The pod that it must land on by the state of the client's Envoy. V(null) where RV(prediction) is not available.
      type: str
    moved:
      description: Whether it landed on more than one pod.
      type: bool
    explained:
      description: Whether every move went with a change of the backends. V(null) where it did not move.
      type: bool
requests:
  description: The number of requests by what became of them. C(failed) had no answer. C(by_status) counts the answers.
  returned: always
  type: dict
  sample: {planned: 740, sent: 740, answered: 740, identified: 740, failed: 0, by_status: {'200': 740}}
controls:
  description:
    - The controls that keep a result from being right by accident, each with C(state) V(passed), V(failed) or
      V(not_applicable), and C(detail).
    - C(spread) is whether different sessions use different pods, C(keyless) whether requests without the key do.
  returned: always
  type: dict
backends:
  description: The ready backends, whether every client's Envoy can choose them, and how many sessions each got.
  returned: always
  type: list
  elements: dict
clients:
  description: The pods that sent the requests.
  returned: always
  type: list
  elements: dict
membership:
  description: Whether the set of backends changed, and what happened to backends, rules and the clients' Envoys.
  returned: always
  type: dict
bounds:
  description:
    - C(false_pass) is the chance that balancing at random had shown no move either.
    - C(flip_rate_95) is the share of requests on which sessions might move at most, with a confidence of 95 %.
  returned: always
  type: dict
prediction:
  description:
    - Whether the landing pods could be computed from the clients' Envoys, and how many sessions landed there.
    - C(available) is V(false), with the C(reason), where something forbids it (weights, priorities, several hash
      policies, a set of hosts that changed) and where what was computed does not fit what was seen.
  returned: always
  type: dict
latency_ms:
  description: Percentiles of the time that the requests took, in milliseconds.
  returned: always
  type: dict
findings:
  description:
    - Why sessions do not stick, or why that could not be proven, the root cause first. RV(msg) has the first one in a sentence.
    - A healthy mesh has no finding of severity V(error) or V(warning). Every cause that is known is described in
      docs/my-session-does-not-stick.md of the collection.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The cause, as the catalogue calls it.
      type: str
      sample: C10
    severity:
      description: V(error), V(warning) or V(info).
      type: str
    title:
      description: The cause in a sentence.
      type: str
    evidence:
      description: What shows it, all seen in this run, each with C(source), C(field) and C(value).
      type: list
      elements: dict
    fix:
      description:
        - What puts it right.
        - C(kind) is V(yaml) (apply C(body) with C(kubectl apply)), V(command) (run C(body) in a shell) or V(manual).
      type: dict
    reference:
      description: Where to read about it.
      type: str
identified_by:
  description: How the answering pod was known, as O(identify) calls it, with the header that was taken.
  returned: always
  type: str
  sample: header X-Pod-Name
attempts:
  description: The verdict, message and events of every attempt, and how many requests it sent.
  returned: always
  type: list
  elements: dict
versions:
  description: The versions of Kubernetes, of the client's proxy and of curl.
  returned: always
  type: dict
seed:
  description: The number that decided the order of the requests.
  returned: always
  type: int
elapsed:
  description: Seconds from the first look to the last.
  returned: always
  type: float
"""

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils._check import check, fails_task
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect, connection_spec
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict
from ansible_collections.meshops.istio.plugins.module_utils._options import client_spec, key_spec, read_settings
from ansible_collections.meshops.istio.plugins.module_utils._probe.watch import end_with_the_play
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import IDENTITY_HEADERS
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import METHODS
from ansible_collections.meshops.istio.plugins.module_utils._result import error_result


def argument_spec() -> JsonDict:
    return {
        **connection_spec(),
        "namespace": {"type": "str", "required": True},
        "service": {"type": "str", "required": True},
        "port": {"type": "int"},
        "client": client_spec(),
        "key": key_spec(),
        "path": {"type": "str", "default": "/"},
        "method": {"type": "str", "default": "GET", "choices": ["GET", "HEAD", "OPTIONS"]},
        "headers": {"type": "dict", "no_log": True},
        "profile": {"type": "str", "default": "default", "choices": ["quick", "default", "deep"]},
        "sessions": {"type": "int"},
        "session_ids": {"type": "list", "elements": "str", "no_log": False},
        "requests": {"type": "int"},
        "concurrency": {"type": "int", "default": 10},
        "rate": {"type": "int"},
        "max_requests": {"type": "int"},
        "stop_on": {
            "type": "dict",
            "options": {
                "statuses": {"type": "list", "elements": "int", "default": [429]},
                "server_errors": {"type": "float"},
            },
        },
        "timeout": {"type": "int", "default": 300},
        "connection": {"type": "str", "default": "new", "choices": ["new", "keepalive"]},
        "via": {
            "type": "dict",
            "options": {
                "namespace": {"type": "str", "default": "istio-system"},
                "service": {"type": "str"},
                "address": {"type": "str"},
                "host": {"type": "str", "required": True},
                "port": {"type": "int", "default": 80},
            },
        },
        "identify": {"type": "str", "default": "auto", "choices": ["auto", *METHODS]},
        "identify_pattern": {"type": "str"},
        "identify_header": {"type": "list", "elements": "str", "default": list(IDENTITY_HEADERS)},
        "max_flip_rate": {"type": "float"},
        "fail_on": {
            "type": "list",
            "elements": "str",
            "choices": ["failed", "inconclusive", "not_proven"],
            "default": ["failed", "inconclusive", "not_proven"],
        },
        "tolerate_explained_moves": {"type": "bool", "default": False},
        "attempts": {"type": "int", "default": 1},
        "settle": {"type": "int", "default": 10},
        "explain": {"type": "str", "default": "on_failure", "choices": ["on_failure", "always", "never"]},
        "seed": {"type": "int"},
        "max_sessions_returned": {"type": "int", "default": 200},
    }


def main() -> None:
    module = AnsibleK8SModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[("sessions", "session_ids")],
        supports_check_mode=True,
    )
    end_with_the_play()
    seed = None
    moved = False
    try:
        settings = read_settings(module.params)
        seed = settings.seed
        result, moved = check(module.params, settings, connect(module), check_mode=module.check_mode)
    except CheckError as error:
        result = error_result(error, seed)
        if module.check_mode and error.code in ("no_service", "no_client"):
            result.update(verdict=None, error=None, msg=f"check mode: nothing to check yet. {error.msg}")
    if fails_task(result, moved, module.params):
        module.fail_json(changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
