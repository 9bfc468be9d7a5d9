# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages that explain why pods are not ready, and whether the sidecar injector will see them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Labels = Mapping[str, str]


def pods_not_ready(pods: Any) -> list[str]:
    """A line for each pod that is not scheduled, each container that is not ready, each Deployment whose pods are refused, and each Service without
    the load balancer that it asks for; empty if there is none."""
    return [line for item in dicts(pods, "pods_not_ready") for line in PROBLEMS.get(item.get("kind", "Pod"), problems_of)(item)]


def pods_injected(webhooks: Any, namespace_labels: Labels, pod_labels: Labels) -> bool:
    """Whether one of the MutatingWebhookConfigurations injects pods with these labels in a namespace with these labels."""
    return any(
        selects(hook.get("namespaceSelector") or {}, namespace_labels) and selects(hook.get("objectSelector") or {}, pod_labels)
        for configuration in dicts(webhooks, "pods_injected")
        for hook in configuration.get("webhooks") or []
    )


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"pods_injected": pods_injected, "pods_not_ready": pods_not_ready}


# -- problems --


def problems_of(pod: Mapping[str, Any]) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield f"{name}: not scheduled: {condition.get('message', '')}".rstrip(": ")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if not container["ready"]:
            yield f"{name}, container {container['name']}: {reason_of(container.get('state') or {})}"
    if any(container.get("image") == "auto" for container in (pod.get("spec") or {}).get("containers") or []):
        namespace = pod["metadata"].get("namespace", "")
        yield (
            f"{name}: image 'auto' was not replaced, because no injector acted on the pod. Next: check the labels of namespace {namespace} "
            "(istio-injection, istio.io/rev) and that istiod is ready, then delete the pod."
        )


def problems_of_deployment(deployment: Mapping[str, Any]) -> Iterator[str]:
    """The API server or an admission webhook refuses the pods: there are none to look at."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield f"{deployment['metadata']['name']}: no pods: {condition.get('message', '')}".rstrip(": ")


def problems_of_service(service: Mapping[str, Any]) -> Iterator[str]:
    addresses = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    if service["spec"].get("type") == "LoadBalancer" and not addresses:
        yield (
            f"Service {service['metadata']['name']}: has no load balancer yet. Next: if nothing in this cluster provides load balancers, "
            "set service.type to ClusterIP or NodePort in the values of the gateway."
        )


PROBLEMS: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "Deployment": problems_of_deployment,
    "Pod": problems_of,
    "Service": problems_of_service,
}


def reason_of(state: Mapping[str, Any]) -> str:
    """The kubelet's reason and message, such as `ImagePullBackOff Back-off pulling image …`."""
    stopped = state.get("waiting") or state.get("terminated") or {}
    return f"{stopped.get('reason') or 'not ready'} {stopped.get('message') or ''}".strip()


# -- selectors --


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Kubernetes' label selectors: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors."""
    exact = all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
    return exact and all(satisfies(expression, labels) for expression in selector.get("matchExpressions") or [])


def satisfies(expression: Mapping[str, Any], labels: Labels) -> bool:
    name, values = expression["key"], expression.get("values") or []
    return {
        "In": labels.get(name) in values,
        "NotIn": labels.get(name) not in values,
        "Exists": name in labels,
        "DoesNotExist": name not in labels,
    }[expression["operator"]]
