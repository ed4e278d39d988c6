"""What the page says, in several languages: English sentences are the keys of `assets/languages/*.json`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from synchuman.serving.page.files import ASSETS

ENGLISH = "en"
FOLDER = ASSETS / "languages"
GAP = re.compile(r"\{(\w+)\}")


class Texts:
    """Speaks one language; what it does not know it says in English."""

    def __init__(self, language: str = ENGLISH) -> None:
        """Speak a language; see `languages` for those there are."""
        self.language = language if language in languages() else ENGLISH
        self._words = {} if self.language == ENGLISH else _catalogue(self.language)

    def __call__(self, english: str, **values: Any) -> str:
        """Return a text of the page, with values in its gaps."""
        text = self._words.get(english, english)
        return text.format(**values) if values else text

    def sentence(self, english: str) -> str:
        """Return a finished sentence from a lower room, whose gaps are filled already."""
        if self.language == ENGLISH or english in self._words:
            return self(english)
        for pattern, translated in _patterns(self.language):
            match = pattern.fullmatch(english)
            if match:
                return translated.format(**match.groupdict())
        return english


class Labels:
    """The texts that never change: the browser translates them, through Gradio's i18n."""

    def __init__(self) -> None:
        """Start with none."""
        self._mark = gr.I18n()
        self._made: dict[str, Callable[[Texts], str]] = {}

    def text(self, english: str) -> Any:
        """Return a label, a placeholder, the text of a button (an `I18nData`; not all of Gradio says so)."""
        return self.html(lambda say: say(english))

    def html(self, make: Callable[[Texts], str]) -> Any:
        """Return a piece of HTML that is made once for each language."""
        key = f"synchuman-{len(self._made)}"
        self._made[key] = make
        return self._mark(key)

    def translations(self) -> gr.I18n:
        """Return all of them in all languages, for Gradio."""
        made = {
            language: {key: make(Texts(language)) for key, make in self._made.items()}
            for language in languages()
        }
        # Browsers call Chinese by several names.
        return gr.I18n(**made, **({"zh": made["zh-CN"]} if "zh-CN" in made else {}))


@functools.cache
def languages() -> tuple[str, ...]:
    """Return the languages there are."""
    return (ENGLISH, *sorted(path.stem for path in FOLDER.glob("*.json")))


def of_request(request: gr.Request | None) -> Texts:
    """Return the texts in the language that a browser asks for."""
    header = "" if request is None or request.headers is None else request.headers.get("accept-language", "")
    return Texts(choose(header or ""))


def choose(header: str) -> str:
    """Return the language of ours that an Accept-Language header likes best."""
    wanted: list[tuple[float, str]] = []
    for part in header.split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((float(weight or 1), name.lower()))
        except ValueError:
            continue
    for _, name in sorted(wanted, key=lambda item: -item[0]):
        for language in languages():
            if name.split("-")[0] == language.lower().split("-")[0]:
                return language
    return ENGLISH


@functools.cache
def _catalogue(language: str) -> dict[str, str]:
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


@functools.cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    found = []
    for english, translated in _catalogue(language).items():
        parts = GAP.split(english)
        if len(parts) > 1:
            pattern = "".join(
                f"(?P<{part}>.+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
            )
            found.append((re.compile(pattern), translated))
    return found
