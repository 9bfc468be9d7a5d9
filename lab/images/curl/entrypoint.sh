#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# A command is run as it is; anything else is taken for arguments of curl.
case ${1:-} in
  '' | -* | *://*) exec curl "$@" ;;
  *) exec "$@" ;;
esac
