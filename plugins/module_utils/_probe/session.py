# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The session with a client pod: one exec that gets commands and curl configurations over its standard input.

The exec's arguments are constant, because an API server's audit log keeps them; user data goes over standard input. The
next command is sent only after the end marker of the last one, so nothing in the pod can read ahead. A nonce, new for
each exec, marks the script's own lines.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import admin_pages, hosts_filter, hosts_page
from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import Pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import led_to, view_or_unread
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, ProxyView, Target, Unread
from ansible_collections.meshops.istio.plugins.module_utils._probe.exec import Exec, exit_reason

# The commands of the script in the pod, each followed by lines of output and an end marker:
#   P <bytes>            run curl with this configuration
#   H <bytes> <filter>   the same, but print only lines that contain the filter or the nonce
#   L <bytes> <filter>   the same, but filter only after the line "<nonce> filter"
#   Q                    quit
# The pump ends a forgotten probe: at the deadline, or when the connection is closed, its end of the pipe closes, the
# loop's read fails, and all processes of the exec are killed by their process group, which the exec has to itself. A
# sidecar's admin port can be read in any container of the pod.
SCRIPT = r"""
export LC_ALL=C
set -f
# A variable that the image exports would take the configuration into the environment of every process.
unset nonce deadline pid comm state parent group rest kind size wanted config
IFS=' ' read -r nonce deadline || exit 90
read -r pid comm state parent group rest < /proc/$$/stat || exit 91
[ "$group" = "$$" ] || exit 91
command -v head >/dev/null || exit 92
case $(type printf) in *builtin*) ;; *) exit 93 ;; esac
printf '%s hello %s\n' "$nonce" "$(curl -q --version 2>/dev/null | head -n 1)"
pump() {
  if timeout 1 true 2>/dev/null; then exec timeout "$deadline" cat; else exec cat; fi
}
run() {
  printf '%s' "$1" | curl -q -s --no-progress-meter -K -
}
filter() {
  if command -v awk >/dev/null; then
    awk 'BEGIN { all = ENVIRON["kind"] == "L"; start = ENVIRON["nonce"] " filter" }
      all || index($0, ENVIRON["wanted"]) || index($0, ENVIRON["nonce"]) { print }
      $0 == start { all = 0 }'
  else
    cat
  fi
}
export nonce
pump | {
  while IFS=' ' read -r kind size wanted; do
    wait
    [ "$kind" = Q ] && exit 0
    config=$(head -c "$size"; printf .)
    config=${config%.}
    export wanted kind
    case $kind in
      [HL]) { run "$config" | filter; printf '\n%s end %s\n' "$nonce" "$?"; } & ;;
      *) { run "$config"; printf '\n%s end %s\n' "$nonce" "$?"; } & ;;
    esac
  done
  kill -9 0
}
"""
SHELL_ERRORS = {
    "90": "its standard input was closed immediately",
    "91": "its processes have no process group of their own",
    "92": "the command head is missing",
    "93": "its shell has no builtin printf",
}
# Time for the reads before and after the requests, on top of the deadline for the whole run.
GRACE = 10
HOSTS = "hosts"
PAGE_TIMEOUT, PAGE_WORDS = 20, 5
# curl's exit codes if nothing listens, and if the time was up.
REFUSED, TOO_LATE = b"7", b"28"
NO_ENVOY = Unread("nothing listens on Envoy's admin port")
# A shell's statuses for a command that cannot be started, and, from 128 on, for one that a signal ended.
NOT_STARTED = 126


class PodSession:
    """The connection to the script in one client pod."""

    def __init__(self, configuration: Any, client: ClientPod, timeout: float) -> None:
        self.client = client
        # The exit status of the last command.
        self.status: int | None = None
        self.nonce = secrets.token_hex(16)
        self.exec = Exec(configuration, client.namespace, client.pod, client.container, ["sh", "-c", SCRIPT], time.monotonic() + timeout + GRACE)
        self.lines = self.exec.lines()
        self.curl_line = self._hello(timeout)

    def __enter__(self) -> PodSession:
        return self

    def __exit__(self, *details: Any) -> None:
        self.exec.__exit__(*details)

    def _hello(self, timeout: float) -> str:
        self.exec.send(f"{self.nonce} {int(timeout + GRACE) + 1}\n".encode())
        marker = f"{self.nonce} hello".encode()
        for line in self.lines:
            if line.startswith(marker):
                return line[len(marker) :].strip().decode("utf-8", "replace")
        raise self._no_shell()

    def _no_shell(self) -> CheckError:
        reason = exit_reason(self.exec.status)
        where = self.exec.where
        for code, why in SHELL_ERRORS.items():
            if f"exit code {code}" in reason:
                return CheckError("no_shell", f"The probe cannot run in {where}: {why}. Next: use a client pod with a common shell (curlimages/curl has one).")
        if "executable file not found" in reason or "no such file" in reason.lower():
            return CheckError("no_shell", f"There is no sh in {where}. Next: use a client pod whose image has sh and curl (curlimages/curl has both).")
        return CheckError("exec_refused", f"The probe did not start in {where}: {reason[:300]}. Next: try kubectl exec by hand.")

    def command(self, kind: str, body: bytes, wanted: str = "") -> Iterator[bytes]:
        """Run one command and return its lines. Raises `CheckError` with `exec_lost` if the end marker is missing."""
        header = f"{kind} {len(body)} {wanted}".rstrip()
        self.exec.send(header.encode() + b"\n" + body)
        marker = f"{self.nonce} end ".encode()
        for line in self.lines:
            if line.startswith(marker):
                self.status = int(line[len(marker) :]) if line[len(marker) :].isdigit() else None
                return
            yield line
        raise CheckError(
            "exec_lost",
            f"The probe in {self.exec.where} ended early ({exit_reason(self.exec.status)[:200]}). "
            "Next: check whether the pod or container was restarted (kubectl describe pod), then run the check again.",
        )

    def killed(self) -> list[int]:
        """The status of the last command if a signal ended it, or if it could not be started."""
        return [self.status] if self.status is not None and self.status >= NOT_STARTED else []

    def view(self, target: Target) -> tuple[ProxyView | Unread | None, Pages]:
        """The view and the pages that it is from; None if there is no Envoy."""
        pages = self.read(admin_pages(target), hosts_filter(target))
        view = view_or_unread(target, pages)
        other = led_to(target, view)
        if other != target:
            more = self.read(admin_pages(other), hosts_filter(other))
            pages = {**pages, **{name: more.get(name, Unread("no Envoy responded")) for name in ("clusters", HOSTS)}}
            view = view_or_unread(target, pages)
        return view, pages

    def read(self, urls: dict[str, str], wanted: str) -> Pages:
        """Admin pages by name, and as `hosts` the lines of the clusters page that contain a text (`hosts_filter` of a target).
        A page that was not read whole says why. Empty if no Envoy listens.

        One curl reads them all, because a process takes more time than a page. The last page is filtered in the pod too, as
        not every Envoy can.
        """
        names = [*urls, HOSTS]
        after = ["\\n"] * (len(urls) - 1) + [f"\\n{self.nonce} filter\\n", "\\n"]
        transfers = [
            f'url = "{_config_escaped(url)}"\nmax-time = {PAGE_TIMEOUT}\nnoproxy = "*"\n'
            f'write-out = "\\n{self.nonce} page {name} %{{http_code}} %{{exitcode}} %{{size_download}}{end}"\n'
            for name, url, end in zip(names, [*urls.values(), hosts_page(wanted)], after, strict=True)
        ]
        pages: dict[str, bytes | Unread] = dict.fromkeys(names, Unread("curl ended before it"))
        body: list[bytes] = []
        for line in self.command("L", "next\n".join(transfers).encode(), wanted):
            if not line.startswith(self.nonce.encode()):
                body.append(line)
                continue
            words = line.split()[1:]
            if len(words) == PAGE_WORDS and words[0] == b"page":
                pages[words[1].decode("utf-8", "replace")] = _page(words, body, wanted.encode())
            body = []
        return {} if pages["info"] == NO_ENVOY else pages

    def hosts(self, wanted: str) -> bytes:
        """The lines of the clusters page that contain a text."""
        url = f'url = "{hosts_page(wanted)}"\nmax-time = {PAGE_TIMEOUT}\nnoproxy = "*"\n'
        return b"\n".join(line for line in self.command("H", url.encode(), wanted) if wanted.encode() in line)

    def end(self) -> None:
        self.exec.send(b"Q\n")


def _page(words: list[bytes], body: list[bytes], wanted: bytes) -> bytes | Unread:
    """A page's text, by the line after it: `page`, name, status, curl's exit code and size. The hosts were filtered before
    they could be counted, so only curl can tell whether they are whole."""
    _page_word, name, status, code, size = words
    if code == REFUSED:
        return NO_ENVOY
    if code != b"0":
        why = f"curl ended with exit code {code.decode('utf-8', 'replace')}"
        return Unread(f"{why}, the time limit of {PAGE_TIMEOUT} s" if code == TOO_LATE else why)
    if status != b"200":
        return Unread(f"Envoy responded with {status.decode('utf-8', 'replace')}")
    if name == HOSTS.encode():
        return b"\n".join(entry for entry in body if wanted in entry)
    text = b"\n".join(body)
    return text if size == str(len(text)).encode() else Unread(f"{len(text)} of {size.decode('utf-8', 'replace')} bytes arrived")


def _config_escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
