# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job from an empty cluster, with the whole cluster killed in the middle of it: it ends whole, comes back, and the job is done."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from lab_support import LAB, PORTS, changes, init_process, lab, look, no_trace, ready_pods, wait_for_end

from harness import clean_environment

if TYPE_CHECKING:
    from integration.conftest import Ansible, Kubectl, Played

SITE, UNINSTALL, CHECK = "meshops.istio.site", "meshops.istio.uninstall", "meshops.istio.istio_affinity_check"
HELM_AT_WORK = ("get", "secrets", "--namespace=istio-system", "--selector=owner=helm,name=istiod,status=pending-install", "--output=name")


def _while_helm_installs_istiod(site: Future[Played]) -> bool:
    """Whether helm came to write down that it is at work before the run ended; asked straight, as the API server is not there all the time."""
    while not site.done():
        asked = subprocess.run(
            [LAB / "bin/kubectl", "--kubeconfig", LAB / "kubeconfig", *HELM_AT_WORK], env=clean_environment(), capture_output=True, check=False, text=True
        )
        if asked.stdout.strip():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.usefixtures("sample")
def test_site_from_an_empty_cluster_that_is_killed_in_the_middle(ansible: Ansible, kubectl: Kubectl):
    ansible(UNINSTALL, extra_vars={"istio_control_plane_delete_crds": True}).expect()
    left = kubectl("get", "customresourcedefinitions,clusterroles,mutatingwebhookconfigurations,validatingwebhookconfigurations", "--output=name").stdout
    assert "istio" not in left
    kubectl("get", "namespace", "istio-system", codes=(1,))
    kubectl("get", "namespace", "sample", codes=(1,))
    assert ansible(UNINSTALL).expect().changed == ()

    predicted = ansible(SITE, check=True).expect()
    assert predicted.of(CHECK).result["verdict"] is None
    assert "nothing to check yet" in predicted.of(CHECK).result["msg"]
    kubectl("get", "namespace", "istio-system", codes=(1,))

    # A pod with a sidecar becomes ready when istiod is back, which is after the second run of site.yml.
    up, pods = look(), {pod for pod in ready_pods() if pod.startswith("kube-system/")}
    assert "kube-system/kube-apiserver-node-1" in pods
    with ThreadPoolExecutor(1) as pool:
        site = pool.submit(ansible, SITE)
        seen = _while_helm_installs_istiod(site)
        os.kill(init_process(), signal.SIGKILL)
        dead = wait_for_end(up)
        stopped = site.result()
    assert seen, "the lab must die while helm installs istiod"
    no_trace(up, dead)
    stopped.expect(2)
    assert "Traceback" not in stopped.stdout

    assert changes(lab("present").expect()) > 0
    assert kubectl("get", "--raw=/readyz").stdout == "ok"
    assert pods <= ready_pods()
    back = look()
    assert back.lab_ports == PORTS
    assert {address for address, port in back.listeners - dead.listeners if port in PORTS} == {"0100007F"}, "on loopback only"
    assert ansible(SITE).expect().of(CHECK).result["verdict"] == "passed"
    # On the plain Python, as users have it.
    assert ansible(SITE, plain=True).expect().changed == ()
