"""The little that the page does in the browser itself."""

from __future__ import annotations

import json

from synchuman.serving.page.texts import Texts, languages

FOLD = """() => {
  const panel = document.getElementById('settings');
  document.getElementById('settings-button').setAttribute('aria-expanded', panel.classList.toggle('open'));
}"""

# The address names the run: loaded anew, kept or sent on, it shows it again.
ADDRESS = """(run) => {
  const here = new URL(location.href);
  if (run) here.searchParams.set('run', run); else here.searchParams.delete('run');
  history.replaceState(history.state, '', here);
  return run;
}"""

# Gradio counts time in every part that waits, and the viewer draws a model that nobody turns, at every frame.
# Without a graphics card that takes half a core from the run: while nobody touches the page, four frames a
# second are enough.
_FRAMES = """const frame = window.requestAnimationFrame.bind(window);
  const drop = window.cancelAnimationFrame.bind(window);
  const asked = new Map();
  let last = 0, touched = performance.now();
  for (const kind of ['pointermove', 'pointerdown', 'wheel', 'keydown', 'touchmove', 'resize'])
    addEventListener(kind, () => { touched = performance.now(); }, { capture: true, passive: true });
  window.requestAnimationFrame = (draw) => {
    const id = ++last, now = performance.now(), soon = now - touched < 2000;
    const next = () => asked.set(id, { frame: frame((time) => { asked.delete(id); draw(time); }) });
    // All who wait share a frame: a dozen parts count time, and each frame costs.
    if (soon) next(); else asked.set(id, { timer: setTimeout(next, 250 - now % 250) });
    return id;
  };
  window.cancelAnimationFrame = (id) => {
    const it = asked.get(id);
    if (!it) return;
    asked.delete(id);
    if (it.timer) clearTimeout(it.timer); else drop(it.frame);
  };"""

# Names for those who do not see the page, a key for those who type, and the result in sight on phones.
_OPEN = """() => {
  FRAMES
  const fold = document.getElementById('settings-button');
  fold.setAttribute('aria-expanded', 'false');
  fold.setAttribute('aria-controls', 'settings');
  document.querySelectorAll('#examples button.gallery-item').forEach((button, i) => {
    button.setAttribute('aria-label', `${TEXT} ${i + 1}`);
  });
  // Pictures are buttons without a name; the label of their field is for those who do not see it.
  const nameless = '#cutout button:not([aria-label]), #people button:not([aria-label])';
  const name = (button) => button.closest('.block')?.querySelector('label')?.textContent.trim();
  new MutationObserver(() => document.querySelectorAll(nameless).forEach((button) => {
    button.setAttribute('aria-label', name(button) || TEXT);
  })).observe(document.body, { childList: true, subtree: true });
  // A photo that the browser cannot show leaves its place empty; the sentence beside it says why.
  const shown = (event) => {
    const picture = event.target.closest?.('#photo') ? event.target : null;
    if (picture) picture.style.visibility = event.type === 'error' ? 'hidden' : '';
  };
  document.addEventListener('error', shown, true);
  document.addEventListener('load', shown, true);
  document.addEventListener('keydown', (event) => {
    const go = event.key === 'Enter' && (event.ctrlKey || event.metaKey);
    if (go) document.getElementById('generate')?.click();
  });
  document.addEventListener('click', (event) => {
    const goes = event.target.closest('#generate, #examples button, #runs button, #again');
    if (!goes || innerWidth >= 800) return;
    const behavior = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
    setTimeout(() => document.getElementById('result').scrollIntoView({ behavior }), 150);
  });
}"""

_COPY = """() => {
  const button = document.getElementById('copy-link'), before = button.textContent;
  const done = () => {
    button.textContent = TEXT;
    setTimeout(() => { button.textContent = before; }, 2000);
  };
  if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(done);
  else prompt(before, location.href);
}"""

# Quick clicks may overtake each other on their way.
WHEN = "(ids, photo, asked) => [ids, photo, Date.now()]"
_CONFIRM = "(run, sure, kept) => [run, confirm(TEXT), kept]"

# Run when the turntable's component is mounted; it looks after whatever turntable is in it.
TURNTABLE = """
const show = (box, i) => {
  const columns = +box.dataset.columns, rows = Math.ceil(box.dataset.frames / columns);
  box.querySelector('.frame').style.backgroundPosition =
    `${(i % columns) / (columns - 1) * 100}% ${Math.floor(i / columns) / (rows - 1) * 100}%`;
  box.querySelector('input').value = i;
};
let playing = !matchMedia('(prefers-reduced-motion: reduce)').matches;
element.addEventListener('input', (event) => {
  if (event.target.type !== 'range') return;
  playing = false;
  show(event.target.closest('.turntable'), +event.target.value);
});
element.addEventListener('click', (event) => { if (event.target.closest('button')) playing = !playing; });
setInterval(() => {
  const box = element.querySelector('.turntable');
  if (!box || !box.offsetParent) return;
  box.querySelector('button').setAttribute('aria-pressed', playing);
  if (!playing) return;
  show(box, (+box.querySelector('input').value + 1) % +box.dataset.frames);
}, 110);
"""


def on_open() -> str:
    """Return what is done once when the page is opened: names, keys, and frames as they are needed."""
    return _OPEN.replace("FRAMES", _FRAMES).replace("TEXT", _in_all("Example"))


def copy_link() -> str:
    """Return what copies the page's address and says so."""
    return _COPY.replace("TEXT", _in_all("Copied"))


def confirm_deletion() -> str:
    """Return what asks before a run is deleted."""
    return _CONFIRM.replace("TEXT", _in_all("Delete this run with all its files?"))


def _in_all(english: str) -> str:
    """Return an expression for a text in the browser's language."""
    texts = json.dumps({language: Texts(language)(english) for language in languages()})
    return (
        f"((texts) => texts[navigator.language] || texts[Object.keys(texts).find("
        f"(name) => name.slice(0, 2) === navigator.language.slice(0, 2))] || texts.en)({texts})"
    )
