"""Serves SyncHuman over HTTP: `python api_server.py [--host --port --keys …]`; see docs/api.md."""

import sys

from synchuman.serving.server import main

if __name__ == "__main__":
    sys.exit(main())
