"""The audit of dependencies: the real one where osv.dev can be reached, and that it tells all three ends apart."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from service_server import ROOT

pytest.importorskip("pip_audit")

CLEAN, FOUND, UNKNOWN = 0, 1, 2
LOCKS = ("requirements.lock", "requirements-torch.lock")
TORCH = {"name": "torch", "ecosystem": "PyPI"}
NOWHERE = "http://127.0.0.1:9/v1/query"
# As OSV describes an advisory: https://ossf.github.io/osv-schema/
ADVISORY = {
    "id": "PYSEC-0000-1", "summary": "x", "details": "x", "published": "2026-01-01T00:00:00Z",
    "modified": "2026-01-01T00:00:00Z", "aliases": [],
    "affected": [{
        "package": {"name": "pytest", "ecosystem": "PyPI"}, "versions": [],
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}],
    }],
}  # fmt: skip


def audit(*locks: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, "NO_PROXY": "127.0.0.1", **environment}
    command = ["bash", str(ROOT / "scripts" / "audit.sh"), *locks]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


@pytest.fixture
def database() -> Iterator[tuple[str, dict[str, dict]]]:
    """A stand-in for osv.dev on loopback: its address, and its advisories by the package's name."""
    known: dict[str, dict] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
            body = json.dumps({"vulns": [known[asked]]} if asked in known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query", known
    server.shutdown()


def test_an_advisory_is_an_error_that_names_the_cure(database: tuple[str, dict[str, dict]]) -> None:
    url, known = database
    known["pytest"] = ADVISORY
    found = audit(OSV_URL=url)
    assert found.returncode == FOUND and "packages audited" in found.stdout, found.stderr
    # The one package, and none of the others.
    assert "PYSEC-0000-1, fixed in 999" in found.stdout and found.stdout.count("PYSEC") == 1


def test_what_the_container_installs_is_looked_up(database: tuple[str, dict[str, dict]]) -> None:
    url, known = database
    locked = [
        re.match(r"([\w.-]+)==", line) for lock in LOCKS for line in (ROOT / lock).read_text().splitlines()
    ]
    names = {found[1].lower() for found in locked if found}
    clean = audit(*LOCKS, OSV_URL=url)
    assert clean.returncode == CLEAN, clean.stderr
    number = int(clean.stdout.split()[0])
    assert len(names) * 0.8 < number <= len(names)  # some are for other systems
    known["torch"] = {**ADVISORY, "affected": [{**ADVISORY["affected"][0], "package": TORCH}]}
    found = audit(*LOCKS, OSV_URL=url)
    assert found.returncode == FOUND and "torch 2" in found.stdout, found.stdout + found.stderr


def test_no_database_is_no_pass() -> None:
    unknown = audit(OSV_URL=NOWHERE)
    assert unknown.returncode == UNKNOWN and "NOT audited" in unknown.stderr


def test_ci_takes_no_unknown_for_a_pass() -> None:
    import yaml

    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    [suite] = [step for step in steps if "tests/run.sh" in step.get("run", "")]
    assert suite["env"]["AUDIT"] == "strict"
    [locks] = [step["run"] for step in steps if "scripts/audit.sh" in step.get("run", "")]
    assert all(lock in locks for lock in LOCKS) and "||" not in locks


def test_no_installed_package_has_an_advisory() -> None:
    """Skipped, with the reason in the summary of the tests, where nothing can be looked up; AUDIT=strict fails."""
    told = audit()
    if told.returncode == UNKNOWN and os.environ.get("AUDIT") != "strict":
        pytest.skip(told.stderr.strip())
    assert told.returncode == CLEAN, told.stdout + told.stderr
