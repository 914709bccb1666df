#!/bin/sh
# Builds the wheel of pairlens and installs it beside its dependencies.
#
# install-pairlens.sh ENVIRONMENT TOOLS SOURCE
set -eu
environment=$1 tools=$2 source=$3

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$tools/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
    --wheel-dir "$wheels" "$source"
"$tools/bin/python" -m pip --python "$environment/bin/python" install --quiet --no-deps \
    --no-index "$wheels"/pairlens-*.whl
"$tools/bin/python" -m pip --python "$environment/bin/python" check

# Nothing can be compiled later on a read-only file system, and pip does not tell what it could not.
site=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$environment/bin/python" -m compileall -q -j 0 "$site/pairlens" "$site/pairlens_server"
