#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# machine.sh <folder>: becomes the first process of a machine of its own, run by systemd, that has this machine's files and none of its changes reach them.
# To be called by machine_support.py, in new mount, process, UTS, IPC and cgroup namespaces. Its network is this machine's, so that it reaches the lab.
set -eu

mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mkdir -p .old
pivot_root . .old
umount -l /.old

# Of all that this machine may have enabled, nothing is started there but the journal, and no setting of the kernel is touched.
find /etc/systemd/system /lib/systemd/system -name '*.wants' -exec rm -rf {} +
rm -f /etc/machine-id
: >/etc/machine-id
cat >/etc/systemd/system/machine.target <<'END'
[Unit]
Wants=systemd-journald.service timers.target
AllowIsolate=yes
END
ln -sf /etc/systemd/system/machine.target /etc/systemd/system/default.target
export container=machine
exec /lib/systemd/systemd --system --show-status=no --log-target=null
