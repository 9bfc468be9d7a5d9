# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is printed does what it says and nothing else, whatever names and values the objects of others have.

The objects are synthetic: an API server accepts most of these texts as the owner of a pod, in labels and in the fields of rules,
and those that it refuses are tried all the same.
"""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from cart_mesh import FQDN, HASH, KEY, RULES, SERVICE, envoy, route, rule, situation, to
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.filter.affinity import affinity_how_to_opt_in, affinity_plan
from ansible_collections.meshops.istio.plugins.module_utils._causes import Situation, find_causes
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import (
    as_yaml,
    change_balancer,
    create_rule,
    free_name,
    list_patch,
    manual,
    merge_patch,
    new_rule,
    scene,
    set_hash,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import workload_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Caller, Destination, hash_in_force, in_force
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import inventory_value, is_dns_name, is_token, kubectl, shell_line
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, Key, Via

HOSTILE = (
    "x;id #",
    "$(id)",
    "`id`",
    "' ; id ; '",
    '"; id; "',
    "a\nid\n",
    "EOF\nid\n",
    "a\r\x03id\r",
    "\x1b]0;title\x07",
    "--kubeconfig=/tmp/other",
    "-f",
    "a && id",
    "a | id",
    "a > /etc/passwd",
    "{{ lookup('pipe', 'id') }}",
    "{% for x in y %}",
    "{# a #}",
    "!!python/object/apply:os.system [id]",
    "\u202eid",
    "a/../b",
    "*",
    "",
    "x" * 300,
)
PLAIN = st.from_regex(r"[a-z][a-z0-9-]{0,12}[a-z0-9]", fullmatch=True)
TEXT = st.sampled_from(HOSTILE) | st.text(max_size=12) | st.builds("{}{}".format, PLAIN, st.sampled_from(HOSTILE)) | PLAIN


def pod_of(text: str, kind: str) -> JsonDict:
    """A client pod whose owner, labels and annotations are text of whoever created it."""
    owner = [{"kind": kind, "name": text, "controller": True}]
    meta = {"name": "client", "namespace": "shop", "labels": {"pod-template-hash": "5d9", "istio.io/rev": text}, "ownerReferences": owner}
    meta["annotations"] = {"traffic.sidecar.istio.io/excludeOutboundPorts": "8000", "networking.istio.io/exportTo": text}
    init = {"name": "istio-init", "command": [text]}
    context = {"securityContext": {"runAsUser": 1337}}
    return {"metadata": meta, "spec": {"containers": [{"name": "tools", **context}, {"name": text}], "initContainers": [init]}}


def simple(text: str) -> JsonDict:
    return {"loadBalancer": {"simple": "RANDOM", "localityLbSetting": {"distribute": [{"from": text, "to": {text: 100}}]}}}


def states(text: str) -> Iterator[Situation]:
    """Meshes in which a fix is found, with the text wherever somebody else may write it."""
    named = rule(text, trafficPolicy={"loadBalancer": {"simple": "RANDOM"}})
    elsewhere = rule("cart", text, trafficPolicy=HASH)
    in_subset = rule("cart", subsets=[{"name": text, "labels": {text: text}, "trafficPolicy": simple(text)}], trafficPolicy=HASH)
    on_text = rule("cart", trafficPolicy={"loadBalancer": {"consistentHash": {"httpHeaderName": text}}})
    selected = rule("cart", workloadSelector={"matchLabels": {text: text}}, trafficPolicy=HASH)
    for rules in ([named], [elsewhere], [in_subset], [on_text], [selected], [rule("cart", exportTo=[text], trafficPolicy=HASH)]):
        yield situation(envoy([each for each in rules if each is not elsewhere]), rules)
    yield situation(envoy([in_subset], subset=text, by=route(to(subset=text))), [in_subset], [route(to(subset=text))])
    yield situation(envoy([on_text]), [on_text], key=Key("header", text))
    yield situation(envoy([]), [], key=Key("query", text))
    yield situation(envoy([]), [], key=Key("cookie", text))
    yield situation(envoy([named], by=route(to(text))), [named], [route(to(text)), route(to(FQDN), hosts=[text], gateways=[text])])
    port = rule("cart", trafficPolicy={"portLevelSettings": [{"port": {"number": 8000}, **HASH}]})
    bare = {**route(to()), "metadata": {"name": text, "namespace": "shop", "resourceVersion": text}}
    yield situation(replace(envoy([port]), route=replace(envoy([], by=bare).route or _none(), hash_policies=())), [port], [bare])


def states_of_the_client(text: str) -> Iterator[Situation]:
    for kind in ("ReplicaSet", "Deployment", "StatefulSet", text):
        for sidecar in (True, False):
            yield situation(envoy([]) if sidecar else None, pod=pod_of(text, kind), sidecar=sidecar)
    scope = {"metadata": {"name": text, "namespace": "shop", "resourceVersion": text}, "spec": {"egress": [{"hosts": [text]}]}}
    nothing = replace(envoy([]), route=None, cluster=None, hosts=())
    yield situation(nothing, sidecars=[scope])
    yield situation(nothing, service={**SERVICE, "metadata": {**SERVICE["metadata"], "annotations": {"networking.istio.io/exportTo": text}}})
    by_host = situation(envoy([]))
    yield replace(by_host, target=replace(by_host.target, via=Via("10.96.7.7", 8000, text)))
    headless: JsonDict = {**SERVICE, "spec": {**SERVICE["spec"], "clusterIP": "None", "selector": {text: text}}}
    yield situation(None, service=headless)
    patches = [{"applyTo": "CLUSTER", "match": {"cluster": {"name": f"outbound|8000||{FQDN}"}}, "patch": {"value": {text: text}}}] * 2
    filtered = {"metadata": {"name": text, "namespace": "shop", "resourceVersion": text}, "spec": {"configPatches": patches}}
    hashing = rule("cart", trafficPolicy=HASH)
    view = envoy([hashing])
    assert view.cluster is not None
    seen = situation(replace(view, cluster=replace(view.cluster, lb_policy="RANDOM")), [hashing])
    seen.facts.rules["EnvoyFilter"] = (filtered,)
    yield seen


def _none() -> Any:
    raise AssertionError


def built(text: str) -> Iterator[Fix]:
    """Every function that builds a fix, given the text."""
    words = {"checked": "", "otherwise": text}
    body = {"metadata": {"name": text, "namespace": "shop", "resourceVersion": text}}
    seen = situation(envoy([rule(text, trafficPolicy=HASH)]), [rule(text, trafficPolicy=HASH)])
    client, view = seen.clients[0], seen.clients[0].view
    assert view is not None
    yield merge_patch("Service", body, {"spec": {text: text}}, **words)
    yield merge_patch(text, {"metadata": {"name": "a", "namespace": "b"}}, {}, **words)
    yield list_patch("Sidecar", {"metadata": {"name": "a", "namespace": text, "resourceVersion": text}}, [{"op": "add", "path": text, "value": text}], **words)
    yield as_yaml(new_rule("DestinationRule", "a", "b", {"host": text, text: [text]}), **words)
    yield as_yaml(new_rule("DestinationRule", text, "b", {}), **words)
    yield manual(text)
    yield set_hash(seen, client, view, key=Key("header", text))
    yield change_balancer(seen, client, view, {"consistentHash": {text: text}}, text, text)
    yield create_rule(scene(seen, client, view, Key("query", text), host=f"{text}.shop.svc.cluster.local"), free_name(seen, "DestinationRule", "shop", text))


def lines_of(fix: Fix) -> list[str]:
    return fix.body.split("\n") if fix.kind == "command" else []


def words_in_bash(lines: list[str]) -> list[list[str]]:
    """The words that bash gives to the programs of these lines, of which it finds no other than kubectl and istioctl."""
    program = 'kubectl() { printf "%s\\0" kubectl "$@" END; }; istioctl() { printf "%s\\0" istioctl "$@" END; }\nPATH=/nonexistent\n'
    ran = subprocess.run(["/bin/bash", "-euc", program + "\n".join(lines)], capture_output=True, text=True, check=False, cwd="/")
    assert (ran.returncode, ran.stderr) == (0, ""), (lines, ran.stderr)
    commands: list[list[str]] = [[]]
    for word in ran.stdout.split("\0")[:-1]:
        if word == "END":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands[:-1]


def is_harmless(fixes: list[Fix], *, in_bash: bool) -> None:
    for fix in fixes:
        assert all(letter.isprintable() or letter == "\n" for letter in fix.body), fix
        if fix.kind == "manual":
            continue
        assert fix.body.isascii(), fix
        assert not any(opening in fix.body for opening in ("{{", "{%", "{#")), fix
        if fix.kind == "yaml":
            documents = list(yaml.safe_load_all(fix.body))
            assert {document["kind"] for document in documents} <= {"DestinationRule", "VirtualService", "Service"}
            assert all(is_dns_name(document["metadata"][name]) for document in documents for name in ("name", "namespace"))
    lines = [line for fix in fixes for line in lines_of(fix)]
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["kubectl", "-n"], line
        assert is_dns_name(words[2]), line
        assert words[3] in ("patch", "wait", "rollout"), line
        assert not [word for word in words[4:] if word.startswith("-") and word.partition("=")[0] not in ("--type", "-p", "--for", "--timeout")], line
    if lines and in_bash:
        assert words_in_bash(lines) == [shlex.split(line) for line in lines]


def drive(text: str, which: int | None = None, *, in_bash: bool = True) -> None:
    """All states with this text, or one of them, and every function that builds a fix."""
    seen = [*states(text), *states_of_the_client(text)]
    chosen = seen if which is None else [seen[which % len(seen)]]
    fixes = [finding.fix for each in chosen for finding in find_causes(each)]
    is_harmless([*fixes, *built(text)], in_bash=in_bash)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_do_nothing_where_a_fix_is_pasted(text: str) -> None:
    drive(text)


@settings(max_examples=200)
@given(text=TEXT, which=st.integers(0, 100))
def test_no_text_does_anything_where_a_fix_is_pasted(text: str, which: int) -> None:
    drive(text, which, in_bash=False)


@pytest.mark.full
@settings(max_examples=10000)
@given(text=TEXT, which=st.integers(0, 100))
def test_no_text_of_many_does_anything_where_a_fix_is_pasted(text: str, which: int) -> None:
    drive(text, which)


def test_the_states_do_have_fixes_to_print() -> None:
    """With a name that is one, most of them print something: else the tests above would prove little."""
    seen = [*states("plain"), *states_of_the_client("plain")]
    kinds = [finding.fix.kind for each in seen for finding in find_causes(each)]
    assert kinds.count("command") + kinds.count("yaml") >= 12
    assert [fix.kind for fix in built("plain")].count("manual") <= 4


# -- a change of rules, carried out --


def merged_patch(value: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    old = value if isinstance(value, dict) else {}
    result = {name: merged_patch(old.get(name), each) for name, each in change.items() if each is not None}
    return {name: each for name, each in old.items() if name not in change} | result


def carried_out(rules: list[JsonDict], fix: Fix) -> list[JsonDict]:
    """The rules after a printed fix, as kubectl would make them."""
    if fix.kind == "yaml":
        made = [document for document in yaml.safe_load_all(fix.body) if document["kind"] == "DestinationRule"]
        return [*rules, *({**each, "metadata": {**each["metadata"], "creationTimestamp": "2030"}} for each in made)]
    words = shlex.split(fix.body)
    (place,) = [number for number, each in enumerate(rules) if [each["metadata"]["namespace"], each["metadata"]["name"]] == [words[2], words[5]]]
    after, change = copy.deepcopy(rules), json.loads(words[-1])
    if "--type=merge" in words:
        after[place] = merged_patch(after[place], change)
        return after
    (operation,) = [each for each in change if each["op"] != "test"]
    *parents, last = operation["path"].split("/")[1:]
    level: Any = after[place]
    for step in parents:
        level = level[int(step)] if isinstance(level, list) else level[step]
    level[int(last) if isinstance(level, list) else last] = operation["value"]
    return after


@settings(max_examples=200)
@given(
    rules=st.lists(RULES, max_size=4, unique_by=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"])),
    space=st.sampled_from(("shop", "till")),
    subset=st.sampled_from(("", "v1")),
)
def test_a_printed_change_of_rules_mends_and_takes_nothing_from_others(rules: list[JsonDict], space: str, subset: str) -> None:
    by = route(to(subset=subset)) if subset else None
    for each in rules:
        each["spec"]["subsets"][0]["labels"] = {"version": "v1"}
    client, there = Caller(space), Destination(FQDN, 8000, subset)
    for finding in find_causes(situation(envoy(rules, space, subset, by), rules, [by] if by else [], space)):
        if finding.fix.kind == "manual" or "destinationrule" not in finding.fix.body.lower():
            continue
        after = carried_out(rules, finding.fix)
        policy = hash_in_force(after, there, client)
        assert policy is not None, (finding.id, finding.fix.body)
        assert policy.matches(KEY)
        for caller in (Caller(other) for other in ("shop", "till", "istio-system", "elsewhere")):
            for name in ("", "v1"):
                old = hash_in_force(rules, Destination(FQDN, 8000, name), caller)
                assert old in (None, hash_in_force(after, Destination(FQDN, 8000, name), caller)), (finding.id, caller)
            for host in ("search.shop.svc.cluster.local", "api.example.com"):
                assert in_force(rules, host, "shop", caller) == in_force(after, host, "shop", caller), (finding.id, caller, host)


# -- the owner of a pod --


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("StatefulSet", "shop", ("statefulset", "shop")),
        ("DaemonSet", "shop", ("daemonset", "shop")),
        ("ReplicaSet", "shop-5d9", ("deployment", "shop")),
        ("ReplicaSet", "x;id #-5d9", None),
        ("Deployment", "--kubeconfig=/tmp/x", None),
        ("Job", "shop", None),
        ("x;id #", "shop", None),
    ],
)
def test_an_owner_is_a_workload_or_nothing(kind: str, name: str, expected: tuple[str, str] | None) -> None:
    assert workload_of(pod_of(name, kind)) == expected


# -- single words --


def test_names_and_tokens() -> None:
    assert all(map(is_dns_name, ("cart", "cart-2", "a.b-c.d")))
    assert not any(map(is_dns_name, ("", "-a", "a-", "A", "a_b", "a b", "a..b", "x" * 254, "a\n", None)))
    assert all(map(is_token, ("X-User", "a_b", "x'y", "a`b")))
    assert not any(map(is_token, ("", "a b", "a:b", "a;b", "{{a}}", "\u00e9", "a\n", None)))


def test_words_are_quoted_or_refused() -> None:
    assert shell_line("kubectl", "a b", "$(id)") == "kubectl 'a b' '$(id)'"
    assert shell_line("kubectl", "a\nb") is None
    assert shell_line("kubectl", "{{ a }}") is None
    assert kubectl("patch", "secret", "shop", "cart") is None
    assert kubectl("rollout status", "deployment", "shop", "cart") == "kubectl -n shop rollout status deployment cart"
    assert kubectl("patch", "pod", "shop", "--all") is None


def test_values_that_are_no_tokens_are_unsafe_for_ansible() -> None:
    assert inventory_value("user-session") == '"user-session"'
    assert inventory_value("user[id]") == '!unsafe "user[id]"'


# -- how services opt in --


def opt_in(key: JsonDict | None) -> list[str]:
    services = [{"namespace": "shop", "service": "cart", "port": 8000, "key": key, "backends": []}]
    return affinity_how_to_opt_in(affinity_plan([], services))


@settings(max_examples=60)
@given(text=TEXT, kind=st.sampled_from(("header", "cookie", "query", "source_ip", "x;id #")))
def test_no_key_does_anything_where_the_lines_are_pasted(text: str, kind: str) -> None:
    lines = opt_in({"type": kind, "name": text})
    assert all(line.isascii() and line.isprintable() and "{{" not in line and "{%" not in line for line in lines)
    commands = [line for line in lines if line.startswith("kubectl")]
    assert commands == [] or words_in_bash(commands) == [shlex.split(line) for line in commands]
    assert len(commands) == (1 if kind in ("header", "cookie") and is_token(text) else len(commands))
    assert (commands != []) == any(line.startswith("  - ") for line in lines)


@pytest.mark.parametrize("name", ["x;cmd #", "{{ lookup('pipe', 'id') }}", "a b", "a\nb"])
def test_a_header_that_is_none_is_not_printed(name: str) -> None:
    lines = opt_in({"type": "header", "name": name})
    assert len(lines) == 2
    assert name not in "".join(lines)
    assert "shop/cart" in lines[1]


class Loader(yaml.SafeLoader):
    """As Ansible's: a string that is not evaluated."""


Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.parametrize("name", ["page", "user[id]", "a'b", "a;b"])
def test_a_query_parameter_is_printed_for_ansible_to_leave_alone(name: str) -> None:
    lines = opt_in({"type": "query", "name": name})
    assert shlex.split(lines[1])[-1] == f"meshops.istio/probe-key=query:{name}"
    (entry,) = yaml.load("\n".join(lines[2:]), Loader)["istio_affinity_services"]  # noqa: S506 - a safe loader
    assert entry["key"] == {"type": "query", "name": name}
    assert ("!unsafe" in lines[3]) == (not is_token(name))


def test_builders_are_all_driven() -> None:
    """Every function here that returns a fix is among those above."""
    from ansible_collections.meshops.istio.plugins.module_utils._causes import _fixes  # noqa: PLC0415 - its names

    builders: list[Callable[..., Any]] = [
        value for name, value in vars(_fixes).items() if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Fix" and name[0] != "_"
    ]
    driven = {"manual", "command", "as_yaml", "merge_patch", "list_patch", "set_hash", "change_balancer", "change_rule", "create_rule"}
    assert {builder.__name__ for builder in builders} == driven
