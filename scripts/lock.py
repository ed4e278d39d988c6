"""Writes the locked versions with hashes that the container installs: `python scripts/lock.py` (needs uv).

`requirements.lock` holds everything but torch; `requirements-torch.lock` holds torch as PyPI has it (CUDA 13)
with the libraries that only it brings. Other builds of torch come from PyTorch's own index and replace the
second file. Both are for Linux, x86-64 and ARM, and for every Python that the project supports.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, TORCH_LOCK = "requirements.lock", "requirements-torch.lock"
OLDEST_PYTHON = "3.10"
# What comes with torch alone, and differs between its builds.
TORCH_FAMILY = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
HEADER = "# Written by scripts/lock.py from requirements.txt; run it again after a change there.\n"


def main() -> int:
    """Write both files, or with --check say whether they still fit requirements.txt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the files are stale")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    options = parser.parse_args()
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        parser.error("uv is missing: pip install uv")
    before = "" if options.upgrade else "".join(_read(ROOT / name) for name in (LOCK, TORCH_LOCK))
    blocks = split(resolve(uv, before))
    family = {name for name in blocks if TORCH_FAMILY.match(name.split("==")[0])}
    written = {
        LOCK: HEADER + "".join(text for name, text in blocks.items() if name not in family),
        TORCH_LOCK: HEADER + "".join(text for name, text in blocks.items() if name in family),
    }
    stale = [name for name, text in written.items() if _read(ROOT / name) != text]
    if options.check:
        for name in stale:
            sys.stderr.write(f"{name} does not fit requirements.txt any more: python scripts/lock.py\n")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(written[name])
        sys.stdout.write(f"{name}\n")
    return 0


def resolve(uv: str, before: str) -> str:
    """Return what uv makes of requirements.txt; versions that were locked before stay where they can."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "all.lock"
        if before:
            output.write_text(before)
        command = [uv, "pip", "compile", str(ROOT / "requirements.txt"), "-o", str(output), "--quiet"]
        command += ["--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-config", "--index-strategy", "first-index"]
        subprocess.run(command, check=True, cwd=folder)
        return output.read_text()


def split(compiled: str) -> dict[str, str]:
    """Return the block of each requirement with its hashes, by its first line, Linux only."""
    blocks: dict[str, str] = {}
    name = ""
    for line in compiled.splitlines(keepends=True):
        if line[:1].isalnum():
            name = line.split(" \\")[0].strip()
            blocks[name] = ""
        if name:
            blocks[name] += line
    return {name: text for name, text in blocks.items() if "== 'win32'" not in name}


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
