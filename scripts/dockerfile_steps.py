"""Reads a Dockerfile and a .dockerignore: what they say as data, for those who execute it without Docker."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTIONS = "FROM ARG ENV RUN COPY WORKDIR USER VOLUME EXPOSE HEALTHCHECK ENTRYPOINT CMD"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Step:
    """One instruction: its word, its flags (`--from=x`), the rest of its text, its line in the file."""

    word: str
    flags: dict[str, str]
    text: str
    line: int

    def words(self) -> list[str]:
        """The rest as a list: its JSON form, or split as a shell would."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """A stage of the build: what it starts from, and its steps."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)


@dataclass
class State:
    """What instructions before have set; `expand` puts variables into a text."""

    env: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"

    def expand(self, text: str) -> str:
        """Replace $NAME and ${NAME}; what nobody has set is empty."""
        known = {**self.arguments, **self.env}
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: known.get(m[1] or m[2], ""), text)

    def assign(self, text: str) -> None:
        """Take over an ENV instruction."""
        for pair in shlex.split(self.expand(text)):
            name, _, value = pair.partition("=")
            self.env[name] = value


def read_stages(path: Path, given: dict[str, str]) -> list[Stage]:
    """Return the stages of a Dockerfile, their bases expanded.

    Args:
        path: The Dockerfile.
        given: Build arguments.

    Raises:
        ValueError: It has an instruction that is not understood here.
    """
    outside = State()
    stages: list[Stage] = []
    for step in _steps(path.read_text()):
        if step.word == "FROM":
            base, _, name = step.text.partition(" AS ")
            stages.append(Stage(outside.expand(base.strip()), name.strip()))
        elif stages:
            stages[-1].steps.append(step)
        elif step.word == "ARG":
            take_argument(outside, step.text, given)
        else:
            raise ValueError(f"line {step.line}: {step.word} before FROM")
    return stages


def take_argument(state: State, text: str, given: dict[str, str]) -> None:
    """Take over an ARG instruction."""
    name, _, default = text.partition("=")
    state.arguments[name] = given.get(name, state.expand(default))


def ignored(patterns: list[str], path: str) -> bool:
    """Tell whether a .dockerignore leaves a path of the context out; the last pattern that fits decides."""
    out = False
    parents = [path, *(parent.as_posix() for parent in Path(path).parents if parent != Path("."))]
    for pattern in patterns:
        wanted = pattern.startswith("!")
        expression = _expression(pattern.removeprefix("!").strip("/"))
        if any(expression.fullmatch(part) for part in parents):
            out = not wanted
    return out


def ignore_patterns(path: Path) -> list[str]:
    """Read a .dockerignore."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    into = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(into.get(part) or re.escape(part) for part in parts))


def _steps(text: str) -> Iterator[Step]:
    for number, line in _logical_lines(text):
        word, _, rest = line.partition(" ")
        if word not in INSTRUCTIONS.split():
            raise ValueError(f"line {number}: {word} is not understood here")
        flags: dict[str, str] = {}
        rest = rest.strip()
        while match := re.match(r"--(\w[\w-]*)=(\S+)\s+", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        yield Step(word, flags, rest, number)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Join continued lines, without comments, as a Dockerfile has it."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not joined):
            continue
        first = first if joined else number
        if line.rstrip().endswith("\\"):
            joined += line.rstrip()[:-1] + " "
            continue
        yield first, (joined + line).strip()
        joined = ""
