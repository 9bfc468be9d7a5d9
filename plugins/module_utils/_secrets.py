# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which values of a module's options, and of a sink's, are secrets. Pure.

Ansible replaces a `no_log` value wherever it stands in a result, so that a header `X-Canary: 1` changes every count. Only values that
cannot be anything else are replaced everywhere. All secrets are hidden where they were given.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict

HIDDEN = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
# Shorter values, and words that are not much longer, may stand in a result for another reason.
SHORTEST, SHORTEST_WORD = 8, 16
SECRET_NAME = re.compile(
    r"auth$|authorization|cookie|token|secret|passw|passphrase|credential|signature|assertion|jwt|api.?key|(^|[-_.])key($|-data$)", re.IGNORECASE
)
SECRET_OPTIONS = ("api_key", "password")
# kubernetes.core reads these if the options are not set.
SECRET_VARIABLES = ("K8S_AUTH_API_KEY", "K8S_AUTH_PASSWORD", "K8S_AUTH_PROXY_HEADERS_PROXY_BASIC_AUTH", "K8S_AUTH_PROXY_HEADERS_BASIC_AUTH")
URLS, URL_VARIABLES = ("host", "proxy"), ("K8S_AUTH_HOST", "K8S_AUTH_PROXY")
# Parts of a header value: a scheme, the cookies and their values.
PARTS = re.compile(r"[\s;,=\"]+")
SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Headers of a sink whose values are no secrets. Every other one may be what the server knows the sender by.
OPEN_HEADERS = frozenset({"accept", "content-type", "user-agent"})


def is_secret_name(name: str) -> bool:
    """Whether a header, an environment variable or an entry of a kubeconfig of this name is a secret."""
    return SECRET_NAME.search(name) is not None


def credentials_of(url: str) -> list[str]:
    """The user with the password in a URL, and the password; empty without. Up to the last @ before the query, because a password
    may have characters that should have been encoded."""
    user = SCHEME.sub("", url, count=1).partition("?")[0].rpartition("@")[0]
    return [user, user.partition(":")[2]] if user else []


def secrets_of_sink(url: str, headers: Mapping[str, Any]) -> Iterator[str]:
    """What nobody may see of requests to a sink: values of headers, the user and the password in its URL, and its query."""
    for name, value in headers.items():
        if str(name).lower() not in OPEN_HEADERS:
            yield from (str(value).strip(), *str(value).split()[1:])
    query = url.partition("?")[2]
    yield from (*credentials_of(url), query, *(pair.partition("=")[2] for pair in query.split("&")))


def secrets_of(params: Mapping[str, Any], environment: Mapping[str, str]) -> set[str]:
    """The values to replace wherever they stand."""
    plain = set(_leaves({name: value for name, value in shown(params).items() if name not in URLS}))
    given = {part for secret in _secrets(params, environment) for part in (secret, secret.strip(), *PARTS.split(secret))}
    return {secret for secret in given if _is_distinct(secret) and secret not in plain}


def shown(params: Mapping[str, Any]) -> JsonDict:
    """The options as they may be printed: each secret is hidden where it was given, whatever its value."""
    hidden: JsonDict = {name: HIDDEN for name in SECRET_OPTIONS if params.get(name)}
    if not isinstance(params.get("kubeconfig"), (str, type(None))) or "\n" in (params.get("kubeconfig") or ""):
        hidden["kubeconfig"] = HIDDEN
    hidden |= {name: url.replace(user, HIDDEN) for name in URLS if isinstance(url := params.get(name), str) for user in credentials_of(url)[:1]}
    for option in ("headers", "proxy_headers"):
        value = params.get(option)
        if isinstance(value, Mapping):
            hidden[option] = {name: HIDDEN if each and is_secret_name(str(name)) else each for name, each in value.items()}
        elif value:
            hidden[option] = HIDDEN
    return {**params, **hidden}


def _is_distinct(value: str) -> bool:
    return len(value) >= (SHORTEST_WORD if re.fullmatch(r"[A-Za-z]*", value) else SHORTEST)


def _secrets(params: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    for option in SECRET_OPTIONS:
        yield from _leaves(params.get(option))
    yield from (environment[name] for name in SECRET_VARIABLES if name in environment)
    for url in (*map(params.get, URLS), *map(environment.get, URL_VARIABLES)):
        yield from credentials_of(str(url or ""))
    for option in ("headers", "proxy_headers"):
        yield from _named(params.get(option))
    yield from _of_kubeconfig(params.get("kubeconfig"))


def _named(value: Any) -> Iterator[str]:
    """The leaves with the name of a secret; all of them if there are no names."""
    if isinstance(value, Mapping):
        yield from (leaf for name, each in value.items() if is_secret_name(str(name)) for leaf in _leaves(each))
    else:
        yield from _leaves(value)


def _of_kubeconfig(config: Any) -> Iterator[str]:
    """Secrets stand among the users. What has not the form of a kubeconfig is a secret as a whole."""
    if isinstance(config, str) and "\n" not in config:
        return
    users = config.get("users") if isinstance(config, Mapping) else config
    for user in users if isinstance(users, list) else [users]:
        details = user.get("user") if isinstance(user, Mapping) else user
        yield from _of_user(details) if isinstance(details, Mapping) else _leaves(details)


def _of_user(user: Mapping[str, Any]) -> Iterator[str]:
    yield from _named({name: value for name, value in user.items() if not name.endswith(("File", "client-key", "client-certificate"))})
    provider, plugin = user.get("auth-provider"), user.get("exec")
    if isinstance(provider, Mapping):
        yield from _named(provider.get("config"))
    if isinstance(plugin, Mapping):
        variables = [entry for entry in plugin.get("env") or [] if isinstance(entry, Mapping)]
        yield from _named({str(entry.get("name")): entry.get("value") for entry in variables})
        yield from _of_arguments([str(word) for word in plugin.get("args") or []])


def _of_arguments(words: list[str]) -> Iterator[str]:
    """`--token=value` and `--token value`."""
    yield from (word.partition("=")[2] for word in words if is_secret_name(word.partition("=")[0]))
    yield from (value for option, value in pairwise(words) if option.startswith("-") and is_secret_name(option) and not value.startswith("-"))


def _leaves(value: Any) -> Iterator[str]:
    """All texts and numbers in a structure, as texts."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
