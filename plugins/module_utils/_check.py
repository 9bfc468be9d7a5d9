# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The story of istio_affinity_check: survey, plan, probe, judge, explain.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of
from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import Connection
from ansible_collections.meshops.istio.plugins.module_utils._cluster.endpoints import read_membership
from ansible_collections.meshops.istio.plugins.module_utils._cluster.facts import read_facts
from ansible_collections.meshops.istio.plugins.module_utils._cluster.survey import find_target, read_rules, take_survey
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import key_in_force
from ansible_collections.meshops.istio.plugins.module_utils._membership import all_backends
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    ERROR,
    FAILED,
    PASSED,
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
from ansible_collections.meshops.istio.plugins.module_utils._options import Settings
from ansible_collections.meshops.istio.plugins.module_utils._probe.gateway import find_gateway, read_gateways
from ansible_collections.meshops.istio.plugins.module_utils._probe.runner import Campaign, look, probe_all
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import check_sendable
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, Plan, make_plan, of_one_source
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun
from ansible_collections.meshops.istio.plugins.module_utils._result import full_result, survey_result
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Evidence, Verdict, Window


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
