"""The service's side of an actor: the same interface as the engine that is a process of this machine."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synchuman import __version__
from synchuman.serving.cluster import ClusterError
from synchuman.serving.cluster.actor import Load, Model, PipelineActor
from synchuman.serving.cluster.parcel import pack, unpack
from synchuman.serving.engine import Engine, EngineLost, Outcome
from synchuman.serving.engine_load import load_pipeline

LOGGER = logging.getLogger(__name__)

AHEAD = 8  # messages that an actor may be ahead of us; then it waits
GONE = "The machine that computed is gone. It may have been taken away, or its memory ran out."


class RayEngine(Engine):
    """One actor. Used by one worker's thread; `status` and `about` may be read by any."""

    def __init__(
        self,
        number: int,
        resources: dict[str, float],
        model: Model,
        max_seconds: float,
        load: Load,
    ) -> None:
        """Describe the actor; `start` brings it up.

        Args:
            number: Its number, from 0.
            resources: What it takes of a machine: `num_gpus`, `num_cpus`.
            model: Which networks it loads, and where on its machine they run.
            max_seconds: Longest run; a longer one fails.
            load: See `PipelineActor`.
        """
        super().__init__(f"ray-{number}", max_seconds)
        self._resources = resources
        self._arguments_of_actor = (load, model)
        self._actor: Any = None

    def close(self) -> None:
        """End the actor."""
        import ray

        actor, self._actor = self._actor, None
        self.status = "starting"
        if actor is not None and ray.is_initialized():
            ray.kill(actor)

    def _alive(self) -> bool:
        return self._actor is not None

    def _gone(self) -> str:
        self.close()
        return ""

    def _died(self, how: str) -> Outcome:
        raise EngineLost(GONE)

    def _spawn(self) -> None:
        import ray

        self.status = "starting"
        self.starts += 1
        # Two calls at a time: a run, and its stop. A lost actor is made anew by us, wherever there is room.
        options = {"max_concurrency": 2, "scheduling_strategy": "SPREAD", **self._resources}
        self._messages = queue.SimpleQueue()
        self._actor = ray.remote(PipelineActor).options(**options).remote(*self._arguments_of_actor)
        self._follow(self._introduce, self._actor, self._messages)

    def _send(self, **command: Any) -> None:
        if "stop" in command:
            self._actor.stop.remote(command["stop"])
            return
        folder = Path(command["folder"])
        called = self._actor.run.options(
            num_returns="streaming", _generator_backpressure_num_objects=AHEAD
        ).remote(command["id"], command["request"], pack(folder))
        self._messages = queue.SimpleQueue()
        self._follow(self._receive, called, folder, self._messages)

    @staticmethod
    def _follow(target: Any, *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, name="actor output", daemon=True).start()

    @staticmethod
    def _introduce(actor: Any, messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        """Wait until the networks are loaded, and say so."""
        import ray

        try:
            about = ray.get(actor.about.remote())
        except ray.exceptions.RayError as error:
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            messages.put({"what": "broken", "message": f"The networks could not be loaded: {reason}"})
            return
        version = about.pop("version")
        if version == __version__:
            messages.put({"what": "ready", **about})
            return
        text = f"{about['node']} has version {version}, this machine {__version__}: install the same on all."
        messages.put({"what": "broken", "message": text})

    @staticmethod
    def _receive(called: Any, folder: Path, messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        """Write files as they come, and pass on what is told; None when the actor is gone."""
        import ray

        try:
            for reference in called:
                message, files = ray.get(reference)
                unpack(files, folder)
                messages.put(message)
        except ray.exceptions.RayTaskError as error:
            LOGGER.error("an actor failed", exc_info=error)
            text = "Something went wrong on our side. Please try again."
            messages.put({"what": "failed", "code": "internal", "message": text})
        except ray.exceptions.RayError as error:
            LOGGER.warning("an actor is gone: %s", type(error).__name__)
            messages.put(None)
        except OSError as error:
            LOGGER.error("results could not be written", exc_info=error)
            messages.put({"what": "failed", "code": "disk_full", "message": f"{error.strerror or error}."})


def cluster_engines(
    address: str,
    actors: int | None,
    model: Model,
    max_seconds: float,
    load: Load = load_pipeline,
) -> Iterator[RayEngine]:
    """Connect to a cluster and describe its actors.

    Args:
        address: Of the cluster; "auto" for the one at hand, else a new one on this machine.
        actors: How many; None for one per GPU (per pair of GPUs where Stage 2 has one of its own), or per
            machine where there is no GPU.
        model: Which networks they load, and where on their machine these run.
        max_seconds: Longest run.
        load: See `PipelineActor`.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached, or has no room.
    """
    resources = share(connect(address), actors, model)
    for number, each in enumerate(resources):
        yield RayEngine(number, each, model, max_seconds, load)


def connect(address: str) -> list[dict[str, float]]:
    """Connect, unless that is done, and return what each machine of the cluster has.

    Raises:
        ClusterError: See `cluster_engines`.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed: pip install 'synchuman-studio[ray]'.") from None
    if not ray.is_initialized():
        try:
            ray.init(
                None if address == "auto" else address, log_to_driver=False, logging_level=logging.WARNING
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(f"The Ray cluster {address!r} cannot be reached: {error}") from None
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    LOGGER.info("%d machines in the cluster", len(machines))
    return machines


def share(machines: list[dict[str, float]], actors: int | None, model: Model) -> list[dict[str, float]]:
    """Return what each actor takes: its GPUs, or an equal part of the CPUs where none is wanted or there.

    Raises:
        ClusterError: There is less than is asked for.
    """
    each = _gpus_of_one(model)
    # An actor's GPUs are those of one machine.
    room = sum(int(machine.get("GPU", 0)) // each for machine in machines) if each else 0
    cpus = int(sum(machine.get("CPU", 0) for machine in machines))
    if room:
        if actors is not None and actors > room:
            raise ClusterError(f"The cluster has {each * room} GPUs; {actors} actors are too many.")
        return [{"num_gpus": each, "num_cpus": 1}] * (actors or room)
    if "cuda" in f"{model.device} {model.stage2_device}":
        raise ClusterError(f"No machine of the cluster has {each} GPU{'s' * (each > 1)} that Ray knows of.")
    wanted = actors or sum(machine.get("CPU", 0) >= 1 for machine in machines)
    if wanted < 1 or wanted > cpus:
        raise ClusterError(f"The cluster has {cpus} CPUs, which is not enough for {max(wanted, 1)} actors.")
    return [{"num_gpus": 0, "num_cpus": max(1, cpus // wanted)}] * wanted


def _gpus_of_one(model: Model) -> int:
    """Return how many GPUs an actor takes: 0 on the CPU, 2 where Stage 2 has one of its own, else 1.

    Raises:
        ClusterError: A card is named that no actor has: each sees but its own, counted from 0.
    """
    devices = {device for device in (model.device, model.stage2_device) if device is not None}
    cards = {
        int(device.partition(":")[2] or 0) for device in devices if re.fullmatch(r"auto|cuda(:\d+)?", device)
    }
    if cards != set(range(len(cards))):
        raise ClusterError(
            "Every worker of a cluster sees its own GPUs alone, counted from 0: "
            "--device cuda, and --stage2-device cuda:1 for a second one."
        )
    return len(cards)
