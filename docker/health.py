"""Says whether the service in this container answers: exit code 0 or 1."""

import os
import sys
from http.client import HTTPConnection, HTTPException


def main() -> int:
    """Ask for /health."""
    connection = HTTPConnection("127.0.0.1", int(os.environ.get("PORT", "8000")), timeout=4)
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1


if __name__ == "__main__":
    sys.exit(main())
