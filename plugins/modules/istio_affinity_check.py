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
  - Sends requests with many session IDs from a client pod inside the mesh to a service, and fails if any session ID
    lands on more than one pod.
  - Also fails if affinity could not be proven, for example because the backends changed during the measurement, or
    because requests without a session ID did not spread either. The return value RV(verdict) tells these cases apart.
  - Runs C(curl) in each client pod, with one exec for all requests. Nothing is installed and no object is changed.
  - A verdict holds for the client pods, the port and the path that were probed, for as long as the set of backends does
    not change. Istio guarantees no more than that, because consistent hashing moves some sessions whenever a backend is
    added or removed.
requirements:
  - kubernetes >= 24.2.0
  - A client pod with a shell and C(curl) 7.84.0 or newer.
  - Permission to get pods and services, to list endpointslices, and to get and create pods/exec for the client pods.
  - Optional permission to list destinationrules, virtualservices, sidecars and envoyfilters, to detect a rule that
    changes during the measurement by its generation too.
  - Optional permission to list all of these and serviceentries in all namespaces, and to get namespaces. With it,
    RV(findings) can name every cause.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - meshops.istio.attributes
  - meshops.istio.target
attributes:
  check_mode:
    support: full
    details:
      - Reads and plans, but sends no request. RV(verdict) is V(null) and RV(requests) has the planned number.
      - A service that does not exist does not fail the task in check mode, because an earlier task of the play may create it.
options:
  path:
    description: The path to request, percent-encoded, with an optional query string.
    type: str
    default: /
  method:
    description: The request method. Only methods that do not change the application's state are offered.
    type: str
    choices: [GET, HEAD, OPTIONS]
    default: GET
  headers:
    description:
      - Additional headers to send with each request, for example C(Authorization).
      - Headers that are secrets by name (C(Authorization), C(Cookie), and names that contain C(token), C(secret), C(password) or end with C(key)) need
        O(client.pod), because any pod with the label of a client would receive them.
      - Values of these headers are hidden in results. Other values are not.
    type: dict
  profile:
    description:
      - How much to send unless O(sessions), O(session_ids) and O(requests) set it.
      - The check sends as many requests as are needed to exclude, if nothing is lost, that sessions move on 8 % (V(quick)), 2 % (V(default)) or 0.1 %
        (V(deep)) of the requests; for three backends, these are 87, 171 and about 3,100. A smaller O(max_flip_rate) needs more.
      - More rounds follow, once, if landing pods cannot be computed, if responses are lost, or if sessions move while backends change.
      - There are at least 20 sessions (V(deep) has 60), and 12 for each ready backend, as far as these requests suffice for two each.
    type: str
    choices: [quick, default, deep]
    default: default
  sessions:
    description:
      - The number of session IDs to generate. They are named V(meshops-check-1) and so on.
      - The spread over the pods is always measured with at least 20 sessions. The module adds the missing ones.
      - On a port that Envoy treats as TCP, with O(key.type=source_ip), each client pod is one session by its own address, and
        sends the requests of all sessions.
    type: int
  session_ids:
    description:
      - The session IDs to send, unchanged. With O(key.type=source_ip) they are addresses, sent as C(X-Forwarded-For). A port that
        Envoy treats as TCP refuses them, because Envoy reads no headers there.
      - Set C(no_log) on the task if they are tokens of real users.
    type: list
    elements: str
  requests:
    description: The number of requests to send for each session ID, at least 2. By default, as many as O(profile) needs.
    type: int
  concurrency:
    description: The maximum number of concurrent requests from each client.
    type: int
    default: 10
  rate:
    description:
      - The maximum number of requests per second, from all clients together.
      - By default, requests are sent as fast as O(concurrency) allows.
    type: int
  max_requests:
    description:
      - The maximum number of requests to send, from all clients together and over all O(attempts).
      - A plan by O(profile) gets smaller to fit, as long as it proves O(max_flip_rate). A larger request plan is refused before
        anything is sent. Another attempt that would exceed the number is not made.
    type: int
  stop_on:
    description:
      - Conditions that stop the check to protect the service. The verdict is then V(inconclusive), with the RV(error)
        V(stopped), unless a session has already landed on two pods.
      - Every response counts, whether the application, an Envoy or a gateway on the way sent it.
      - Without O(rate), at most O(concurrency) requests are sent before their responses are evaluated.
    type: dict
    suboptions:
      statuses:
        description: Stop on the first response with one of these status codes.
        type: list
        elements: int
        default: [429]
      server_errors:
        description: Stop when server errors (5xx) exceed this share of the planned requests.
        type: float
  timeout:
    description: The deadline for the whole run with all its O(attempts), in seconds. It also ends the processes inside the client pods.
    type: int
    default: 300
  connection:
    description:
      - V(new) opens a connection for each request, to rule out that balancing by connection is mistaken for affinity.
      - V(keepalive) reuses connections. The verdict is then V(not_proven) at best.
    type: str
    choices: [new, keepalive]
    default: new
  via:
    description:
      - Send the requests through a gateway, as a client outside the mesh does, instead of directly to the service.
      - Rule and hosts are then read from every ready pod of the gateway, in its container C(istio-proxy).
      - The requests may reach any pod of the gateway. Whether these pods agree is part of the verdict.
    type: dict
    suboptions:
      namespace:
        description: The namespace of the gateway's Service.
        type: str
        default: istio-system
      service:
        description: The name of the gateway's Service. Either this or O(via.address) is required.
        type: str
      address:
        description:
          - A host name or an address of a gateway that is not a Service of this cluster.
          - The state of its Envoy cannot be read, and RV(prediction) is not available.
        type: str
      host:
        description: The Host header that the gateway's routes match.
        type: str
        required: true
      port:
        description: The port of the gateway.
        type: int
        default: 80
  identify:
    description:
      - How to identify the responding pod.
      - V(header) reads the response headers listed in O(identify_header).
      - V(body) matches the response body against O(identify_pattern). Requests are then sent one after the other.
      - V(access_log) looks each request up in the access log of the client's sidecar, by a request ID that the check
        sets. The access log must be enabled, and the account needs permission to get pods/log in the client's namespace.
      - V(upstream) reads the counters of the client's sidecar around the requests of each session, for applications that
        do not identify the responding pod. Other requests from the same client to the service spoil the result.
      - V(auto) uses V(header) if the first responses name a backend, else V(upstream).
    type: str
    choices: [auto, header, body, access_log, upstream]
    default: auto
  identify_pattern:
    description:
      - A Python regular expression that matches the name or address of the pod in the body, in its first group if it has
        groups.
      - Required with O(identify=body), otherwise unused.
    type: str
  identify_header:
    description:
      - The response headers in which the application names the responding pod, the most trusted first. The value must be
        the name, the IP address or the C(address:port) of exactly one backend.
    type: list
    elements: str
    default: [X-Pod-Name, X-Pod, X-Hostname, X-Served-By, X-Backend-Server, X-Instance-Id]
  max_flip_rate:
    description:
      - The maximum share of requests on which sessions may move for the verdict V(passed), compared with the upper 95 %
        bound of the measurement. Every request without a response from a known pod counts as a move.
      - The default is V(0.02), or V(0.08) with O(profile=quick).
    type: float
  fail_on:
    description:
      - The verdicts that fail the task, in addition to V(error).
      - A session that landed on two pods always fails the task, unless O(tolerate_explained_moves=true) and a change of
        the backends explains every move.
    type: list
    elements: str
    choices: [failed, inconclusive, not_proven]
    default: [failed, inconclusive, not_proven]
  tolerate_explained_moves:
    description: Do not fail because of moves that a change of the backends explains, if V(inconclusive) is not in O(fail_on).
    type: bool
    default: false
  fail_fast:
    description:
      - Stop as soon as a session landed on two pods and nothing explains it, and return the result up to that point.
      - Without this option, the check sends all planned requests, and RV(sessions) shows how all of them moved.
    type: bool
    default: false
  attempts:
    description:
      - The maximum number of measurements. The module measures again only if the verdict is V(inconclusive) for no other
        reason than a change of the backends. RV(attempts) lists every attempt.
    type: int
    default: 1
  settle:
    description: Seconds without a change of the backends before another attempt starts. The wait ends at O(timeout).
    type: int
    default: 10
  explain:
    description:
      - When to look for causes, see RV(findings).
      - V(on_failure) looks for causes unless the verdict is V(passed), V(always) on every run, V(never) skips it.
      - The search reads the service, its pods, namespaces and Istio's rules, except those that the account may not read.
    type: str
    choices: [on_failure, always, never]
    default: on_failure
  seed:
    description: The seed for the order of the requests. By default, the module chooses a random seed and returns it.
    type: int
  max_sessions_returned:
    description: The maximum number of entries in RV(sessions). Sessions that moved come first. All counts stay complete.
    type: int
    default: 200
seealso:
  - module: meshops.istio.istio_affinity_info
  - module: kubernetes.core.k8s_exec
  - name: Consistent hashing in Istio
    description: Reference documentation of the rule that is checked.
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

- name: Check a shop's cart by its cookie, from a named pod, at a low rate
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

- name: Check without failing the play
  meshops.istio.istio_affinity_check:
    namespace: sample
    service: nginx-service
    fail_on: []
    tolerate_explained_moves: true
  register: affinity
  failed_when: affinity.verdict == 'error'

- name: Show the verdict with its reasons
  ansible.builtin.debug:
    var: affinity.msg
"""

RETURN = r"""
verdict:
  description:
    - V(passed) if every session stayed on one pod, sessions spread over the pods, requests without the key spread, and
      the bound of O(max_flip_rate) is met.
    - V(failed) if a session landed on more than one pod and no change of the backends explains it.
    - V(inconclusive) if the measurement allows no statement, for example because backends or rules changed.
    - V(not_proven) if sessions stuck, but perhaps for another reason than the key.
    - V(error) if the check could not run, or if no session is served.
    - V(null) in check mode.
  returned: always
  type: str
  sample: passed
error:
  description: Why the check could not run, or why it stopped early.
  returned: always
  type: dict
  contains:
    code:
      description: A stable identifier, for example V(no_service) or V(forbidden).
      type: str
    msg:
      description: The explanation, in a sentence.
      type: str
msg:
  description: The verdict and the measurement, then the cause, then what to do.
  returned: always
  type: str
  sample: >-
    passed: 39 of 39 sessions stayed on one pod each; at most 1.97% of requests leave their session's pod (95 %).
reasons:
  description: Why the verdict is not V(passed), one sentence each. RV(msg) has them too.
  returned: always
  type: list
  elements: str
measured:
  description: How many requests went from where to where, and how long it took. V(null) if none was sent.
  returned: always
  type: str
  sample: "Measured: 171 requests from sample/test-pod to http://nginx-service/ (port 80), 3 ready backends, 0.9 s."
key:
  description: The key that identifies a session. C(origin) says whether it comes from the option or from the rule in force.
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
      description: The number of requests for each pod.
      type: dict
      sample: {nginx-deployment-5d9c7b8f4-abcde: 20}
    by_client:
      description: The number of requests for each pod, by client pod.
      type: dict
    predicted:
      description: The landing pod computed from the state of the client's Envoy. V(null) if RV(prediction) is not available.
      type: str
    moved:
      description: Whether the session landed on more than one pod.
      type: bool
    explained:
      description: Whether a change of the backends explains every move. V(null) if the session did not move.
      type: bool
requests:
  description: The number of requests by outcome. C(failed) had no response. C(by_status) counts responses by status code,
    C(by_error) requests without a response by curl's reason.
  returned: always
  type: dict
  sample: {planned: 171, sent: 171, answered: 171, identified: 171, failed: 0, by_status: {'200': 171}, by_error: {}}
controls:
  description:
    - The controls that keep a result from being right by accident, each with C(state) V(passed), V(failed) or
      V(not_applicable), and C(detail).
    - C(spread) tests that different sessions use different pods, C(keyless) that requests without the key do.
  returned: always
  type: dict
backends:
  description: The ready backends, whether every client's Envoy can select them, and the number of sessions on each.
  returned: always
  type: list
  elements: dict
clients:
  description: The pods that sent the requests.
  returned: always
  type: list
  elements: dict
membership:
  description: Whether the set of backends changed, and the events of backends, rules and the clients' Envoys.
  returned: always
  type: dict
bounds:
  description:
    - C(false_pass) is the probability that random balancing would have shown no move either.
    - C(flip_rate_95) is the maximum share of requests on which sessions move, with 95 % confidence. It is V(null) if
      sessions moved.
  returned: always
  type: dict
prediction:
  description:
    - Whether the landing pods could be computed from the clients' Envoys, and how many sessions landed there.
    - C(available) is V(false), with the C(reason), if the state of Envoy does not allow a prediction (weights,
      priorities, several hash policies, a changed set of hosts) or the prediction does not match the measurement.
  returned: always
  type: dict
latency_ms:
  description: Percentiles of the request duration, in milliseconds.
  returned: always
  type: dict
findings:
  description:
    - The causes why sessions do not stick, or why affinity could not be proven, the root cause first. RV(msg) includes the first.
    - A healthy mesh has no finding of severity V(error) or V(warning). All known causes are described in
      docs/my-session-does-not-stick.md of the collection.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The ID of the cause in the catalogue.
      type: str
      sample: C10
    severity:
      description: V(error), V(warning) or V(info).
      type: str
    title:
      description: The cause, in a sentence.
      type: str
    evidence:
      description: The facts of this run that show the cause, each with C(source), C(field) and C(value).
      type: list
      elements: dict
    fix:
      description:
        - How to fix it.
        - C(kind) is V(yaml) (apply C(body) with C(kubectl apply)), V(command) (run C(body) in a shell) or V(manual).
        - A fix is V(yaml) or V(command) only if it takes nothing from another service or caller. C(checked) says what it was
          checked against before it was returned, for example a simulation of all DestinationRules. Every other fix is V(manual),
          a sentence that says what to look at and whom it would touch; its C(checked) is null.
      type: dict
    reference:
      description: A link to the documentation or to the known issue.
      type: str
identified_by:
  description: How the responding pod was identified, as a choice of O(identify), with the name of the header used.
  returned: always
  type: str
  sample: header X-Pod-Name
attempts:
  description: The verdict, message, events and number of requests of each attempt.
  returned: always
  type: list
  elements: dict
versions:
  description: The versions of Kubernetes, of the client's proxy and of curl.
  returned: always
  type: dict
seed:
  description: The seed for the order of the requests.
  returned: always
  type: int
elapsed:
  description: Seconds from the first checkpoint to the last.
  returned: always
  type: float
"""

from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._check import check, fails_task
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect, connection_spec, failing_in_words, make_module
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
        # Not in the system log. What results hide is decided by name.
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
        "fail_fast": {"type": "bool", "default": False},
        "attempts": {"type": "int", "default": 1},
        "settle": {"type": "int", "default": 10},
        "explain": {"type": "str", "default": "on_failure", "choices": ["on_failure", "always", "never"]},
        "seed": {"type": "int"},
        "max_sessions_returned": {"type": "int", "default": 200},
    }


def main() -> None:
    module = make_module(argument_spec(), mutually_exclusive=[("sessions", "session_ids")])
    end_with_the_play()
    with failing_in_words(module):
        run(module)


def run(module: Any) -> None:
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
