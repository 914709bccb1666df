#!/bin/sh
# Makes a virtual environment of what builds the image and is not part of it.
#
# install-tools.sh TOOLS CONSTRAINTS PACKAGE_INDEX
set -eu
tools=$1 constraints=$2 package_index=$3

test -d "$tools" || python3 -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --constraint "$constraints" \
    --index-url "$package_index" cyclonedx-bom setuptools
