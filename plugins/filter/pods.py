# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages that explain why pods are not ready. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts


def pods_not_ready(pods: Any) -> list[str]:
    """A line for each pod that is not scheduled and each container that is not ready; empty if all are ready."""
    return [line for pod in dicts(pods, "pods_not_ready") for line in problems_of(pod)]


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"pods_not_ready": pods_not_ready}


def problems_of(pod: Mapping[str, Any]) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield f"{name}: not scheduled: {condition.get('message', '')}".rstrip(": ")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if not container["ready"]:
            yield f"{name}, container {container['name']}: {reason_of(container.get('state') or {})}"


def reason_of(state: Mapping[str, Any]) -> str:
    """The kubelet's reason and message, such as `ImagePullBackOff Back-off pulling image …`."""
    stopped = state.get("waiting") or state.get("terminated") or {}
    return f"{stopped.get('reason') or 'not ready'} {stopped.get('message') or ''}".strip()
