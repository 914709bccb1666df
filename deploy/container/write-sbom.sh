#!/bin/sh
# Lists the Python packages in an environment, for audits (CycloneDX, JSON).
#
# write-sbom.sh ENVIRONMENT TOOLS PYPROJECT OUT
set -eu
environment=$1 tools=$2 pyproject=$3 out=$4

trap 'rm -f "$out.part"' EXIT
"$tools/bin/python" -m cyclonedx_py environment --pyproject "$pyproject" --output-reproducible \
    --output-format JSON --output-file "$out.part" "$environment/bin/python"

# An environment that holds nothing, or that it cannot read in full, is no error for it.
"$environment/bin/python" -I - "$out.part" <<'PYTHON'
import json, re, sys
from importlib.metadata import distributions

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

with open(sys.argv[1], encoding="utf-8") as file:
    content = json.load(file)
described = [content["metadata"]["component"], *content.get("components", ())]
listed = {(plain(package["name"]), package["version"]) for package in described}
there = {(plain(package.name), package.version) for package in distributions()}
if "pairlens" not in dict(there) or there - listed:
    sys.exit(f"not listed: {sorted(there - listed) or 'pairlens, which is not in the environment'}")
PYTHON
mv "$out.part" "$out"
