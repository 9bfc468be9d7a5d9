#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes a Debian root file system of the given packages in root/.
# In: DEBIAN_SUITE, DEBIAN_MIRROR, DEBIAN_PACKAGES (a blank between two).
set -eu

export DEBIAN_FRONTEND=noninteractive
if ! command -v debootstrap >/dev/null; then
  apt-get update
  apt-get install --yes --no-install-recommends debootstrap
fi
debootstrap --variant=minbase --include="$(echo "$DEBIAN_PACKAGES" | tr ' ' ',')" "$DEBIAN_SUITE" root "$DEBIAN_MIRROR"

# Nothing is installed into it later, and it is copied often.
rm -rf root/var/cache/apt/* root/var/lib/apt/lists/* root/usr/share/doc/* root/usr/share/man/* root/usr/share/locale/* root/var/log/*
# The mirror is this machine's own business.
rm -rf root/etc/apt/sources.list root/etc/apt/sources.list.d
: >root/etc/machine-id
