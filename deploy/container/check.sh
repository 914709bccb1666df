#!/bin/sh
# Fails the build where what was installed does not even start.
#
# check.sh ENVIRONMENT
set -eu
environment=$1

"$environment/bin/pairlens" --version
"$environment/bin/pairlens-server" --print-config >/dev/null
