#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the first node a cluster: kubeadm's phases one by one, as it expects systemd for the whole of them.
set -eu

phase() {
  echo "kubeadm init phase $*"
  kubeadm init phase "$@" --config /istio-lab/kubeadm-init.conf
}

phase certs all
phase kubeconfig all
phase etcd local
phase control-plane all
phase kubelet-start
echo "waiting for the API server"
tries=600
until kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz >/dev/null 2>&1; do
  tries=$((tries - 1))
  [ $tries -gt 0 ]
  sleep 0.2
done
# super-admin.conf is what may bind the group that admin.conf belongs to.
kubectl --kubeconfig /etc/kubernetes/super-admin.conf create clusterrolebinding kubeadm:cluster-admins --clusterrole=cluster-admin \
  --group=kubeadm:cluster-admins --dry-run=client --output=yaml | kubectl --kubeconfig /etc/kubernetes/super-admin.conf apply --filename -
phase upload-config all
phase mark-control-plane
phase bootstrap-token
phase kubelet-finalize all
phase addon all
# One replica is enough for two nodes, and half the work to start.
kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system scale deployment coredns --replicas=1
