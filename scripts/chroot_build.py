"""Executes the Dockerfile's own steps without Docker, in a root made by debootstrap, and tries the result.

    sudo python scripts/chroot_build.py /var/tmp/synchuman-root                     # as `docker build .`
    sudo python scripts/chroot_build.py /var/tmp/synchuman-root --build-arg TORCH=cpu

Needs root, debootstrap and some 12 GB. Every RUN, COPY and ENV is read from the Dockerfile, so the two cannot
drift. At the end the entry point runs as in `docker run --read-only -v …:/data`: as uid 1000, on a read-only
root, one writable folder. It has to answer /ready, the page and the health check, and to make a model from an
example photo. What this does not show: the engine's own layers and mounts, other CPU types, `--gpus`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from chroot_try import Image, try_out
from dockerfile_steps import State, Step, ignore_patterns, ignored, read_stages, take_argument

ROOT = Path(__file__).resolve().parents[1]
MIRROR = "http://deb.debian.org/debian"
IMAGES = {"debian:trixie-slim": "trixie", "debian:bookworm-slim": "bookworm"}


class Build:
    """The stages' roots in a folder, and what was said so far."""

    def __init__(
        self, folder: Path, given: dict[str, str], binds: dict[Path, str], passed: list[str]
    ) -> None:
        """Build in `folder`; binds are host files by their place inside, passed are environment variables."""
        self.folder = folder
        self.given = given
        self.binds = binds
        self.passed = {name: os.environ[name] for name in passed if name in os.environ}
        self.ignore = ignore_patterns(ROOT / ".dockerignore")

    def run(self) -> Image:
        """Execute all stages; return the last one."""
        image = None
        for stage in read_stages(ROOT / "Dockerfile", self.given):
            root = self.folder / stage.name
            self._base(stage.base, root)
            image = Image(root, State())
            for step in stage.steps:
                sys.stdout.write(f"[{stage.name}] line {step.line}: {step.word} {step.text[:100]}\n")
                sys.stdout.flush()
                self._step(step, image)
        assert image is not None, "a Dockerfile has a stage"
        return image

    def _base(self, name: str, root: Path) -> None:
        suite = IMAGES.get(name)
        if suite is None:
            raise SystemExit(f"{name} cannot be made with debootstrap; known are {', '.join(IMAGES)}.")
        base = self.folder / f"base-{suite}"
        if not base.exists():
            partial = base.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            call(["debootstrap", "--variant=minbase", suite, str(partial), MIRROR], stdout=subprocess.DEVNULL)
            partial.rename(base)
        shutil.rmtree(root, ignore_errors=True)
        call(["cp", "-a", "--reflink=auto", str(base), str(root)])

    def _step(self, step: Step, image: Image) -> None:
        state = image.state
        match step.word:
            case "ARG":
                take_argument(state, step.text, self.given)
            case "ENV":
                state.assign(step.text)
            case "WORKDIR":
                state.folder = state.expand(step.text)
                (image.root / state.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                state.user = state.expand(step.text)
            case "COPY":
                self._copy(step, image)
            case "RUN":
                self._run(step, image)
            case "ENTRYPOINT" | "CMD" | "HEALTHCHECK" | "VOLUME" | "EXPOSE":
                image.said[step.word] = step

    def _run(self, step: Step, image: Image) -> None:
        env = {**self.passed, **image.state.arguments, **image.state.env}
        mount = dict(part.partition("=")[::2] for part in step.flags.get("mount", "").split(","))
        if mount.get("type") == "secret" and mount["id"] in os.environ:
            env[mount["env"]] = os.environ[mount["id"]]
        image.enter(["/bin/sh", "-c", step.text], env, binds=self.binds)

    def _copy(self, step: Step, image: Image) -> None:
        *sources, target = step.words()
        place = Path(os.path.normpath(Path(image.state.folder) / target))
        into = image.root / place.relative_to("/")
        if "from" in step.flags:
            origin = self.folder / step.flags["from"]
            for source in sources:
                into.parent.mkdir(parents=True, exist_ok=True)
                call(["cp", "-a", "--reflink=auto", str(origin / source.lstrip("/")), str(into)])
            return
        for source in sources:
            self._copy_context(ROOT / source, into, many=target.endswith("/"))

    def _copy_context(self, source: Path, into: Path, many: bool) -> None:
        if source.is_file():
            self._copy_file(source, into / source.name if many else into)
            return
        for file in sorted(source.rglob("*")):
            if file.is_file():
                self._copy_file(file, into / file.relative_to(source), quiet=True)

    def _copy_file(self, source: Path, into: Path, quiet: bool = False) -> None:
        name = source.relative_to(ROOT).as_posix()
        if ignored(self.ignore, name):
            if quiet:
                return
            raise SystemExit(f"COPY {name}: .dockerignore leaves it out.")
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, into)
        os.chown(into, 0, 0)


def call(command: list[str], **options: object) -> None:
    """Run a command; end with its words when it fails."""
    if subprocess.run(command, **options).returncode:  # type: ignore[call-overload]
        raise SystemExit(f"failed: {' '.join(command)}")


def main() -> int:
    """Build, then try."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the roots go; kept, and used again for the base")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="FILE:PLACE", help="host file that RUN steps see"
    )
    parser.add_argument("--pass-env", action="append", default=[], help="host variable that RUN steps see")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        parser.error("needs root and debootstrap (apt-get install debootstrap)")
    given = dict(pair.split("=", 1) for pair in options.build_arg)
    options.folder.mkdir(parents=True, exist_ok=True)
    binds = {Path(file): place for file, place in (pair.split(":", 1) for pair in options.bind)}
    build = Build(options.folder.resolve(), given, binds, options.pass_env)
    return try_out(build.run(), build.folder / "data", ROOT / "assets/examples/person-1.jpg", options.port)


if __name__ == "__main__":
    sys.exit(main())
