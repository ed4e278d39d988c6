"""What the service counts, for Prometheus: a registry of its own, read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector

from synchuman.serving.jobs import Job, State

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1800)
LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counters and gauges of one service."""

    def __init__(self, service: ServiceCore) -> None:
        """Count for a service."""
        self._service = service
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._jobs = Counter(
            "synchuman_jobs", "Jobs that ended, by how.", ["kind", "state"], registry=self.registry
        )
        self._fallbacks = Counter(
            "synchuman_fallbacks", "Jobs that delivered Stage 1's model instead.", registry=self.registry
        )
        self._stages = Histogram(
            "synchuman_stage_seconds",
            "Seconds per stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._waited = Histogram(
            "synchuman_wait_seconds", "Seconds in the queue.", buckets=SECONDS, registry=self.registry
        )
        self._requests = Histogram(
            "synchuman_http_request_seconds", "Seconds until a response began.",
            ["method", "route", "status"], buckets=LATENCY, registry=self.registry,
        )  # fmt: skip
        self._webhooks = Counter(
            "synchuman_webhooks", "Tries to call a webhook.", ["delivered"], registry=self.registry
        )
        self.registry.register(self)

    def count(self, job: Job) -> None:
        """Count a job that ended."""
        self._jobs.labels(job.request.kind.value, job.state.value).inc()
        if job.started is not None:
            self._waited.observe(max(job.started - job.created, 0.0))
        if job.state is State.DONE:
            for stage, seconds in job.result.get("seconds", {}).items():
                self._stages.labels(stage).observe(seconds)
            if job.result.get("fallback"):
                self._fallbacks.inc()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the pattern, so that no id of a job becomes a label."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def webhook(self, delivered: bool) -> None:
        """Count a try to call a webhook."""
        self._webhooks.labels(str(delivered).lower()).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        """Tell the registry nothing: there may be no store yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield what is read at the moment somebody asks."""
        service = self._service
        states = GaugeMetricFamily("synchuman_jobs_now", "Jobs in the store.", labels=["state"])
        for state, count in service.store.counts().items():
            states.add_metric([state.value], count)
        yield states
        ready = GaugeMetricFamily("synchuman_worker_ready", "Whether a worker is ready.", labels=["device"])
        starts = GaugeMetricFamily(
            "synchuman_worker_starts", "Starts of a worker's process.", labels=["device"]
        )
        busy = GaugeMetricFamily("synchuman_worker_busy", "Whether a worker runs a job.", labels=["device"])
        for worker in service.workers:
            device = [worker.engine.device]
            ready.add_metric(device, worker.engine.status == "ready")
            starts.add_metric(device, worker.engine.starts)
            busy.add_metric(device, worker.job is not None)
        yield from (ready, starts, busy)
        yield GaugeMetricFamily("synchuman_disk_free_bytes", "Free bytes for results.", service.free_bytes())
        kept = service.store.total_size()
        yield GaugeMetricFamily("synchuman_results_bytes", "Bytes of all results.", kept)
