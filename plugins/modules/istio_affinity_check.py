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
    description: Additional headers to send with each request, for example C(Authorization).
    type: dict
  profile:
    description:
      - How much to send unless O(sessions), O(session_ids) and O(requests) set it.
      - V(quick) sends 3 requests for each session, V(default) 20 and V(deep) 50.
      - V(quick) and V(default) use 20 sessions, or 12 for each ready backend if that is more, V(deep) at least 60. None uses more than 120.
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
    description: The number of requests to send for each session ID, at least 2.
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
      - A larger request plan is refused before anything is sent. Another attempt that would exceed the number is not made.
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
    description: The deadline for the whole run, in seconds. It also ends the processes inside the client pods.
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
      - The default is V(0.02), or V(0.08) with O(profile=quick), which sends too few requests to prove more.
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
    - V(error) if the check could not run.
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
  description: The verdict with its reasons, the next step and a summary of the measurement.
  returned: always
  type: str
  sample: >-
    passed: 36 of 36 sessions stayed on one pod each; at most 0.44% of requests leave their session's pod (95 %).
    Measured: 740 requests from sample/test-pod to http://nginx-service/ (port 80), 3 ready backends, 0.9 s.
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
  description: The number of requests by outcome. C(failed) had no response. C(by_status) counts responses by status code.
  returned: always
  type: dict
  sample: {planned: 740, sent: 740, answered: 740, identified: 740, failed: 0, by_status: {'200': 740}}
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
    - C(flip_rate_95) is the maximum share of requests on which sessions move, with 95 % confidence.
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

import random
import re
import time
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils._brake import Brake, StopOn
from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of
from ansible_collections.meshops.istio.plugins.module_utils._curl import IDENTITY_HEADERS, Sending, check_sendable
from ansible_collections.meshops.istio.plugins.module_utils._gateway import find_gateway, read_gateways
from ansible_collections.meshops.istio.plugins.module_utils._identity import Method, identify
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    CheckError,
    ClientPod,
    Facts,
    Finding,
    JsonDict,
    Key,
    Membership,
    ProxyView,
    Survey,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._options import (
    Connection,
    client_choice,
    client_spec,
    connection_spec,
    given_key,
    key_in_force,
    key_spec,
)
from ansible_collections.meshops.istio.plugins.module_utils._plan import PROFILES, Plan, make_plan, of_one_source
from ansible_collections.meshops.istio.plugins.module_utils._probe import Campaign, ClientRun, look, probe_all
from ansible_collections.meshops.istio.plugins.module_utils._result import error_result, full_result, survey_result
from ansible_collections.meshops.istio.plugins.module_utils._senders import SENDERS
from ansible_collections.meshops.istio.plugins.module_utils._survey import (
    ClientChoice,
    Cluster,
    find_target,
    read_facts,
    read_membership,
    read_rules,
    take_survey,
)
from ansible_collections.meshops.istio.plugins.module_utils._verdict import (
    ERROR,
    FAILED,
    PASSED,
    Evidence,
    Verdict,
    Window,
    all_backends,
    judge,
)
from ansible_collections.meshops.istio.plugins.module_utils._watch import end_with_the_play


@dataclass(frozen=True)
class Settings:
    """The options after they were checked."""

    choice: ClientChoice
    key: Key | None
    sending: Sending
    method: Method
    max_flip_rate: float
    seed: int
    stop_on: StopOn | None = None


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
        "identify": {"type": "str", "default": "auto", "choices": ["auto", *SENDERS]},
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


# option: the smallest and the largest value that makes sense
LIMITS = {
    "port": (1, 65535),
    "sessions": (1, 100_000),
    "requests": (2, 1_000_000),
    "concurrency": (1, 300),
    "rate": (1, 100_000),
    "max_requests": (1, 100_000_000),
    "timeout": (5, 86_400),
    "max_flip_rate": (0.000001, 1),
    "attempts": (1, 100),
    "settle": (0, 3_600),
    "max_sessions_returned": (0, 100_000),
}


def read_settings(params: JsonDict) -> Settings:
    """Refuse what makes no sense, before anything is touched. Raises CheckError with C(bad_option)."""
    for option, (least, most) in LIMITS.items():
        value = params[option]
        if value is not None and not least <= value <= most:
            raise CheckError("bad_option", f"Option {option} is {value}; it must lie between {least} and {most}.")
    if params["session_ids"] is not None and not params["session_ids"]:
        raise CheckError("bad_option", "Option session_ids is an empty list; give IDs, or leave it out to have some generated.")
    if not params["identify_header"]:
        raise CheckError("bad_option", "Option identify_header is an empty list; name at least one header, or leave it out.")
    sending = Sending(
        headers=tuple((str(name), str(value)) for name, value in (params["headers"] or {}).items()),
        keepalive=params["connection"] == "keepalive",
        concurrency=params["concurrency"],
        identity_headers=tuple(params["identify_header"]),
    )
    seed = params["seed"] if params["seed"] is not None else random.SystemRandom().randrange(2**31)
    bound = params["max_flip_rate"] if params["max_flip_rate"] is not None else PROFILES[params["profile"]].max_flip_rate
    key, method = given_key(params), read_method(params)
    if key and key.issued and method.name in ("body", "upstream"):
        raise CheckError("bad_option", f"Options key.cookie={key.cookie} and identify={method.name} exclude each other; use header or access_log.")
    return Settings(client_choice(params), key, sending, method, bound, seed, read_stop_on(params))


def read_stop_on(params: JsonDict) -> StopOn | None:
    """When to stop. Raises CheckError with C(bad_option)."""
    option = params["stop_on"]
    if option is None:
        return None
    wrong = [status for status in option["statuses"] if not 100 <= status <= 599]
    if wrong:
        raise CheckError("bad_option", f"Option stop_on.statuses holds {wrong[0]}; a status lies between 100 and 599.")
    share = option["server_errors"]
    if share is not None and not 0 <= share <= 1:
        raise CheckError("bad_option", f"Option stop_on.server_errors is {share}; it is a share, between 0 and 1.")
    return StopOn(frozenset(option["statuses"]), share)


def read_method(params: JsonDict) -> Method:
    """How the pods are to be known. Raises CheckError with C(bad_option)."""
    pattern = params["identify_pattern"]
    if (params["identify"] == "body") != (pattern is not None):
        raise CheckError("bad_option", "Options identify=body and identify_pattern go together; give both or neither.")
    if params["identify"] == "body" and params["method"] == "HEAD":
        raise CheckError("bad_option", "Option identify is body, but the answers to HEAD have none; use another method.")
    try:
        compiled = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise CheckError("bad_option", f"Option identify_pattern is no regular expression: {error}.") from error
    return Method(params["identify"], tuple(params["identify_header"]), compiled)


def check(module: Any, settings: Settings) -> tuple[JsonDict, bool]:
    """Survey, plan, probe, survey, verdict; again if only churn was in the way and attempts are left.

    Returns the result of the last attempt and whether any session moved in it.
    """
    params = module.params
    connection = Connection(module)
    cluster = Cluster(connection.client)
    attempts: list[JsonDict] = []
    result: JsonDict = {}
    moved = False
    while True:
        started = time.monotonic()
        survey, key, plans = prepare(params, settings, connection, cluster)
        planned = sum(plan.total for plan in plans.values())
        if not below_cap(params["max_requests"], planned, attempts):
            return result, moved
        if module.check_mode:
            result = survey_result(survey, key, settings.seed)
            result["requests"]["planned"] = planned
            result["msg"] = (
                f"check mode: {result['requests']['planned']} requests would go to {survey.target} from {', '.join(str(client) for client in survey.clients)}."
            )
            return result, False
        window, runs, verdict = measure(params, settings, connection, cluster, survey, plans)
        again = verdict.churn_only and len(attempts) + 1 < params["attempts"]
        facts, findings = explain("never" if again else params["explain"], cluster, survey, window, verdict)
        result = full_result(survey, window, runs, verdict, settings.seed, params["max_sessions_returned"], time.monotonic() - started, findings)
        result["versions"].update(facts.versions if facts else {})
        moved = any(fate.moved for fate in verdict.fates)
        attempts.append(
            {
                "verdict": result["verdict"],
                "msg": result["msg"],
                "events": result["membership"]["events"],
                "elapsed": result["elapsed"],
                "sent": result["requests"]["sent"],
            }
        )
        result["attempts"] = attempts
        if not again:
            return result, moved
        wait_for_quiet(cluster, survey, params["settle"], params["timeout"])


def explain(when: str, cluster: Cluster, survey: Survey, window: Window, verdict: Verdict) -> tuple[Facts | None, list[Finding]]:
    """The causes, and the facts they were looked for in, if the option explain wants that."""
    if when == "never" or (when == "on_failure" and verdict.verdict == PASSED):
        return None, []
    facts = read_facts(cluster, [survey.target], survey.clients)
    return facts, find_causes(situation_of(survey, facts, window, verdict))


def below_cap(cap: int | None, planned: int, attempts: list[JsonDict]) -> bool:
    """Whether another attempt may be made. Raises CheckError with C(too_many_requests) where not even the first may."""
    if cap is None or sum(attempt["sent"] for attempt in attempts) + planned <= cap:
        return True
    if not attempts:
        raise CheckError(
            "too_many_requests", f"{planned} requests are planned and max_requests is {cap}. Next: lower sessions or requests, or raise max_requests."
        )
    return False


def prepare(params: JsonDict, settings: Settings, connection: Connection, cluster: Cluster) -> tuple[Survey, Key, dict[ClientPod, Plan]]:
    """All that can be known and refused before the first request; what each client is to send."""
    choice = settings.choice
    target = find_target(cluster, params["namespace"], params["service"], choice.namespace, params["port"], params["path"], params["method"])
    if params["via"]:
        target = replace(target, via=find_gateway(cluster, params["via"], choice.namespace))
    survey = take_survey(cluster, target, choice)
    key = settings.key
    if key is None or may_be_own(key, target):
        view = first_view(connection, cluster, survey)
        key = key or key_in_force(view)
        key = replace(key, own=may_be_own(key, target) and view is not None and view.is_tcp())
    backends = len(survey.membership.ready())
    profile = PROFILES[params["profile"]]
    keyless = key.type != "source_ip"
    plan = make_plan(key, params["session_ids"], params["sessions"], params["requests"], profile, backends, settings.seed, keyless)
    plans = {client: of_one_source(plan, client.address) if key.own else plan for client in survey.clients}
    for different in set(plans.values()):
        check_sendable(key, different.sessions, target, settings.sending)
    if key.own and params["session_ids"]:
        raise CheckError(
            "bad_option",
            f"Option session_ids: Envoy takes port {target.port} of Service {target.namespace}/{target.service} for TCP, where it hashes the client pod's "
            "own address and reads no other. Next: leave session_ids out, or name the port http.",
        )
    return survey, key, plans


def may_be_own(key: Key, target: Target) -> bool:
    """Whether the key may be the client's own address: of a gateway's ports only those of HTTP are known."""
    return key.type == "source_ip" and target.listener is not None and target.via is None


def first_view(connection: Connection, cluster: Cluster, survey: Survey) -> ProxyView | None:
    """The view of a proxy that balances, to take the key from."""
    if survey.target.via:
        return read_gateways(cluster, connection.configuration, survey.target)[0][0]
    return look(connection.configuration, survey.target, survey.clients[0])[0]


def measure(
    params: JsonDict, settings: Settings, connection: Connection, cluster: Cluster, survey: Survey, plans: dict[ClientPod, Plan]
) -> tuple[Window, list[ClientRun], Verdict]:
    target = survey.target

    campaign = Campaign(
        target,
        settings.sending,
        settings.method,
        params["timeout"],
        params["rate"],
        Brake(settings.stop_on, sum(plan.total for plan in plans.values())),
        configuration=connection.configuration,
        read_membership=lambda: read_membership(cluster, target),
        read_log=cluster.sidecar_log,
        read_gateways=lambda: read_gateways(cluster, connection.configuration, target),
    )
    runs = probe_all(survey, plans, campaign)
    try:
        after = campaign.read_membership()
        rules_after = read_rules(cluster, target, settings.choice.namespace)[0]
    except CheckError as error:
        # What was seen before may still say that sessions move, so it is judged, with the loss as a reason.
        after, rules_after = runs[-1].checkpoints[-1].membership, survey.rules
        runs[0].failure = runs[0].failure or error
    window = make_window(settings, survey, after, rules_after, runs, runs[0].plan.key)
    return window, runs, judge(window)


def make_window(settings: Settings, survey: Survey, after: Membership, rules_after: Any, runs: list[ClientRun], key: Key) -> Window:
    """The window with pods in place of what the answers said of themselves."""
    memberships = [survey.membership, *(checkpoint.membership for run in runs for checkpoint in run.checkpoints), after]
    identities = {identity for run in runs for identity in run.tally.identities}
    found = identify(identities, settings.method.labels(runs[0].method), all_backends(memberships))
    evidence = []
    for run in runs:
        keyless: dict[str, int] = {}
        for identity, count in run.tally.keyless.items():
            if identity in found.pods:
                keyless[found.pods[identity]] = keyless.get(found.pods[identity], 0) + count
        traces = tuple(trace.mapped(found.pods) for trace in run.tally.sessions)
        evidence.append(Evidence(run.client, run.plan, run.tally, traces, keyless, tuple(run.checkpoints), tuple(run.segments), run.failure))
    return Window(
        key,
        survey.membership,
        after,
        survey.rules,
        rules_after,
        found,
        tuple(evidence),
        settings.max_flip_rate,
        settings.sending.keepalive,
        survey.target.via.address if survey.target.via else None,
    )


def wait_for_quiet(cluster: Cluster, survey: Survey, settle: int, timeout: int) -> None:
    """Until the endpoints have been the same for some seconds, or the time is over; the next attempt then judges."""
    deadline = time.monotonic() + timeout
    last, since = read_membership(cluster, survey.target), time.monotonic()
    while time.monotonic() - since < settle and time.monotonic() < deadline:
        time.sleep(min(1.0, settle))
        now = read_membership(cluster, survey.target)
        if now != last:
            last, since = now, time.monotonic()


def fails_task(result: JsonDict, moved: bool, params: JsonDict) -> bool:
    """C(error) always; a session on two pods unless tolerated; else what the option fail_on says."""
    verdict = result["verdict"]
    if verdict in (ERROR, FAILED):
        return True
    if moved and not params["tolerate_explained_moves"]:
        return True
    return verdict in params["fail_on"]


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
        result, moved = check(module, settings)
    except CheckError as error:
        result = error_result(error, seed)
        if module.check_mode and error.code in ("no_service", "no_client"):
            result.update(verdict=None, error=None, msg=f"check mode: nothing to check yet. {error.msg}")
    if fails_task(result, moved, module.params):
        module.fail_json(changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
