#!/bin/sh
# Lists the software in an environment, for audits (CycloneDX, JSON).
#
# write-sbom.sh ENVIRONMENT TOOLS PYPROJECT OUT
set -eu
environment=$1 tools=$2 pyproject=$3 out=$4

"$tools/bin/python" -m cyclonedx_py environment --pyproject "$pyproject" --output-reproducible \
    --output-format JSON --output-file "$out" "$environment/bin/python"
