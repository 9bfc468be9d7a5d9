# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The story of istio_affinity_check: survey, plan, probe, judge, explain.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of
from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Access, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.endpoints import read_membership
from ansible_collections.meshops.istio.plugins.module_utils._cluster.facts import read_facts
from ansible_collections.meshops.istio.plugins.module_utils._cluster.survey import find_target, read_rules, take_survey
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import UNREAD, key_in_force
from ansible_collections.meshops.istio.plugins.module_utils._membership import addresses_by_pod, all_backends
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
    ObjectVersion,
    ProxyView,
    Survey,
    Target,
    Unread,
)
from ansible_collections.meshops.istio.plugins.module_utils._options import Settings
from ansible_collections.meshops.istio.plugins.module_utils._probe.gateway import find_gateway, read_gateways
from ansible_collections.meshops.istio.plugins.module_utils._probe.pace import Pace
from ansible_collections.meshops.istio.plugins.module_utils._probe.runner import Campaign, probe_all, read_view
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import check_sendable
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Identification, identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, Need, Plan, make_plan, of_one_source
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun
from ansible_collections.meshops.istio.plugins.module_utils._result import attempt_result, full_result, planned_result
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.stages import further_plans
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, Verdict, Window

# Options with names in them, by the option that contains them.
NAMES_IN = {"client": ("pod", "selector", "container", "namespace"), "via": ("namespace", "service", "address", "host")}


def check(params: JsonDict, settings: Settings, access: Access, *, check_mode: bool = False) -> tuple[JsonDict, bool]:
    """Survey, plan, probe, survey again and judge; repeat if only churn prevented a conclusion and attempts are left.

    The timeout is that of all attempts together. Returns the result of the last attempt and whether any session moved in it.
    """
    attempts: list[JsonDict] = []
    result: JsonDict = {}
    moved = False
    deadline = time.monotonic() + params["timeout"]
    while True:
        started = time.monotonic()
        try:
            survey, key, plans = prepare(params, settings, access)
            fits = below_cap(params["max_requests"], total_of(plans), attempts)
            if fits and check_mode:
                return planned_result(survey, key, total_of(plans), settings.seed), False
            if not fits:
                return result, moved
            room = params["max_requests"] - sum(attempt["sent"] for attempt in attempts) - total_of(plans) if params["max_requests"] else None
            window, runs, verdict = measure(params, settings, access, survey, plans, deadline, room)
        except CheckError:
            # What an earlier attempt measured stays.
            if attempts:
                return result, moved
            raise
        again = verdict.churn_only and len(attempts) + 1 < params["attempts"] and time.monotonic() + params["settle"] < deadline
        facts, findings = explain("never" if again else params["explain"], access.cluster, survey, window, verdict)
        result = full_result(survey, window, runs, verdict, settings.seed, params["max_sessions_returned"], time.monotonic() - started, findings)
        result["versions"].update(facts.versions if facts else {})
        moved = any(fate.moved for fate in verdict.fates)
        attempts.append(attempt_result(result))
        result["attempts"] = attempts
        if not again or not wait_for_quiet(access.cluster, survey, params["settle"], deadline):
            return result, moved


def total_of(plans: dict[ClientPod, Plan]) -> int:
    return sum(plan.total for plan in plans.values())


def explain(when: str, cluster: Cluster, survey: Survey, window: Window, verdict: Verdict) -> tuple[Facts | None, list[Finding]]:
    """The facts and the causes in them, if the option `explain` asks for it."""
    if when == "never" or (when == "on_failure" and verdict.verdict == PASSED):
        return None, []
    facts = read_facts(cluster, [survey.target], survey.clients, [view for entry in window.client_windows for view in entry.last_views()])
    return facts, find_causes(situation_of(survey, facts, window, verdict))


def below_cap(cap: int | None, planned: int, attempts: list[JsonDict]) -> bool:
    """Whether another attempt fits the cap. Raises `CheckError` with `too_many_requests` if not even the first one does."""
    if cap is None or sum(attempt["sent"] for attempt in attempts) + planned <= cap:
        return True
    if not attempts:
        raise CheckError(
            "too_many_requests",
            f"{planned} requests are planned and max_requests is {cap}. "
            "Next: raise max_requests, or lower sessions or requests, or, where these are not set, raise max_flip_rate.",
        )
    return False


def prepare(params: JsonDict, settings: Settings, access: Access) -> tuple[Survey, Key, dict[ClientPod, Plan]]:
    """Validate everything that can be checked before the first request; the request plan of each client."""
    refuse_blank(params)
    choice = settings.choice
    target = find_target(access.cluster, params["namespace"], params["service"], choice.namespace, params["port"], params["path"], params["method"])
    if params["via"]:
        target = replace(target, via=find_gateway(access.cluster, params["via"], choice.namespace))
    target = replace(target, headers=settings.sending.headers, key=settings.key)
    survey = take_survey(access.cluster, target, choice)
    key = key_to_use(settings.key, access, survey)
    plans = plans_of(params, settings, key, survey)
    target = replace(target, key=key, sessions=next(iter(plans.values())).sessions)
    survey = replace(survey, target=target)
    for plan in set(plans.values()):
        check_sendable(key, plan.sessions, target, settings.sending)
    if key.own and params["session_ids"]:
        raise CheckError(
            "bad_option",
            f"Option session_ids: Envoy treats port {target.port} of Service {target.namespace}/{target.service} as TCP, where it hashes only the client "
            "pod's own address. Next: leave session_ids out, or name the port http.",
        )
    return survey, key, plans


def refuse_blank(params: JsonDict) -> None:
    """Refuse names that are empty or blank, as `default('')` in a template makes them. Raises `CheckError` with `bad_option`."""
    options = {name: params[name] for name in ("namespace", "service", "path", "identify_pattern")}
    options |= {f"{group}.{name}": (params[group] or {}).get(name) for group, names in NAMES_IN.items() for name in names}
    blank = next((name for name, value in options.items() if value is not None and not str(value).strip()), None)
    if blank:
        raise CheckError("bad_option", f"Option {blank} is empty. Next: give it a value, or leave out an optional one (in a template, default(omit, true)).")


def key_to_use(given: Key | None, access: Access, survey: Survey) -> Key:
    """The key of the option, else that of the rule in force."""
    if given is not None and not may_be_own(given, survey.target):
        return given
    view = first_view(access, survey)
    if given is None and view is not None and view.doubt:
        raise CheckError(
            "unknown_route", f"Envoy's route for Service {survey.target}, and its key, cannot be determined: {view.doubt}. Next: set the option key."
        )
    key = given or key_in_force(view)
    return replace(key, own=may_be_own(key, survey.target) and view is not None and view.is_tcp())


def plans_of(params: JsonDict, settings: Settings, key: Key, survey: Survey) -> dict[ClientPod, Plan]:
    backends = len(addresses_by_pod(survey.membership))
    predictable = not key.issued and (survey.target.via is None or survey.target.via.service is not None)
    need = Need(params["max_flip_rate"], len(survey.clients), params["max_requests"], predictable)
    profile = PROFILES[params["profile"]]
    keyless = key.type != "source_ip"
    plan = make_plan(key, params["session_ids"], params["sessions"], params["requests"], profile, backends, settings.seed, keyless, need)
    return {client: of_one_source(plan, client.address) if key.own else plan for client in survey.clients}


def may_be_own(key: Key, target: Target) -> bool:
    """Whether the key may be the client's own address. Not through a gateway, where only HTTP ports are read."""
    return key.type == "source_ip" and target.listener is not None and target.via is None


def first_view(access: Access, survey: Survey) -> ProxyView | None:
    """The view of a proxy that balances, to take the key from. Raises `CheckError` with `unread_envoy`."""
    if survey.target.via:
        view = read_gateways(access.cluster, access.configuration, survey.target)[0][0]
    else:
        view = read_view(access.configuration, survey.target, survey.clients[0])[0]
    if isinstance(view, Unread):
        raise CheckError(UNREAD, view.why)
    return view


def measure(
    params: JsonDict, settings: Settings, access: Access, survey: Survey, plans: dict[ClientPod, Plan], deadline: float, room: int | None
) -> tuple[Window, list[ClientRun], Verdict]:
    """Send the requests and judge the responses; `room` is how many requests more than planned may be sent."""
    target = survey.target

    def so_far(runs: list[ClientRun]) -> Window:
        return make_window(settings, survey, runs[-1].checkpoints[-1].membership, survey.rules, runs)

    def further(runs: list[ClientRun]) -> list[Plan] | None:
        window = so_far(runs)
        return further_plans(window, judge(window), room)

    campaign = Campaign(
        target,
        settings.sending,
        settings.method,
        deadline,
        Pace(params["rate"]) if params["rate"] else None,
        Brake(settings.stop_on, total_of(plans)),
        configuration=access.configuration,
        read_membership=lambda: read_membership(access.cluster, target),
        read_log=access.cluster.sidecar_log,
        read_gateways=lambda: read_gateways(access.cluster, access.configuration, target),
        further=further,
        has_moved=(lambda run: judge(so_far([run])).verdict == FAILED) if params["fail_fast"] else None,
    )
    runs = probe_all(survey, plans, campaign)
    try:
        after = campaign.read_membership()
        rules_after = read_rules(access.cluster, target, settings.choice.namespace)
    except CheckError as error:
        # The measurement may still show that sessions move, so it is judged, with the error as a reason.
        after, rules_after = runs[-1].checkpoints[-1].membership, survey.rules
        runs[0].failure = runs[0].failure or error
    window = make_window(settings, survey, after, rules_after, runs)
    return window, runs, judge(window)


def make_window(settings: Settings, survey: Survey, after: Membership, rules_after: tuple[ObjectVersion, ...], runs: list[ClientRun]) -> Window:
    """The window, with pods in place of the identities in the responses."""
    memberships = [survey.membership, *(checkpoint.membership for run in runs for checkpoint in run.checkpoints), after]
    backends = all_backends(memberships)
    # Each client identifies in its own way.
    found = [identify(run.tally.identities, settings.method.labels(run.method), backends) for run in runs]
    return Window(
        runs[0].plan.key,
        survey.membership,
        after,
        survey.rules,
        rules_after,
        all_of(found),
        tuple(client_window(run, identification) for run, identification in zip(runs, found, strict=True)),
        settings.max_flip_rate,
        settings.sending.keepalive,
        survey.target.via.address if survey.target.via else None,
    )


def all_of(found: Sequence[Identification]) -> Identification:
    """The identifications of all clients as one, for the result."""
    ways = list(dict.fromkeys(one.by for one in found if one.by))
    pods = {identity: pod for one in found for identity, pod in one.pods.items()}
    return Identification(", ".join(ways) or None, pods, tuple(dict.fromkeys(value for one in found for value in one.unknown)))


def client_window(run: ClientRun, identification: Identification) -> ClientWindow:
    """One client's part of the window, with pods in place of identities."""
    pods = identification.pods
    keyless: dict[str, int] = {}
    for identity, count in run.tally.keyless.items():
        if identity in pods:
            keyless[pods[identity]] = keyless.get(pods[identity], 0) + count
    traces = tuple(trace.mapped(pods) for trace in run.tally.sessions)
    return ClientWindow(run.client, run.plan, run.tally, traces, keyless, tuple(run.checkpoints), tuple(run.segments), run.failure, run.method)


def wait_for_quiet(cluster: Cluster, survey: Survey, settle: int, deadline: float) -> bool:
    """Wait until the endpoints have not changed for some seconds, or until the deadline. False if the endpoints could not be
    read, or if there is no time left: then the last attempt decides."""
    try:
        last, since = read_membership(cluster, survey.target), time.monotonic()
        while time.monotonic() - since < settle and time.monotonic() < deadline:
            time.sleep(min(1.0, settle))
            now = read_membership(cluster, survey.target)
            if now != last:
                last, since = now, time.monotonic()
    except CheckError:
        return False
    return time.monotonic() < deadline


def fails_task(result: JsonDict, moved: bool, params: JsonDict) -> bool:
    """Whether the task fails: always for `error` and `failed`; for a moved session unless tolerated; else by the option `fail_on`."""
    verdict = result["verdict"]
    if verdict in (ERROR, FAILED):
        return True
    if moved and not params["tolerate_explained_moves"]:
        return True
    return verdict in params["fail_on"]
