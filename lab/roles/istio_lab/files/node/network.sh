#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Third step: the node's own network, then its services. No interface leads out of the machine.
set -eu

ip link set lo up
sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
sysctl -q -w net.bridge.bridge-nf-call-iptables=1

if [ "$INDEX" = 1 ]; then
  # The wire between the nodes; its other end is held by a veth pair, as a bridge without a port has no carrier.
  wire=lab0
  ip link add $wire type bridge
  ip link add carrier0 type veth peer name carrier1
  ip link set carrier1 master $wire
  ip link set carrier0 up
  ip link set carrier1 up
else
  # The first node's namespace is where this end of the wire comes from; whoever starts the node moves it here.
  wire=eth0
  tries=300
  until ip link show $wire >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ]
    sleep 0.1
  done
fi
ip addr add "10.89.0.$((10 + INDEX))/24" dev $wire
ip link set $wire up
for other in 1 2; do
  [ $other = "$INDEX" ] || ip route add "10.244.$other.0/24" via "10.89.0.$((10 + other))"
done
# kubeadm and kube-proxy look for a default route. Nobody answers there.
ip route add default via 10.89.0.254

exec supervisord --nodaemon --configuration /istio-lab/supervisord.conf
