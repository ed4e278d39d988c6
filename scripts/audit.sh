#!/usr/bin/env bash
# Looks the installed packages, or those of lock files, up in the OSV advisory database: 0 when none has an
# advisory, 1 when one has, 2 when that is not known, because the database cannot be reached.
#
#   bash scripts/audit.sh
#   bash scripts/audit.sh requirements.lock requirements-torch.lock      # what the container installs
#   OSV_URL=https://osv.example/v1/query bash scripts/audit.sh   # a mirror of osv.dev
#   PYTHON=/path/to/python bash scripts/audit.sh                 # the packages of another environment
set -uo pipefail
cd "$(dirname "$0")/.." || exit

packages=(--skip-editable)
if [ $# -gt 0 ]; then
  packages=(--no-deps --disable-pip)
  for lock in "$@"; do packages+=(--requirement "$lock"); done
fi
url=${OSV_URL:-https://api.osv.dev/v1/query}
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
if ! "$python" -m pip_audit --version >/dev/null 2>&1; then
  echo "pip-audit is not installed: pip install -e '.[test]'." >&2
  exit 2
fi

not_audited() {
  echo "Dependencies were NOT audited: $1" >&2
  exit 2
}

# Asked once before, because pip-audit asks for every package and waits long for each.
query='{"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "1.0"}'
curl -sf --max-time 10 -H 'Content-Type: application/json' -d "$query" "$url" >/dev/null 2>&1 ||
  not_audited "$url cannot be reached from here."

found=$(mktemp)
trap 'rm -f "$found"' EXIT
"$python" -m pip_audit --vulnerability-service osv --osv-url "$url" "${packages[@]}" --progress-spinner off \
  --format json --output "$found"
[ -s "$found" ] || not_audited "pip-audit ended without a report."
"$python" - "$found" <<'PYTHON'
import json
import sys

with open(sys.argv[1]) as report:
    packages = json.load(report)["dependencies"]
looked_up = [package for package in packages if "vulns" in package]
for package in looked_up:
    for advisory in package["vulns"]:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
print(f"{len(looked_up)} of {len(packages)} packages audited.")
if not looked_up:
    sys.exit(2)
sys.exit(any(package["vulns"] for package in looked_up))
PYTHON
