#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes configure from configure.ac. Needs autoconf, automake, libtool and pkg-config (script/setup installs them).
set -e
cd "$(dirname "$0")"
mkdir -p build-aux m4
exec autoreconf --install --force "$@"
