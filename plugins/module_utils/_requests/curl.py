# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan as curl's configuration, and curl's lines as observations. Pure.

Option names and the versions they came with: https://curl.se/docs/manpage.html.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key, Target, Via, hashed_value
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD, Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request

OLDEST_CURL = (7, 84, 0)
USER_AGENT = "meshops.istio/istio_affinity_check"
# Headers in which applications, proxies and ingress controllers commonly name the instance that answered.
IDENTITY_HEADERS = ("X-Pod-Name", "X-Pod", "X-Hostname", "X-Served-By", "X-Backend-Server", "X-Instance-Id")
# The end of each line: without it, a truncated name could pass for the name of another pod.
END = f"{FIELD}."
# Envoy accepts up to 60 KiB of headers by default; this leaves room for the headers that it adds.
MOST_BYTES = 56 * 1024
LONGEST_SERVER = 80
# curl's exit codes that say why there is no response: https://curl.se/docs/manpage.html#EXIT
EXIT_CODES = {
    6: "the host name could not be resolved",
    7: "the connection was refused",
    28: "no response in time",
    35: "the TLS handshake failed",
    52: "the connection was closed without a response",
    55: "the request could not be sent",
    56: "the connection was reset",
}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_.-]*[0-9A-Za-z_.])?")
# Envoy compares a parameter's name as written in the URL, so it is sent unchanged.
_PARAMETER = re.compile(r"[!$'()*,./0-9:;?@A-Z\[\]_a-z~%-]+")
_LINE = re.compile(rb"R\|(\d{1,9})\x1f(\d{3})\x1f(\d{1,3})\x1f(\d{1,7}\.\d{1,9})\x1f([^\x1f]*)\x1f([^\x1f]*)\x1f(.*)\x1f\.", re.DOTALL)
# They control the connection or the routing; as a key they would change the measurement.
_RESERVED = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent")
)


@dataclass(frozen=True)
class Sending:
    """How each request is sent: `headers` in addition to the key's, timeouts in seconds, transfers in flight."""

    headers: tuple[tuple[str, str], ...] = ()
    keepalive: bool = False
    concurrency: int = 10
    connect_timeout: float = 2.0
    request_timeout: float = 5.0
    identity_headers: tuple[str, ...] = IDENTITY_HEADERS


@dataclass
class CookieJar:
    """The cookie of each session: the first that it received, or with `follow` the latest, as in a browser."""

    name: str
    follow: bool
    values: dict[int, str] = field(default_factory=dict)

    def note(self, session: int | None, set_cookies: Iterable[str]) -> None:
        """Store the Set-Cookie headers of a response. A value that is not valid in a header is ignored, because it would be
        sent back."""
        for line in set_cookies:
            name, sep, value = line.partition(";")[0].partition("=")
            if not sep or name.strip() != self.name or _CONTROL.search(value) or not _encodable(value):
                continue
            if session is not None and (self.follow or session not in self.values):
                self.values[session] = value.strip()


@dataclass(frozen=True)
class Transfer:
    """A way to run transfers.

    With a `mark` they run one after the other, and every line of ours begins with it; with `bodies`, the answers'
    bodies come before those lines. With `request_ids`, the first 24 characters of a UUID, each request has an
    x-request-id of its own. With a `jar` each session sends the cookie that it holds, and the answers' headers are
    printed to fill it.
    """

    sending: Sending
    mark: str | None = None
    bodies: bool = False
    request_ids: str | None = None
    jar: CookieJar | None = None

    def request_id(self, index: int) -> str:
        return f"{self.request_ids}{index:012x}"


def curl_version(line: str) -> tuple[int, ...]:
    """`(7, 88, 1)` from the first line of `curl --version`; empty if it is not curl's."""
    match = re.match(r"curl (\d+)\.(\d+)\.(\d+)", line)
    return tuple(int(part) for part in match.groups()) if match else ()


def check_curl(line: str, where: str) -> str:
    """The version as text. Raises `CheckError` with `no_curl` or `old_curl`."""
    version = curl_version(line)
    wanted = ".".join(str(part) for part in OLDEST_CURL)
    if not version:
        raise CheckError("no_curl", f"There is no curl in {where}. Next: use a client pod whose image has curl {wanted} or newer (curlimages/curl does).")
    text = ".".join(str(part) for part in version)
    if version < OLDEST_CURL:
        raise CheckError("old_curl", f"curl {text} in {where} is too old. Next: use a client pod whose image has curl {wanted} or newer.")
    return text


def check_sendable(key: Key, sessions: Sequence[str], target: Target, sending: Sending) -> None:
    """Refuse values that cannot be sent unchanged, before the first request. Raises `CheckError` with `bad_option`."""
    if not re.fullmatch(r"/[\x21-\x7e]*", target.path) or "#" in target.path:
        raise _bad("path", repr(target.path), "it must start with / and contain no spaces, no # and only ASCII characters (percent-encode others)")
    if target.via:
        _check_via(target.via)
    for name, value in sending.headers:
        _check_header("headers", name, value)
    for name in sending.identity_headers:
        if not _TOKEN.fullmatch(name):
            raise _bad("identify_header", repr(name), "it is not a header name")
    _check_key(key)
    _check_key_once(key, target, sending)
    if len(set(sessions)) != len(sessions):
        repeated = next(value for value in sessions if sessions.count(value) > 1)
        raise _bad("session_ids", repr(repeated), "it is listed twice")
    for value in sessions:
        _check_value(key, value)
    if key.type == "source_ip" and not key.own and any(name.lower() == "x-forwarded-for" for name, _value in sending.headers):
        raise _bad("headers", "'X-Forwarded-For'", "with key.type source_ip the check sets it")
    _check_size(key, sessions, target, sending)


def _check_via(via: Via) -> None:
    """Validate values of the URL and the Host header, where anything other than a host could change the request."""
    if not _HOST.fullmatch(via.address) and not _is_ip(via.address):
        raise _bad("via.address", repr(via.address), "it is neither a host name nor an IP address")
    host, sep, port = via.host.partition(":")
    if not (_HOST.fullmatch(host) and (not sep or re.fullmatch(r"[0-9]{1,5}", port))):
        raise _bad("via.host", repr(via.host), "it must be a host name of the gateway's routes, with or without a port")
    if not 1 <= via.port <= 65535:
        raise _bad("via.port", str(via.port), "it must be between 1 and 65535")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _check_key_once(key: Key, target: Target, sending: Sending) -> None:
    """Refuse a second, constant value of the key, which would make all sessions the same or change them."""
    names = {name.lower() for name, _value in sending.headers}
    if key.type == "header" and (key.name or "").lower() in names:
        raise _bad("headers", repr(key.name), "it is the key, which the check sets for each session")
    cookies = [part.partition("=")[0].strip() for name, value in sending.headers if name.lower() == "cookie" for part in value.split(";")]
    if key.type == "cookie" and key.name in cookies:
        raise _bad("headers", "'Cookie'", f"it contains {key.name}, the key, which the check sets for each session")
    query = target.path.partition("?")[2]
    if key.type == "query" and any(part.partition("=")[0] == key.name for part in query.split("&")):
        raise _bad("path", repr(target.path), f"it already has the parameter {key.name}, the key, which the check adds for each session")


def _check_size(key: Key, sessions: Sequence[str], target: Target, sending: Sending) -> None:
    others = sum(len(name) + len(value.encode()) for name, value in sending.headers)
    for value in sessions:
        size = others + len(url_of(target, key, value)) + sum(len(header.encode()) for header in _key_headers(key, value))
        if size > MOST_BYTES:
            raise _bad("session_ids", f"{value[:20]!r}…", f"its requests have {size} bytes of headers, more than the {MOST_BYTES} that Envoy always accepts")


def _check_key(key: Key) -> None:
    if key.type == "header":
        _check_header("key.name", key.name or "", "")
    elif key.type == "cookie" and not _TOKEN.fullmatch(key.name or ""):
        raise _bad("key.name", repr(key.name), "it is not a cookie name")
    elif key.type == "query" and not _PARAMETER.fullmatch(key.name or ""):
        raise _bad("key.name", repr(key.name), "it is not the name of a query parameter; percent-encode it as in the rule")


def _check_value(key: Key, value: str) -> None:
    if not _encodable(value):
        raise _bad("session_ids", ascii(value), "it is not valid UTF-8")
    if key.type == "header" and (_CONTROL.search(value) or value != value.strip(" \t")):
        raise _bad("session_ids", repr(value), "a header value has no control characters and no leading or trailing spaces")
    if key.type == "cookie" and not re.fullmatch(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", value):
        raise _bad("session_ids", repr(value), "a cookie value has no spaces, quotes, commas, semicolons, backslashes or characters outside ASCII (RFC 6265)")
    if key.type == "source_ip" and not _is_ip(value):
        raise _bad("session_ids", repr(value), "with key.type source_ip each must be an IP address, which is sent as X-Forwarded-For")


def _encodable(value: str) -> bool:
    """Bytes that are not UTF-8 reach Python as lone surrogates, which cannot be sent."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _check_header(option: str, name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise _bad(option, repr(name), "it is not a header name")
    if name.lower() in _RESERVED:
        raise _bad(option, repr(name), "this header controls the connection or the routing and cannot be set here")
    if _CONTROL.search(value) or value != value.strip(" \t") or not _encodable(value):
        raise _bad(option, repr(name), "its value has control characters, leading or trailing spaces, or invalid UTF-8")


def _bad(option: str, value: str, why: str) -> CheckError:
    return CheckError("bad_option", f"Option {option}, value {value}: {why}.")


def url_of(target: Target, key: Key, value: str | None) -> str:
    """The URL of one request; a query key is appended to the path's own query."""
    host, number = (target.via.address, target.via.port) if target.via else (target.host, target.port)
    host = f"[{host}]" if ":" in host else host
    port = "" if number == 80 else f":{number}"
    url = f"http://{host}{port}{target.path}"
    if key.type != "query" or value is None:
        return url
    return f"{url}{'&' if '?' in target.path else '?'}{key.name}={hashed_value(key, value)}"


def request_configuration(plan: Plan, requests: Iterable[Request], target: Target, transfer: Transfer) -> bytes:
    """curl's `--config` for these requests."""
    return _joined(transfer, [_stanza(plan, request, target, transfer) for request in requests])


def block_configuration(plan: Plan, blocks: Iterable[Sequence[Request]], target: Target, transfer: Transfer, page: str) -> bytes:
    """The same with a page of Envoy's admin port before, between and after the blocks, each ended by a line `<mark>page`. The
    transfer needs a mark, because only requests in sequence can be counted in between."""
    counters = f'url = {_quoted(page)}\nsilent\nnoproxy = "*"\nmax-time = 10\nwrite-out = "\\n{transfer.mark}page\\n"'
    stanzas = [counters]
    for block in blocks:
        stanzas.extend(_stanza(plan, request, target, transfer) for request in block)
        stanzas.append(counters)
    return _joined(transfer, stanzas)


def _joined(transfer: Transfer, stanzas: Sequence[str]) -> bytes:
    start = "" if transfer.mark else f"parallel\nparallel-immediate\nparallel-max = {transfer.sending.concurrency}\n"
    return (start + "\nnext\n".join(stanzas) + "\n").encode()


def _stanza(plan: Plan, request: Request, target: Target, transfer: Transfer) -> str:
    """One transfer. `next` resets all options, so each transfer repeats them."""
    value = _key_value(plan, request, transfer.jar)
    parts = [f"url = {_quoted(url_of(target, plan.key, value))}"]
    parts.extend(f"header = {_quoted(header)}" for header in _key_headers(plan.key, value))
    if transfer.request_ids:
        parts.append(f'header = "x-request-id: {transfer.request_id(request.index)}"')
    start = f"\\n{transfer.mark}R|" if transfer.mark else "R|"
    end = f"{END}%{{header_json}}\\n" if transfer.jar else f"{END}\\n"
    parts.append(f'write-out = "{start}{request.index}{_write_out(transfer.sending.identity_headers)}{end}"')
    if not transfer.bodies:
        parts.append('output = "/dev/null"')
    parts.append(_common(target, transfer.sending))
    return "\n".join(parts)


def _key_value(plan: Plan, request: Request, jar: CookieJar | None) -> str | None:
    if request.session is None:
        return None
    return plan.sessions[request.session] if jar is None else jar.values.get(request.session)


def _common(target: Target, sending: Sending) -> str:
    options = [
        "silent",
        "http1.1",
        "globoff",
        "path-as-is",
        'noproxy = "*"',
        'proto = "=http"',
        f"connect-timeout = {sending.connect_timeout:g}",
        f"max-time = {sending.request_timeout:g}",
        f"user-agent = {_quoted(USER_AGENT)}",
    ]
    if target.method == "HEAD":
        options.append("head")
    elif target.method != "GET":
        options.append(f"request = {_quoted(target.method)}")
    if not sending.keepalive:
        # curl has no option for a new connection each time; asking the peer to close it has this effect.
        options.append('header = "Connection: close"')
    if target.via:
        options.append(f"header = {_quoted(_header('Host', target.via.host))}")
    options.extend(f"header = {_quoted(_header(name, value))}" for name, value in sending.headers)
    return "\n".join(options)


def _key_headers(key: Key, value: str | None) -> list[str]:
    if value is None or key.own:
        return []
    # A sidecar takes the source address from X-Forwarded-For, the last one if there are several (Envoy's
    # use_remote_address is off there), so one pod can send requests of many sources.
    headers = {"header": (key.name or "", value), "cookie": ("Cookie", f"{key.name}={value}"), "source_ip": ("X-Forwarded-For", value)}
    return [_header(*headers[key.type])] if key.type in headers else []


def _header(name: str, value: str) -> str:
    # curl sends no header at all for "name:"; the semicolon asks for one with an empty value.
    return f"{name}: {value}" if value else f"{name};"


def _write_out(identity_headers: Iterable[str]) -> str:
    fields = ["%{http_code}", "%{exitcode}", "%{time_total}", "%header{server}", "%header{x-envoy-upstream-service-time}"]
    fields.extend(f"%header{{{name.lower()}}}" for name in identity_headers)
    return FIELD + FIELD.join(fields)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def exit_words(code: int) -> str:
    """Why a request has no response, by curl's exit code."""
    return f"{EXIT_CODES[code]} (curl {code})" if code in EXIT_CODES else f"curl ended with code {code}"


def set_cookies(headers: bytes) -> list[str]:
    """The Set-Cookie headers in curl's header_json; empty if that is not JSON."""
    try:
        parsed = json.loads(headers)
    except (ValueError, RecursionError):
        return []
    values = parsed.get("set-cookie") if isinstance(parsed, dict) else None
    return [str(value) for value in values] if isinstance(values, list) else []


def parse_line(line: bytes) -> Observation | None:
    """One line of `request_configuration`'s write-out, or None for any other or incomplete line."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    index, status, code, seconds, server, upstream, identity = match.groups()
    return Observation(
        int(index),
        int(status),
        int(code),
        float(seconds),
        identity.decode("utf-8", "replace"),
        server[:LONGEST_SERVER].decode("utf-8", "replace"),
        bool(upstream),
    )
