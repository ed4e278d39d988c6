"""Which engines compute for a service: processes of this machine, actors of a cluster, or a lent card."""

from __future__ import annotations

from pathlib import Path

from synchuman.serving.engine import Engine, child_arguments
from synchuman.serving.options import ServiceOptions
from synchuman.serving.zerogpu import lend, on_zerogpu


def build_engines(options: ServiceOptions, locks: Path) -> list[Engine]:
    """Return the engines of a service, one for each of its workers.

    Args:
        options: Of the service.
        locks: Folder of the files that stand for devices.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached, or has no room.
    """
    seconds = options.limits.max_run_seconds
    model = options.variant, options.devices[0], options.dtype, options.placement
    if options.ray is not None:
        from synchuman.serving.cluster.actor import Model
        from synchuman.serving.cluster.engine import cluster_engines

        wanted = Model(*model, options.stage2_device)
        return [*cluster_engines(options.ray, options.ray_actors, wanted, seconds)]
    if on_zerogpu():
        from synchuman.serving.engine_inside import InsideEngine
        from synchuman.serving.engine_load import load_pipeline

        pipeline, about = load_pipeline(*model)
        return [InsideEngine(lend(pipeline), about, locks / "zerogpu.lock", seconds)]
    return [Engine(device, seconds, child_arguments(options, device, locks)) for device in options.devices]
