#!/bin/sh
# Starts the service in the container; arguments are those of api_server.py (docs/api.md).
set -eu
cd "$(dirname "$0")/.."

# The volume may be new, or somebody's empty folder.
mkdir -p "$HF_HOME" "$XDG_CACHE_HOME" "$TMPDIR"

# Weights that were baked into the image are read from there, and nothing is fetched.
if [ -d /opt/weights/huggingface ]; then
  export HF_HOME=/opt/weights/huggingface SYNCHUMAN_HOME=/opt/weights/synchuman HF_HUB_OFFLINE=1
elif [ "$SYNCHUMAN_VARIANT" = official ]; then
  python3 -m synchuman weights pull
fi

# A container is reached through a published port, which Docker binds to all addresses unless told otherwise.
if [ -z "${SYNCHUMAN_API_KEYS:-}${SYNCHUMAN_AUTH:-}" ]; then
  echo "No SYNCHUMAN_API_KEYS and no SYNCHUMAN_AUTH: whoever reaches the port may use the service." >&2
  set -- --allow-public "$@"
fi

exec python3 api_server.py --host 0.0.0.0 --port "${PORT:-8000}" --page --data /data/service \
  --variant "$SYNCHUMAN_VARIANT" "$@"
