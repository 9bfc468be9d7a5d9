#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Second step: in the node's own root, still in the host's network. What listens on the host's loopback starts here, as a child of
# the node's PID 1, so that it ends with the node.
set -eu

umount -l /.host
rmdir /.host
mount --make-rshared /

if [ "$INDEX" = 1 ]; then
  (while :; do
    socat "TCP-LISTEN:$API_PORT,bind=127.0.0.1,fork,reuseaddr,backlog=128" UNIX-CONNECT:/run/istio-lab/api.sock || sleep 1
  done) &
  (while :; do
    python3 -m http.server "$CHARTS_PORT" --bind 127.0.0.1 --directory /istio-lab/tools/charts >/dev/null 2>&1 || sleep 1
  done) &
fi

exec unshare --net /istio-lab/network.sh
