#!/usr/bin/env bash
# Sets up what the tests need and runs them: lint, types, then the real thing in a real browser.
# Extra arguments go to pytest:  bash tests/run.sh -m "not slow" -k surface
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v chromium >/dev/null && [ -z "${CHROMIUM:-}" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
  else
    echo "The page tests drive Chromium: install it (Debian, Ubuntu: apt-get install chromium) or set CHROMIUM." >&2
    exit 1
  fi
fi
if ! command -v npm >/dev/null; then
  echo "The Khronos glTF validator comes from npm: install Node.js with npm first." >&2
  exit 1
fi

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -q -e '.[test]'
npm ci --silent --no-fund --no-audit --prefix tests

.venv/bin/ruff check .
.venv/bin/ruff format --check .

if [ $# -gt 0 ]; then
  .venv/bin/mypy
  exec .venv/bin/python -m pytest "$@"
fi
# Types and the slow tests wait for nobody: they take what the others, which wait a lot, leave of the processor.
beside=$(mktemp)
{ nice -n 15 .venv/bin/mypy && OMP_NUM_THREADS=1 nice -n 15 .venv/bin/python -m pytest -m "slow and not huge"; } \
  >"$beside" 2>&1 &
code=0
.venv/bin/python -m pytest -m "not slow and not huge" || code=$?
wait $! || code=$?
cat "$beside"
rm "$beside"
exit "$code"
