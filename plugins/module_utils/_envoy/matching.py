# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a request of the probe takes a route, as Envoy decides it. Pure.

The rules are those of Envoy's source/common/router/config_impl.cc (findVirtualHost, matchRoute), config_utility.cc and
source/common/http/header_utility.cc. What cannot be evaluated is neither a match nor none.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._envoy.re2 import Budget, matches
from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict, Key, Target, hashed_value

# What curl sends besides the headers of the options; a unit test holds the name against `_requests.curl`.
OWN_HEADERS = {"accept": "*/*", "user-agent": "meshops.istio/istio_affinity_check"}
# Envoy sets or changes these before it chooses a route, so their values are not known.
SET_BY_ENVOY = re.compile(r"x-envoy-|x-forwarded-|x-request-id$|x-b3-|traceparent$|tracestate$|forwarded$|via$|connection$|x-ot-|x-client-trace-id$")
# What a rule compares such a header with may be a token.
SECRET = re.compile(r"authorization|token|secret|passw|api-?key", re.IGNORECASE)
MOST_SHOWN = 100
PATHS = ("prefix", "path", "path_separated_prefix", "safe_regex", "connect_matcher")
KNOWN = {*PATHS, "case_sensitive", "runtime_fraction", "headers", "query_parameters", "grpc"}
STRING_KINDS = ("exact", "prefix", "suffix", "contains", "safe_regex")
HUNDREDS = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}


@dataclass(frozen=True)
class Request:
    """A request as Envoy sees it: `headers` in small letters, Envoy's own (`:path`, `:authority`) among them."""

    headers: Mapping[str, str]
    budget: Budget = field(default_factory=Budget, compare=False)

    @property
    def path(self) -> str:
        return self.headers[":path"].partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Each parameter as written in the URL; of several with one name, the first."""
        parameters: dict[str, str] = {}
        for part in filter(None, self.headers[":path"].partition("?")[2].split("&")):
            name, _sep, value = part.partition("=")
            parameters.setdefault(name, value)
        return parameters


@dataclass(frozen=True)
class Condition:
    """What a route asks for, as text, and whether the request has it: None if that cannot be evaluated. `lane` is true for
    a header or parameter that the caller chooses."""

    text: str
    answer: bool | None
    lane: bool = False


# -- the request --


def request_of(target: Target, session: str | None, budget: Budget) -> Request:
    """The probe's request for one session; None is the request without the key."""
    path = target.path
    headers = dict(OWN_HEADERS)
    for name, value in (*target.headers, *_of_key(target.key, session)):
        key = name.lower()
        separator = "; " if key == "cookie" else ","
        known = headers.get(key) if key not in OWN_HEADERS else None
        headers[key] = value if known is None else f"{known}{separator}{value}"
    if target.key and target.key.type == "query" and session is not None:
        path += f"{'&' if '?' in path else '?'}{target.key.name}={hashed_value(target.key, session)}"
    return Request(headers | {":path": path, ":method": target.method, ":scheme": "http", ":authority": authority_of(target)}, budget)


def _of_key(key: Key | None, session: str | None) -> Iterator[tuple[str, str]]:
    if key is None or session is None:
        return
    if key.type == "header":
        yield key.name or "", session
    elif key.type == "cookie":
        yield "Cookie", f"{key.name}={session}"


def authority_of(target: Target) -> str:
    if target.via:
        return target.via.host
    return target.host if target.port == 80 else f"{target.host}:{target.port}"


# -- the virtual host --


def virtual_host_for(config: JsonDict, authority: str) -> JsonDict | None:
    """The virtual host of a route configuration: by the exact name, the longest suffix, the longest prefix, or `*`."""
    host = authority.lower()
    if config.get("ignore_port_in_host_matching"):
        host = re.sub(r":[0-9]+$", "", host)
    ranked = [(rank, entry) for entry in config.get("virtual_hosts") or [] for domain in entry.get("domains") or [] if (rank := _rank(domain.lower(), host))]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _rank(domain: str, host: str) -> tuple[int, int] | None:
    """How well a domain fits; a wildcard stands for at least one character."""
    if domain == "*":
        return 1, 0
    if domain == host:
        return 4, 0
    size = len(domain) - 1
    if domain.startswith("*") and len(host) > size and host.endswith(domain[1:]):
        return 3, size
    return (2, size) if domain.endswith("*") and len(host) > size and host.startswith(domain[:-1]) else None


# -- the route --


def conditions(match: JsonDict, request: Request) -> list[Condition]:
    """Everything that a route's match asks for."""
    found = [_path(match, request)]
    found += [_header(entry, request) for entry in match.get("headers") or []]
    found += [_parameter(entry, request) for entry in match.get("query_parameters") or []]
    if "grpc" in match:
        found.append(Condition("a gRPC request", request.headers.get("content-type", "").startswith("application/grpc")))
    if "runtime_fraction" in match:
        found.append(_fraction(match["runtime_fraction"]))
    found += [Condition(f"{name} of the route", None) for name in sorted(match.keys() - KNOWN)]
    return found


def _shown(words: str, value: object = None) -> str:
    """A condition as text. Its parts are a tenant's, so they are cut short and printable."""
    text = words if value is None else f"{words} {value}"
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: MOST_SHOWN + 1])
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _path(match: JsonDict, request: Request) -> Condition:
    kind = next((name for name in PATHS if name in match), None)
    if kind is None:
        return Condition("the route's kind of path", None)
    if kind == "connect_matcher":
        return Condition("CONNECT", False)
    wanted = match[kind].get("regex", "") if kind == "safe_regex" else match[kind]
    text = _shown(f"path {kind}", wanted)
    if kind == "safe_regex":
        return Condition(text, matches(wanted, request.path, request.budget))
    path = request.path
    if match.get("case_sensitive") is False:
        path, wanted = path.lower(), wanted.lower()
    fits = {
        "prefix": path.startswith(wanted),
        "path": path == wanted,
        "path_separated_prefix": path == wanted or path.startswith(f"{wanted}/"),
    }
    return Condition(text, fits[kind])


def _fraction(fraction: JsonDict) -> Condition:
    """A share of the requests. A runtime key may change it, but Istio sends none."""
    default = fraction.get("default_value") or {}
    whole = HUNDREDS.get(default.get("denominator", "HUNDRED"), 0)
    share = int(default.get("numerator", 0))
    answer = None if fraction.get("runtime_key") or 0 < share < whole else share > 0
    return Condition(f"a share of {share} in {whole} requests", answer)


def _header(entry: JsonDict, request: Request) -> Condition:
    name = str(entry.get("name", "")).lower()
    inverted = bool(entry.get("invert_match"))
    kind, wanted = _specifier(entry)
    text = _shown(f"header {name} {'not ' if inverted else ''}{kind}", "(hidden)" if SECRET.search(name) else wanted)
    lane = not name.startswith(":") or name == ":authority"
    if SET_BY_ENVOY.match(name):
        return Condition(text, None, lane)
    value = request.headers.get(name)
    if kind == "present":
        present = value is not None or bool(entry.get("treat_missing_header_as_empty"))
        return Condition(text, (present == (wanted is not False)) != inverted, lane)
    if value is None and not entry.get("treat_missing_header_as_empty"):
        return Condition(text, False, lane)
    answer = _value(kind, entry, value or "", request.budget)
    return Condition(text, None if answer is None else answer != inverted, lane)


def _specifier(entry: JsonDict) -> tuple[str, object]:
    """The kind of a header's match, and what it is compared with."""
    if "range_match" in entry:
        span = entry["range_match"]
        return "range", f"{span.get('start', 0)} to {span.get('end', 0)}"
    chosen = entry.get("string_match") or {kind: entry[f"{kind}_match"] for kind in STRING_KINDS if f"{kind}_match" in entry}
    kind = next((kind for kind in STRING_KINDS if kind in chosen), None)
    if kind is not None:
        return kind, chosen[kind].get("regex", "") if kind == "safe_regex" else chosen[kind]
    if "string_match" in entry:
        return "string_match", next(iter(chosen), "")
    return "present", entry.get("present_match")


def _value(kind: str, entry: JsonDict, value: str, budget: Budget) -> bool | None:
    if kind == "range":
        span = entry["range_match"]
        number = re.fullmatch(r"\s*([+-]?[0-9]{1,19})\s*", value)
        return number is not None and int(span.get("start", 0)) <= int(number.group(1)) < int(span.get("end", 0))
    return _string(entry.get("string_match") or {kind: entry.get(f"{kind}_match")}, value, budget)


def _string(matcher: JsonDict, value: str, budget: Budget) -> bool | None:
    """Envoy's StringMatcher; a kind that is not known here (custom) cannot be evaluated."""
    kind = next((kind for kind in STRING_KINDS if kind in matcher), None)
    if kind is None:
        return None
    wanted = matcher[kind]
    if kind == "safe_regex":
        return matches(wanted.get("regex", ""), value, budget)
    if matcher.get("ignore_case"):
        value, wanted = value.lower(), wanted.lower()
    fits = {"exact": value == wanted, "prefix": value.startswith(wanted), "suffix": value.endswith(wanted), "contains": wanted in value}
    return bool(fits[kind])


def _parameter(entry: JsonDict, request: Request) -> Condition:
    """A query parameter, compared as written in the URL."""
    name, matcher = entry.get("name", ""), entry.get("string_match")
    value = request.query.get(name)
    kind, wanted = _specifier(entry)
    text = _shown(f"query parameter {name} {kind}", "(hidden)" if SECRET.search(name) else wanted)
    if matcher is None:
        return Condition(text, (value is not None) == (entry.get("present_match") is not False), lane=True)
    return Condition(text, False if value is None else _string(matcher, value, request.budget), lane=True)


# -- the choice --


@dataclass(frozen=True)
class Choice:
    """The route that a request takes, or None; `doubt` is why that cannot be told. `lanes` are the routes before it that
    other headers or parameters would lead to, with what they ask for."""

    route: JsonDict | None
    doubt: str | None = None
    lanes: tuple[tuple[str, JsonDict], ...] = ()


def choose(routes: Iterable[JsonDict], request: Request) -> Choice:
    """The first route that matches. A route that cannot be evaluated leaves no doubt if it does the same as the others."""
    possible: list[JsonDict] = []
    doubts: list[str] = []
    lanes: list[tuple[str, JsonDict]] = []
    chosen = None
    for route in routes:
        found = conditions(route.get("match") or {}, request)
        refused = [each for each in found if each.answer is False]
        if refused:
            if all(each.lane for each in refused):
                lanes.append((" and ".join(each.text for each in refused), route))
            continue
        possible.append(route)
        unsure = [each.text for each in found if each.answer is None]
        if not unsure:
            chosen = route
            break
        doubts += unsure
    if doubts and (chosen is None or len({_effect(route) for route in possible}) > 1):
        return Choice(None, f"{doubts[0]} cannot be evaluated", tuple(lanes))
    return Choice(chosen, None, tuple(lanes))


def _effect(route: JsonDict) -> str:
    """What a route does to a request, as far as it matters to affinity."""
    action = route.get("route") or {}
    parts = [action.get(name) for name in ("cluster", "weighted_clusters", "cluster_header", "hash_policy")]
    changes = [route.get(name) for name in ("redirect", "direct_response", "request_headers_to_add", "request_headers_to_remove")]
    return repr((parts, changes))


def choose_for_all(routes: Sequence[JsonDict], requests: Sequence[Request]) -> Choice:
    """The route of all these requests, which differ by the value of the key only."""
    choices = [choose(routes, request) for request in requests]
    doubtful = next((choice for choice in choices if choice.doubt), None)
    if doubtful or not choices:
        return doubtful or Choice(None)
    if any(choice.route is not choices[0].route for choice in choices):
        return Choice(None, "sessions take different routes, by the value of the key", choices[0].lanes)
    return choices[0]
