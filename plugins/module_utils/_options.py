# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options that the modules share, and their parsed form.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._model import PROBE_LABEL, CheckError, ClientChoice, JsonDict, Key, Scope
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import StopOn
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import Sending
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Method
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES
from ansible_collections.meshops.istio.plugins.module_utils._secrets import is_secret_name
from ansible_collections.meshops.istio.plugins.module_utils._verdict.what_if import Scenario, read_scenario

# option: the smallest and the largest valid value
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

# Options that name an object of Kubernetes, and other options with text. An empty one is a mistake, such as a variable that is not set; only a session ID may
# be empty.
NAMES = (
    "namespace",
    "service",
    "client.pod",
    "client.container",
    "client.namespace",
    "via.namespace",
    "via.service",
    "what_if.remove_pods",
    "what_if.drain_node",
)
TEXTS = ("client.selector", "key.name", "path", "identify_pattern", "identify_header", "via.address", "via.host")
NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


def check_texts(params: JsonDict) -> None:
    """Refuse empty texts, and names that no object can have. Raises CheckError with `bad_option`."""
    for option in (*NAMES, *TEXTS):
        outer, _dot, inner = option.partition(".")
        value = (params.get(outer) or {}).get(inner) if inner else params.get(outer)
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not text.strip():
                place = f"contains an empty {'name' if option in NAMES else 'text'}" if isinstance(value, list) else "is empty"
                raise CheckError("bad_option", f"Option {option} {place}. Next: give a value, or leave the option out.")
            if text is not None and option in NAMES and not NAME.fullmatch(text):
                raise CheckError("bad_option", f"Option {option} is {text!r}, which no object in Kubernetes can be named. Next: correct it.")


def client_spec() -> JsonDict:
    return {
        "type": "dict",
        "options": {
            "pod": {"type": "str"},
            "selector": {"type": "str", "default": PROBE_LABEL},
            "container": {"type": "str"},
            "namespace": {"type": "str"},
            "max": {"type": "int"},
        },
    }


def key_spec() -> JsonDict:
    # Not a secret key: without this, ansible-test takes it for one by its name.
    return {
        "type": "dict",
        "no_log": False,
        "options": {
            "type": {"type": "str", "default": "header", "choices": ["header", "cookie", "query", "source_ip"]},
            "name": {"type": "str"},
            "cookie": {"type": "str", "default": "given", "choices": ["given", "learned", "browser"]},
        },
    }


def client_choice(params: JsonDict) -> ClientChoice:
    option = params.get("client") or {}
    most = option.get("max")
    if most is not None and most < 1:
        raise CheckError("bad_option", f"Option client.max is {most}; it must be at least 1.")
    return ClientChoice(
        namespace=option.get("namespace") or params["namespace"],
        pod=option.get("pod"),
        selector=option.get("selector") or PROBE_LABEL,
        container=option.get("container"),
        max=most,
    )


def given_key(params: JsonDict) -> Key | None:
    """The key of the option, or None to take it from the rule in force."""
    option = params.get("key")
    if not option:
        return None
    if option["type"] == "source_ip":
        if option.get("name"):
            raise CheckError("bad_option", "Option key.name does not apply to key.type source_ip; leave it out.")
        return Key("source_ip", None)
    if not option.get("name"):
        raise CheckError("bad_option", f"Option key.name is missing; key.type {option['type']} needs the name of the {option['type']}.")
    if option["type"] != "cookie" and option["cookie"] != "given":
        raise CheckError("bad_option", f"Option key.cookie applies only to key.type cookie; leave it out for {option['type']}.")
    return Key(option["type"], option["name"], cookie=option["cookie"])


@dataclass(frozen=True)
class Settings:
    """The validated options."""

    choice: ClientChoice
    key: Key | None
    sending: Sending
    method: Method
    max_flip_rate: float
    seed: int
    stop_on: StopOn | None = None


def read_settings(params: JsonDict) -> Settings:
    """Refuse invalid values before the first access. Raises CheckError with `bad_option`."""
    check_texts(params)
    for option, (least, most) in LIMITS.items():
        value = params[option]
        if value is not None and not least <= value <= most:
            raise CheckError("bad_option", f"Option {option} is {value}; it must be between {least} and {most}.")
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
    key, method, choice = given_key(params), read_method(params), client_choice(params)
    refuse_to_hand_out(sending.headers, choice)
    if key and key.issued and method.name in ("body", "upstream"):
        raise CheckError("bad_option", f"Options key.cookie={key.cookie} and identify={method.name} exclude each other; use header or access_log.")
    return Settings(choice, key, sending, method, bound, seed, read_stop_on(params))


def refuse_to_hand_out(headers: Iterable[tuple[str, str]], choice: ClientChoice) -> None:
    """Whoever may create a pod can label it as a client. Raises CheckError with `bad_option` if such a pod would get a secret."""
    secret = next((name for name, _value in headers if is_secret_name(name)), None)
    if secret is not None and choice.pod is None:
        raise CheckError("bad_option", f"Option headers: {secret} is a secret, and any pod with a label would get it. Next: name a client pod in client.pod.")


def read_stop_on(params: JsonDict) -> StopOn | None:
    """The conditions that stop the check. Raises CheckError with `bad_option`."""
    option = params["stop_on"]
    if option is None:
        return None
    wrong = [status for status in option["statuses"] if not 100 <= status <= 599]
    if wrong:
        raise CheckError("bad_option", f"Option stop_on.statuses contains {wrong[0]}; a status is between 100 and 599.")
    share = option["server_errors"]
    if share is not None and not 0 <= share <= 1:
        raise CheckError("bad_option", f"Option stop_on.server_errors is {share}; it must be a share between 0 and 1.")
    return StopOn(frozenset(option["statuses"]), share)


def read_method(params: JsonDict) -> Method:
    """The identity method. Raises CheckError with `bad_option`."""
    pattern = params["identify_pattern"]
    if (params["identify"] == "body") != (pattern is not None):
        raise CheckError("bad_option", "Options identify=body and identify_pattern go together; give both or neither.")
    if params["identify"] == "body" and params["method"] == "HEAD":
        raise CheckError("bad_option", "Option identify is body, but responses to HEAD have no body; use another method.")
    try:
        compiled = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise CheckError("bad_option", f"Option identify_pattern is not a valid regular expression: {error}.") from error
    return Method(params["identify"], tuple(params["identify_header"]), compiled)


@dataclass(frozen=True)
class Wanted:
    """The validated options of istio_affinity_info."""

    scope: Scope
    choice: ClientChoice
    key: Key | None
    sessions: tuple[str, ...]
    scenario: Scenario | None


def read_wanted(params: JsonDict) -> Wanted:
    """Refuse invalid options. Raises `CheckError` with `bad_option`."""
    check_texts(params)
    namespaces = tuple(dict.fromkeys(params.get("namespace") or ())) or None
    alone = namespaces[0] if namespaces is not None and len(namespaces) == 1 else ""
    choice = client_choice({**params, "namespace": alone})
    if choice.pod is not None and not choice.namespace:
        raise CheckError("bad_option", "Option client.pod needs client.namespace, because the option namespace does not name exactly one.")
    sessions = tuple(dict.fromkeys(params.get("session_ids") or ()))
    scope = Scope(namespaces, params.get("service"), params.get("port"))
    return Wanted(scope, choice, given_key(params), sessions, read_scenario(params.get("what_if")))
