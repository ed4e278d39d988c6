"""The small pieces of HTML that the page shows: where a run is, what went wrong, what came out."""

from __future__ import annotations

from html import escape

from synchuman.events import Done, Progress
from synchuman.serving.runner import Waiting

# Name in events, name for people, how long it takes beside the others.
STAGES = (
    ("cut-out", "Cut-out", 6),
    ("stage 1", "Views and structure", 50),
    ("preview", "First look", 12),
    ("stage 2", "Fine surface", 40),
    ("surface", "Surface", 8),
    ("atlas", "Unwrapping", 6),
    ("texture", "Texture", 16),
)
NAMES = {name: title for name, title, _ in STAGES}

HEADER = """
<header class="top">
  <svg viewBox="0 0 40 40" aria-hidden="true"><circle cx="20" cy="9" r="5"/>
  <path d="M20 16c-6 0-9 3-9 8v3h4v9h10v-9h4v-3c0-5-3-8-9-8z"/>
  <ellipse cx="20" cy="36" rx="17" ry="3" class="ring"/></svg>
  <div><h1>SyncHuman Studio</h1><p>One photo of a person in, a textured 3D human out.</p></div>
</header>
"""
FOOTER = """
<p class="fine">Use photos of people who agreed to it, and say that the model was made by AI: what the photo
does not show is invented. Photos and results stay on this machine and are deleted after a while.</p>
"""
EMPTY_CUTOUT = (
    '<p class="hint">The person, cut out of the background, appears here right after you choose a photo.</p>'
)
EMPTY_RESULT = """
<div class="empty"><svg viewBox="0 0 120 150" aria-hidden="true"><circle cx="60" cy="28" r="15"/>
<path d="M60 48c-20 0-28 9-28 26v22h11v34h34V96h11V74c0-17-8-26-28-26z"/>
<ellipse cx="60" cy="132" rx="46" ry="9"/>
</svg><p>Your 3D person stands here when it is ready.<br>Turn it with the mouse or a finger.</p></div>
"""


def heading(number: int, title: str, text: str) -> str:
    """Return the heading of one of the page's three steps."""
    return f'<div class="step"><b>{number}</b><div><h2>{escape(title)}</h2><p>{escape(text)}</p></div></div>'


def progress(event: Progress) -> str:
    """Return the card of a run that goes on."""
    stages = [stage for stage in STAGES if stage[0] in (event.stages or NAMES)]
    at = [name for name, _, _ in stages].index(event.stage)
    share = event.step / max(event.total, 1)
    weights = [weight for _, _, weight in stages]
    percent = 100 * (sum(weights[:at]) + weights[at] * share) / sum(weights)
    marks = "".join(
        f'<li class="{"done" if i < at else "now" if i == at else "next"}">{escape(title)}</li>'
        for i, (_, title, _) in enumerate(stages)
    )
    step = f"step {event.step} of {event.total}" if event.total > 1 else "working"
    left = "" if event.eta is None else f"<span>{_duration(event.eta)} left</span>"
    return (
        f'<div class="status running" role="status"><ol>{marks}</ol>'
        f'<div class="bar" role="progressbar" aria-valuenow="{percent:.0f}">'
        f'<i style="width:{percent:.1f}%"></i></div>'
        f"<p><b>{escape(NAMES[event.stage])}</b> · {step}{left}</p></div>"
    )


def waiting(event: Waiting) -> str:
    """Return the card of a run that has not started."""
    if event.ahead:
        who = "1 run is" if event.ahead == 1 else f"{event.ahead} runs are"
        return note(f"{who} before yours; it starts by itself.", "running")
    return note("Reading the weights; your run starts by itself.", "running")


def note(text: str, kind: str) -> str:
    """Return a card with one sentence; `kind` is its look: running, stopped, error or good."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="status {kind}" role="{role}"><p>{escape(text)}</p></div>'


def warnings(sentences: tuple[str, ...]) -> str:
    """Return the photo's warnings, or nothing."""
    return "".join(f'<p class="warning">{escape(sentence)}</p>' for sentence in sentences)


def finished(event: Done) -> str:
    """Return the card of a finished run."""
    total = _duration(sum(event.seconds.values())).removeprefix("about ")
    return note(f"Done in {total}.", "good") + warnings(event.warnings)


def statistics(event: Done, seed: int) -> str:
    """Return what came out, as a list of names and numbers."""
    rows = [
        ("Triangles", f"{event.faces:,}"),
        ("File", f"{event.glb.stat().st_size / 1e6:.1f} MB"),
        ("Seed", str(seed)),
        ("Peak memory", f"{event.peak_memory / 2**30:.1f} GiB"),
        *((NAMES.get(stage, stage), f"{seconds:.1f} s") for stage, seconds in event.seconds.items()),
    ]
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<dl class="numbers">{cells}</dl>'


def _duration(seconds: float) -> str:
    if seconds < 1.5:
        return "about a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min"
