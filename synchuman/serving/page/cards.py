"""The small pieces of HTML that the page shows: headings, where a run is, what went wrong, what came out."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from synchuman.events import Done, Progress
from synchuman.exports import Offer
from synchuman.serving.jobs import Job
from synchuman.serving.page.capabilities import Capability
from synchuman.serving.page.runs import Waiting
from synchuman.serving.page.texts import Texts

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
NOW = 'class="now" aria-current="step"'

LOGO = """<svg viewBox="0 0 40 40" aria-hidden="true"><circle cx="20" cy="9" r="5"/>
<path d="M20 16c-6 0-9 3-9 8v3h4v9h10v-9h4v-3c0-5-3-8-9-8z"/>
<ellipse cx="20" cy="36" rx="17" ry="3" class="ring"/></svg>"""
FIGURE = """<svg viewBox="0 0 120 150" aria-hidden="true"><circle cx="60" cy="28" r="15"/>
<path d="M60 48c-20 0-28 9-28 26v22h11v34h34V96h11V74c0-17-8-26-28-26z"/>
<ellipse cx="60" cy="132" rx="46" ry="9"/></svg>"""


def header(say: Texts) -> str:
    """Return the top of the page."""
    line = escape(say("One photo of a person in, a textured 3D human out."))
    return f'<header class="top">{LOGO}<div><h1>SyncHuman Studio</h1><p>{line}</p></div></header>'


def footer(say: Texts) -> str:
    """Return the end of the page."""
    text = say(
        "Use photos of people who agreed to it, and say that the model was made by AI: what the photo does "
        "not show is invented. Photos and results stay on this machine and are deleted after a while."
    )
    return f'<p class="fine">{escape(text)}</p>'


def heading(say: Texts, mark: str, title: str, text: str) -> str:
    """Return the heading of one of the page's cards; `title` and `text` are English."""
    badge = f'<b aria-hidden="true">{mark}</b>' if mark else ""
    return (
        f'<div class="step">{badge}<div><h2>{escape(say(title))}</h2><p>{escape(say(text))}</p></div></div>'
    )


def empty_cutout(say: Texts) -> str:
    """Return what stands where the cut-out will be."""
    text = say("The person, cut out of the background, appears here right after you choose a photo.")
    return hint(text)


def empty_result(say: Texts) -> str:
    """Return what stands where the model will be."""
    lines = say("Your 3D person stands here when it is ready."), say("Turn it with the mouse or a finger.")
    return f'<div class="empty">{FIGURE}<p>{escape(lines[0])}<br>{escape(lines[1])}</p></div>'


def touch_up_hint(say: Texts) -> str:
    """Return how to touch up."""
    text = say(
        "Paint {green} over what belongs to the person, {red} over what does not.", green="\0", red="\1"
    )
    green = f'<b class="keep">{escape(say("green"))}</b>'
    red = f'<b class="erase">{escape(say("red"))}</b>'
    return f'<p class="hint">{escape(text).replace(chr(0), green).replace(chr(1), red)}</p>'


def hint(text: str) -> str:
    """Return a line of explanation."""
    return f'<p class="hint">{escape(text)}</p>'


def progress(say: Texts, event: Progress) -> str:
    """Return the card of a run that goes on."""
    stages = [stage for stage in STAGES if stage[0] in (event.stages or NAMES)]
    at = [name for name, _, _ in stages].index(event.stage)
    share = event.step / max(event.total, 1)
    weights = [weight for _, _, weight in stages]
    percent = 100 * (sum(weights[:at]) + weights[at] * share) / sum(weights)
    marks = "".join(
        f"<li {'class=done' if i < at else NOW if i == at else ''}>{escape(say(title))}</li>"
        for i, (_, title, _) in enumerate(stages)
    )
    counted = say("step {step} of {total}", step=event.step, total=event.total)
    step = counted if event.total > 1 else say("working")
    left = "" if event.eta is None else escape(say("{time} left", time=_time(say, event.eta)))
    name = escape(say(NAMES[event.stage]))
    # Not a live region: it changes several times a second.
    return (
        f'<div class="status running"><ol>{marks}</ol>'
        f'<div class="bar" role="progressbar" aria-label="{name}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
        f"<p><b>{name}</b> · {escape(step)}<span>{left}</span></p></div>"
    )


def waiting(say: Texts, event: Waiting) -> str:
    """Return the card of a run that has not started."""
    if event.ahead == 1:
        return note(say("1 run is before yours; it starts by itself."), "running")
    if event.ahead:
        return note(say("{count} runs are before yours; it starts by itself.", count=event.ahead), "running")
    return note(say("Reading the weights; your run starts by itself."), "running")


def note(text: str, kind: str) -> str:
    """Return a card with one sentence; `kind` is its look: running, stopped, error or good."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="status {kind}" role="{role}"><p>{escape(text)}</p></div>'


def warnings(say: Texts, sentences: Iterable[str]) -> str:
    """Return warnings about the photo or the result, or nothing."""
    return "".join(f'<p class="warning">{escape(say.sentence(sentence))}</p>' for sentence in sentences)


def finished(say: Texts, event: Done) -> str:
    """Return the card of a finished run."""
    total = say("Done in {time}.", time=_time(say, sum(event.seconds.values()), about=False))
    return note(total, "good") + warnings(say, event.warnings)


def statistics(say: Texts, event: Done, job: Job, per_stage: dict[str, int]) -> str:
    """Return what came out, as a list of names and numbers; `per_stage` has bytes of memory."""
    made = [
        (say("Triangles"), f"{event.faces:,}"),
        (say("File"), _size(event.glb.stat().st_size)),
        (say("Seed"), str(job.request.settings.seed)),
        (say("Peak memory"), f"{event.peak_memory / 2**30:.1f} GiB"),
    ]
    rows = "".join(
        f"<tr><th scope='row'>{escape(say(NAMES.get(stage, stage)))}</th><td>{seconds:.1f} s</td>"
        f"<td>{f'{per_stage[stage] / 2**30:.1f} GiB' if stage in per_stage else ''}</td></tr>"
        for stage, seconds in event.seconds.items()
    )
    head = "".join(
        f"<th scope='col'>{escape(title)}</th>" for title in (say("Stage"), say("Time"), say("Memory so far"))
    )
    return (
        f'<dl class="numbers">{_definitions(made)}</dl>'
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def main_downloads(say: Texts, job: Job, event: Done) -> str:
    """Return the two links that most people want; addresses are relative, so that a proxy may add a path."""
    base = f"jobs/{job.id}"
    model = f"{base}/files/{quote(event.glb.relative_to(event.folder).as_posix())}"
    return (
        '<div class="downloads">'
        f'<a class="button primary" id="download-glb" href="{model}" download>{escape(say("Download GLB"))}'
        f"<small>{_size(event.glb.stat().st_size)}</small></a>"
        f'<a class="button" id="download-all" href="{base}/archive" download>'
        f"{escape(say('Everything (ZIP)'))}</a></div>"
    )


def formats(say: Texts, job: Job, offers: Iterable[Offer]) -> str:
    """Return a link to every other kind of file that the model can be had as, or why it cannot."""
    items = ""
    for offer in offers:
        kind = offer.format
        title = escape(say(kind.title))
        link = f'<a href="jobs/{job.id}/exports/{kind.name}" download>{title}</a>'
        text = escape(say(kind.text) if offer.lacking is None else say(offer.lacking))
        items += f"<li>{link if offer.lacking is None else f'<s>{title}</s>'}<span>{text}</span></li>"
    title = escape(say("More formats: USDZ, OBJ, STL, 3MF, film …"))
    text = hint(say("Made when you click: seconds, films longer."))
    return f'<details class="files" id="formats"><summary>{title}</summary>{text}<ul>{items}</ul></details>'


def all_files(say: Texts, job: Job, files: dict[str, Path]) -> str:
    """Return a link to every file of a run."""
    items = "".join(
        f'<li><a href="jobs/{job.id}/files/{quote(name)}" download>{escape(name)}</a>'
        f"<span>{_size(path.stat().st_size)}</span></li>"
        for name, path in files.items()
    )
    title = escape(say("All {count} files", count=len(files)))
    return f'<details class="files"><summary>{title}</summary><ul>{items}</ul></details>'


def capabilities(say: Texts, rows: Iterable[Capability]) -> str:
    """Return what the server can do, what it cannot, and why."""
    items = "".join(
        f'<li class="{"on" if row.on else "off"}"><b>{escape(say(row.name))}</b>'
        f"<em>{escape(say('on') if row.on else say('off'))}</em><span>{escape(row.told(say))}</span></li>"
        for row in rows
    )
    return f'<ul class="abilities">{items}</ul>'


def chip(text: str, state: str) -> str:
    """Return the small sign in the header; `state` is its look: ready, busy or broken."""
    return f'<p class="chip {state}" role="status"><i aria-hidden="true"></i>{escape(text)}</p>'


def _definitions(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _time(say: Texts, seconds: float, about: bool = True) -> str:
    if seconds < 1.5:
        return say("about a second") if about else say("a second")
    count, unit = (f"{seconds:.0f}", "s") if seconds < 90 else (f"{seconds / 60:.0f}", "min")
    return say("about {count} {unit}", count=count, unit=unit) if about else f"{count} {unit}"


def turntable(say: Texts, job: Job, sheet: str, frames: int, columns: int) -> str:
    """Return a model that turns: a sheet of pictures, `columns` a row, of which one is seen at a time."""
    play, turn, save = (escape(say(text)) for text in ("Play", "Turn", "Save as animation (WebP)"))
    return (
        f'<div class="turntable" data-frames="{frames}" data-columns="{columns}">'
        f'<div class="frame" role="img" aria-label="{escape(say("The model from all around"))}" '
        f"style=\"background-image:url('{sheet}');background-size:{columns * 100}% auto\"></div>"
        f'<div class="turn"><button type="button" class="button" aria-label="{play}" aria-pressed="false">'
        "</button>"
        f'<input type="range" min="0" max="{frames - 1}" value="0" aria-label="{turn}">'
        f'<a class="button" href="jobs/{job.id}/exports/webp" download>{save}</a></div></div>'
    )
