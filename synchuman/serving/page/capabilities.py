"""What this server can do and what not, with the reason; told by the weights and the options alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synchuman.serving.page.texts import Texts

if TYPE_CHECKING:
    from synchuman.serving.service import Service

OF_STAGE2 = ("stage2_steps", "stage2_guidance")  # settings without effect when there is no Stage 2


@dataclass(frozen=True)
class Capability:
    """One thing that the server can do or not.

    Attributes:
        name: What, in English, a key of the catalogues.
        on: Whether it can.
        told: Says in a language what it does, or why it is off and what to do.
    """

    name: str
    on: bool
    told: Callable[[Texts], str]


def about_worker(service: Service) -> dict[str, Any]:
    """Return what the first ready worker tells about its device and its weights; empty before."""
    about = [worker.engine.about for worker in service.workers if worker.engine.status == "ready"]
    return about[0] if about else {}


def state_of(service: Service, say: Texts) -> tuple[str, str]:
    """Return what the header's sign says, and its look."""
    engines = [worker.engine for worker in service.workers]
    about = about_worker(service)
    if about:
        device = (
            about.get("gpu") or say("CPU") if about["device"].startswith(("cpu", "cuda")) else about["device"]
        )
        return say("Ready") + f" · {_variant(service)} · {device}", "ready"
    if all(engine.broken for engine in engines):
        return say("The weights cannot be read; the server's log says why."), "broken"
    loading = next((engine.loading for engine in engines if engine.loading is not None), None)
    if loading is not None and loading["stage"] == "download":
        counts = {name: f"{loading[name]:,.0f}" for name in ("step", "total")}
        return say("Downloading the weights: {step} of {total} MiB", **counts), "busy"
    return say("Reading the weights …"), "busy"


def list_all(service: Service) -> list[Capability]:
    """Return all of them."""
    options, about = service.options, about_worker(service)
    rows = [_device(about), _stage2(about), _structure(about)] if about else []
    rows.append(
        Capability(
            "Other background removal",
            True,
            lambda say: say(
                "Under Settings; each is downloaded when it is first chosen, which needs a network."
            ),
        )
    )
    rows.append(
        _option(
            "Photos by web address",
            options.image_url,
            "Callers of the API may name the address of a photo.",
            "Off so that nobody makes this server fetch things; --allow-image-url switches it on.",
        )
    )
    rows.append(
        _option(
            "Webhooks",
            options.webhooks,
            "Jobs may name an address that is told when they end.",
            "Off so that nobody makes this server call others; --allow-webhooks switches them on.",
        )
    )
    rows.append(
        _option(
            "Other machines",
            options.public,
            "This page can be reached from other machines.",
            "Only this machine reaches the page; --host or --share, with --auth, lets others in.",
        )
    )
    rows.append(
        _option(
            "Login",
            options.protected,
            "Everybody sees their own runs alone.",
            "Nobody has to say who they are; --auth user:password asks for it.",
        )
    )
    return rows


def _device(about: dict[str, Any]) -> Capability:
    gpu = about.get("gpu")
    if gpu:
        return Capability("Graphics card", True, lambda say: str(gpu))
    return _option(
        "Graphics card",
        False,
        "",
        "PyTorch finds none that it can use, so runs take longer, on the processor.",
    )


def _stage2(about: dict[str, Any]) -> Capability:
    return _option(
        "Fine surface (Stage 2)",
        bool(about.get("stage2")),
        "The model is refined from structured latents.",
        "The weights in use have no Stage 2: models are made from the views and the structure. "
        "--variant chooses other weights.",
    )


def _structure(about: dict[str, Any]) -> Capability:
    return _option(
        "Structure decoder",
        bool(about.get("structure_decoder")),
        "The 3D structure is decoded from what was sampled together with the views.",
        "The weights in use have none: the structure is carved from the generated views.",
    )


def _option(name: str, on: bool, yes: str, no: str) -> Capability:
    return Capability(name, on, lambda say: say(yes if on else no))


def _variant(service: Service) -> str:
    from pathlib import Path

    return Path(service.options.variant).name
