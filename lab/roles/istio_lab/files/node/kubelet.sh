#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# The kubelet, as soon as kubeadm has written its configuration.
set -eu

until [ -s /var/lib/kubelet/config.yaml ] && [ -s /var/lib/kubelet/kubeadm-flags.env ]; do sleep 0.2; done
# shellcheck source=/dev/null
. /var/lib/kubelet/kubeadm-flags.env
# shellcheck disable=SC2086 # a list of flags
exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
  --config=/var/lib/kubelet/config.yaml --config-dir=/istio-lab/kubelet.conf.d $KUBELET_KUBEADM_ARGS
