"""Dockerfile and shell scripts, read by the linters of their kind."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted({*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("docker/*.sh"), ROOT / ".ci/run",
                  ROOT / "tests/run.sh"})  # fmt: skip


def lint(tool: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(tool, path=sysconfig.get_path("scripts")) or shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} has no package for this machine")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)


def test_hadolint_is_content_with_the_dockerfile(tmp_path: Path) -> None:
    checked = lint("hadolint", ROOT / "Dockerfile")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp\n")
    assert lint("hadolint", bad).returncode == 1  # it does look


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_is_content_with(script: Path) -> None:
    checked = lint("shellcheck", script)
    assert checked.returncode == 0, checked.stdout + checked.stderr
