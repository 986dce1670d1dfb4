#!/usr/bin/env bash
# Writes the tested set of packages: configs/constraints.txt, with hashes, and configs/sbom.cdx.json, a CycloneDX SBOM.
# Versions are those of .venv, in which the tests run; torch's hashes are those of its wheels on PyPI.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
help_if_asked "$@" <<'HELP'
Usage: bash launch/lock.sh
Writes the tested set of packages: configs/constraints.txt, with hashes, and configs/sbom.cdx.json, an SBOM. Makes .venv/
with the extra "test", if it is not there, and asks PyPI for the hashes.
HELP
use_venv test

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$PYTHON" -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  'uv>=0.13,<0.14' 'cyclonedx-python-lib[json-validation]>=11,<12'

"$PYTHON" - >"$tools/tested.txt" <<'PYTHON'
from importlib.metadata import distributions

for found in distributions():
    if found.name != "ds2f":
        print(f"{found.name}=={found.version.partition('+')[0]}")  # torch's CPU build is 2.13.0+cpu
PYTHON

{
  echo "# The tested set of packages, for all platforms and Pythons. Written by: bash launch/lock.sh"
  SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-}} "$tools/venv/bin/uv" pip compile --quiet --universal --generate-hashes \
    --python-version 3.11 --extra test --extra buckets --extra wandb --extra mlflow --constraint "$tools/tested.txt" \
    --no-header --no-annotate --no-cache setup.py
} >"$tools/constraints.txt"

"$tools/venv/bin/python" - "$tools/constraints.txt" "$tools/sbom.json" <<'PYTHON'
import json
import re
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

lock, path = map(Path, sys.argv[1:])
pins = re.findall(r"^([\w.-]+)==([\w.!-]+)", lock.read_text(), re.MULTILINE)
purls = {name: f"pkg:pypi/{name}@{version}" for name, version in pins}
sbom = {
    "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {"component": {"type": "application", "bom-ref": "ds2f", "name": "ds2f"}},
    "components": [
        {"type": "library", "bom-ref": purls[name], "name": name, "version": version, "purl": purls[name]}
        for name, version in pins
    ],
    "dependencies": [{"ref": "ds2f", "dependsOn": sorted(purls.values())}],
}
path.write_text(json.dumps(sbom, indent=1) + "\n")
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text()) and "the SBOM is not valid CycloneDX")
PYTHON

mv "$tools/constraints.txt" configs/constraints.txt
mv "$tools/sbom.json" configs/sbom.cdx.json
echo "wrote configs/constraints.txt and configs/sbom.cdx.json"
