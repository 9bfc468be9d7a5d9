# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as Ansible runs them: no secret is in what they print, and what is no secret stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError
from ansible_collections.meshops.istio.plugins.module_utils._result import empty_result
from ansible_collections.meshops.istio.plugins.modules import istio_affinity_check, istio_affinity_info

# Nothing listens on this port: each run ends with a refused connection.
NOWHERE = "https://127.0.0.1:9"
# By the place where it is given. None is a word, and none is short.
CANARIES = {
    place: f"c4nary-{number:02}-{place}"
    for number, place in enumerate(("token", "key-data", "password", "exec-env", "exec-arg", "auth-provider", "api-key", "proxy-auth", "header", "cookie"))
}
HEADERS = {"Authorization": f"Bearer {CANARIES['header']}", "Cookie": f"lang=en; session={CANARIES['cookie']}", "X-Env": "prod", "X-Canary": "1"}


def kubeconfig(user: Any = None, **more: Any) -> dict[str, Any]:
    """A kubeconfig whose leaves are those of many results too: names of namespaces, `v1`, an empty token."""
    secrets = {"token": CANARIES["token"], "client-key-data": CANARIES["key-data"], "password": CANARIES["password"], "username": ""}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "shop",
        "clusters": [{"name": "shop", "cluster": {"server": NOWHERE}}],
        "users": [{"name": "admin", "user": secrets if user is None else user}, {"name": "other", "user": {"token": ""}}],
        "contexts": [{"name": "shop", "context": {"cluster": "shop", "user": "admin", "namespace": "shop"}}],
    } | more


EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "/nonexistent/login",
    "args": ["get-token", "--cluster", "shop", f"--token={CANARIES['exec-arg']}", "--password", CANARIES["exec-arg"]],
    "env": [{"name": "AWS_PROFILE", "value": "shop"}, {"name": "SECRET_ACCESS_KEY", "value": CANARIES["exec-env"]}],
    "interactiveMode": "Never",
}
PROVIDER = {"name": "oidc", "config": {"id-token": CANARIES["auth-provider"], "client-secret": CANARIES["auth-provider"], "idp-issuer-url": "https://shop"}}
RESULT = empty_result(7) | {
    "verdict": "passed",
    "msg": "passed: 21 of 21 sessions, prod, v1, shop",
    "requests": {"planned": 111, "sent": 111, "answered": 111, "by_status": {"200": 111}},
    "backends": [{"pod": "shop-prod-1", "address": "10.1.1.11", "node": "admin"}],
}

Run = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a module: everything that it printed, and its result. The arguments are shown as at -vvv."""

    def run(module: Any, **options: Any) -> tuple[str, dict[str, Any]]:
        with patch_module_args({"_ansible_verbosity": 4, "_ansible_diff": True, "_ansible_inject_invocation": True, **options}), pytest.raises(SystemExit):
            module.main()
        printed = capfd.readouterr()
        return printed.out + printed.err, json.loads(printed.out)

    return run


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """istio_affinity_check after a measurement with this outcome, an exception or a result."""

    def checked(outcome: Any = RESULT, **options: Any) -> tuple[str, dict[str, Any]]:
        def check(*_words: Any, **_more: Any) -> tuple[dict[str, Any], bool]:
            if isinstance(outcome, Exception):
                raise outcome
            return dict(outcome), False

        monkeypatch.setattr(istio_affinity_check, "check", check)
        monkeypatch.setattr(istio_affinity_check, "connect", lambda _module: None)
        return run(istio_affinity_check, **{"namespace": "shop", "service": "cart", "client": {"pod": "probe-0"}, **options})

    return checked


# -- nothing gets out --

INPUTS: dict[str, dict[str, Any]] = {
    "kubeconfig": {"kubeconfig": kubeconfig()},
    "kubeconfig with exec": {"kubeconfig": kubeconfig({"exec": EXEC})},
    "kubeconfig with auth-provider": {"kubeconfig": kubeconfig({"auth-provider": PROVIDER})},
    "kubeconfig of nonsense": {"kubeconfig": kubeconfig(users=CANARIES["token"])},
    "kubeconfig with a user of nonsense": {"kubeconfig": kubeconfig(CANARIES["token"])},
    "kubeconfig as text": {"kubeconfig": json.dumps(kubeconfig(), indent=1)},
    "kubeconfig in a list": {"kubeconfig": [kubeconfig()]},
    "api_key": {"host": NOWHERE, "api_key": CANARIES["api-key"]},
    "api_key with a newline": {"host": NOWHERE, "api_key": CANARIES["api-key"] + "\n"},
    "password": {"host": NOWHERE, "username": "admin", "password": CANARIES["password"]},
    "proxy": {"host": NOWHERE, "api_key": "x", "proxy": NOWHERE, "proxy_headers": {"proxy_basic_auth": f"me:{CANARIES['proxy-auth']}"}},
    "proxy URL": {"host": NOWHERE, "api_key": "x", "proxy": f"http://me:{CANARIES['proxy-auth']}@127.0.0.1:9"},
    "proxy URL with a slash": {"host": NOWHERE, "api_key": "x", "proxy": f"http://me:a/{CANARIES['proxy-auth']}@127.0.0.1:9"},
    "headers": {"host": NOWHERE, "api_key": "x", "headers": HEADERS},
}


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("module", [istio_affinity_check, istio_affinity_info], ids=["check", "info"])
@pytest.mark.parametrize("wrong", [{}, {"port": "many"}, {"key": {"type": "header"}}], ids=["unreachable", "no number", "no key"])
def test_no_secret_is_printed_by_a_module_that_fails(run: Run, module: Any, given: str, wrong: dict[str, Any]) -> None:
    options = INPUTS[given] | wrong
    if module is istio_affinity_info:
        options.pop("headers", None)
    else:
        options |= {"namespace": "shop", "service": "cart"}
    printed, result = run(module, **options)
    assert result["failed"]
    assert [canary for canary in CANARIES.values() if canary in printed] == [], printed
    assert "Traceback" not in printed


ECHO = " ".join(CANARIES.values())
OUTCOMES = {
    "green": RESULT | {"msg": f"passed {ECHO}"},
    "red": RESULT | {"verdict": "failed", "msg": f"failed {ECHO}"},
    "error": CheckError("forbidden", f"No permission {ECHO}"),
    "crash": RuntimeError(f"crash {ECHO}"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_no_secret_is_in_a_result_even_if_the_text_of_an_error_repeats_it(checked: Run, outcome: str) -> None:
    """Libraries repeat what they were given: a header that is refused, an URL with a password."""
    printed, _result = checked(
        OUTCOMES[outcome],
        kubeconfig=kubeconfig({"exec": EXEC, "auth-provider": PROVIDER, **kubeconfig()["users"][0]["user"]}),
        api_key=CANARIES["api-key"],
        proxy_headers={"proxy_basic_auth": CANARIES["proxy-auth"]},
        headers=HEADERS,
    )
    assert [canary for canary in CANARIES.values() if canary in printed] == [], printed


def test_secrets_of_the_environment_are_hidden_too(checked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_AUTH_API_KEY", CANARIES["api-key"])
    monkeypatch.setenv("K8S_AUTH_PASSWORD", CANARIES["password"])
    printed, _result = checked(OUTCOMES["error"])
    assert CANARIES["api-key"] not in printed
    assert CANARIES["password"] not in printed


# -- what is no secret stays --


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"X-Canary": "1"}},
        {"headers": {"X-Env": "prod", "X-Trace": "shop-prod-1"}},
        {"headers": {"Authorization": "1", "Cookie": "prod", "X-Api-Key": "passed", "X-Token": ""}},
        {"headers": {"X-Api-Key": "shop-prod-1"}, "client": {"pod": "shop-prod-1"}},
        {"headers": {"X-Auth-Token": "sessions"}},
        {"kubeconfig": kubeconfig()},
        {"kubeconfig": kubeconfig({"exec": EXEC})},
        {"password": "1", "api_key": "shop"},
    ],
    ids=lambda options: json.dumps(options)[:60],
)
def test_a_result_is_never_corrupted(checked: Run, options: dict[str, Any]) -> None:
    """Ansible replaces a no_log value wherever it stands: counts became asterisks, and pods got another name."""
    _printed, result = checked(RESULT, **options)
    assert {name: result[name] for name in RESULT} == RESULT


def test_a_short_secret_is_hidden_where_it_was_given(checked: Run) -> None:
    """It is too short to be looked for everywhere, but its place is known."""
    options = {"headers": {"Authorization": "s3", "X-Env": "prod"}, "password": "pw", "kubeconfig": kubeconfig({"token": "s3"})}
    _printed, result = checked(RESULT, **options)
    given = result["invocation"]["module_args"]
    hidden = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
    assert given["headers"] == {"Authorization": hidden, "X-Env": "prod"}
    assert (given["password"], given["kubeconfig"]) == (hidden, hidden)
    assert given["service"] == "cart"


def test_the_path_of_a_kubeconfig_is_no_secret(checked: Run) -> None:
    _printed, result = checked(RESULT | {"msg": "no file /etc/shop.kubeconfig"}, kubeconfig="/etc/shop.kubeconfig")
    assert result["msg"] == "no file /etc/shop.kubeconfig"
    assert result["invocation"]["module_args"]["kubeconfig"] == "/etc/shop.kubeconfig"
