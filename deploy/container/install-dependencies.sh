#!/bin/sh
# Makes the virtual environment of the image, without pip, and installs what pairlens needs into it.
#
# install-dependencies.sh ENVIRONMENT TOOLS CONSTRAINTS PYPROJECT TORCH_INDEX PACKAGE_INDEX
set -eu
environment=$1 tools=$2 constraints=$3 pyproject=$4 torch_index=$5 package_index=$6

test -d "$environment" || python3 -m venv --without-pip "$environment"
install() {
    "$tools/bin/python" -m pip --python "$environment/bin/python" install --quiet \
        --constraint "$constraints" "$@"
}

# PyTorch's own index has its builds for each accelerator, but not all that they depend on.
install --no-deps --index-url "$torch_index" torch torchvision
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
"$tools/bin/python" "$(dirname "$0")/requirements.py" "$pyproject" server otel >"$requirements"
install --index-url "$package_index" --requirement "$requirements"
