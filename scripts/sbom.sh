#!/usr/bin/env bash
# Writes a CycloneDX software bill of materials of what the container installs: scripts/sbom.sh [sbom.json]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cyclonedx-py >/dev/null || { echo "cyclonedx-py is missing: pip install cyclonedx-bom" >&2; exit 1; }
all=$(mktemp)
trap 'rm -f "$all"' EXIT
cat requirements-torch.lock requirements.lock >"$all"
cyclonedx-py requirements "$all" --pyproject pyproject.toml --output-reproducible --of JSON -o "${1:-sbom.json}"
