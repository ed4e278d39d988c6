"""Writes the files of a Hugging Face Space: `python scripts/make_space.py cpu|gpu|zerogpu|docker FOLDER`.

A Space reads its settings from the front matter of its README; ours stays free of it, for those who read it
elsewhere. Upload the folder with `hf upload NAME/SPACE FOLDER . --repo-type space`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "app.py",
    "api_server.py",
    "run_pipeline.py",
    "pyproject.toml",
    "LICENSE",
    "NOTICE",
    "requirements.txt",
)
FOLDERS = ("assets", "synchuman", "docs")
CONTAINER = ("Dockerfile", ".dockerignore", "requirements.lock", "requirements-torch.lock")
COMMON = {
    "title": "SyncHuman Studio",
    "emoji": "🧍",
    "colorFrom": "indigo",
    "colorTo": "gray",
    "license": "mit",
    "short_description": "One photo of a person in, a textured 3D human out",
    "startup_duration_timeout": "1h",
}
GRADIO = {"sdk": "gradio", "python_version": "3.12", "app_file": "app.py"}
KINDS: dict[str, dict[str, str]] = {
    "cpu": {**GRADIO, "suggested_hardware": "cpu-basic"},
    "gpu": {**GRADIO, "suggested_hardware": "l40sx1"},
    "zerogpu": {**GRADIO, "suggested_hardware": "zero-a10g"},
    "docker": {"sdk": "docker", "app_port": "8000"},
}
# ZeroGPU runs the versions of torch that it names; a CPU needs no libraries of CUDA.
TORCH = {
    "zerogpu": "torch==2.11.0",
    "cpu": "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch>=2.8,<2.14",
}


def main() -> int:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty")
    write(options.kind, options.folder)
    return 0


def write(kind: str, folder: Path) -> None:
    """Write a Space of a kind into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "requirements.txt", *(CONTAINER if kind == "docker" else ())):
        shutil.copy(ROOT / name, folder / name)
    for name in (*FOLDERS, *(("docker",) if kind == "docker" else ())):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "README.md").write_text(front_matter(kind) + (ROOT / "README.md").read_text())
    if kind in TORCH:
        lines = (ROOT / "requirements.txt").read_text().splitlines(keepends=True)
        changed = [f"{TORCH[kind]}\n" if line.startswith("torch") else line for line in lines]
        (folder / "requirements.txt").write_text("".join(changed))


def front_matter(kind: str) -> str:
    """Return what a Space's README begins with."""
    settings = {**COMMON, **KINDS[kind]}
    if settings["sdk"] == "gradio":
        settings["sdk_version"] = version("gradio")
    lines = [f"{name}: {_quoted(name, value)}" for name, value in settings.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _quoted(name: str, value: str) -> str:
    # YAML takes 3.12 for a number, and 6.31.0 for a text.
    return f'"{value}"' if name in ("python_version", "sdk_version", "short_description") else value


if __name__ == "__main__":
    sys.exit(main())
