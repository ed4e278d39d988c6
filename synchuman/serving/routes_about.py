"""Routes about the service itself: alive, ready, what it can do, what it counts."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from synchuman import __version__
from synchuman.presets import presets_of
from synchuman.serving import metrics, webhook
from synchuman.serving.auth import Forbidden
from synchuman.serving.problems import documented
from synchuman.serving.routes_jobs import IdentityHere, ServiceHere
from synchuman.serving.schemas import Check, Health, Info, Readiness, WebhookSecret
from synchuman.serving.service import Service
from synchuman.settings import Settings

router = APIRouter(tags=["service"])


@router.get("/health", response_model=Health)
async def health() -> Health:
    """Say that the process is alive; also during a run, and without a key."""
    return Health()


@router.get("/ready", response_model=Readiness, responses={503: {"model": Readiness}, **documented(401)})
async def ready(service: ServiceHere) -> JSONResponse:
    """Say whether jobs are taken and will run: weights, device, disk, queue."""
    told = await to_thread.run_sync(_readiness, service)
    return JSONResponse(told.model_dump(), 200 if told.ready else 503)


@router.get("/info", response_model=Info, responses=documented(401))
async def info(service: ServiceHere, identity: IdentityHere) -> Info:
    """Tell what this service is and can do."""
    options, limits = service.options, service.limits
    return Info(
        app="SyncHuman Studio",
        version=__version__,
        variant=options.variant,
        workers=[
            {"status": w.engine.status, "loading": w.engine.loading, **w.engine.about}
            for w in service.workers
        ],
        presets=presets_of(options.variant),
        settings=Settings.model_json_schema(),
        limits={**vars(limits)},
        features={
            "image_url": options.image_url or "Switched off; --allow-image-url switches it on.",
            "webhooks": options.webhooks or "Switched off; --allow-webhooks switches them on.",
        },
        you=identity.name,
    )


@router.get("/metrics", response_class=Response, responses=documented(401))
async def get_metrics(service: ServiceHere) -> Response:
    """Tell Prometheus what was counted."""
    return Response(await to_thread.run_sync(service.metrics.text), media_type=metrics.CONTENT_TYPE)


@router.get("/webhooks/secret", response_model=WebhookSecret, responses=documented(401, 403))
async def webhook_secret(service: ServiceHere, identity: IdentityHere) -> WebhookSecret:
    """Tell the key with which your webhooks are signed."""
    if not identity.known:
        raise Forbidden("Only callers with an API key have one.")
    return WebhookSecret(secret=webhook.spell(webhook.secret_for(service.secret, identity.name)))


def _readiness(service: Service) -> Readiness:
    engines = [worker.engine for worker in service.workers]
    free, limits = service.free_bytes(), service.limits
    waiting = len(service.store.queue())
    up = [engine for engine in engines if engine.status == "ready"]
    detail = f"{len(up)} of {len(engines)} workers are ready"
    if any(engine.broken for engine in engines):
        detail += "; one cannot be started: the server's log says why"
    for engine in engines:
        if engine.loading is not None:
            detail += f"; {engine.loading['stage']} {engine.loading['step']} of {engine.loading['total']}"
    checks = {
        "worker": Check(ok=bool(up), detail=detail),
        "disk": Check(ok=free >= limits.min_free, detail=f"{free // 2**20} MiB free"),
        "queue": Check(
            ok=waiting < limits.max_queue, detail=f"{waiting} of at most {limits.max_queue} jobs wait"
        ),
        "open": Check(ok=not service.closing.is_set(), detail="the server takes jobs"),
    }
    return Readiness(ready=all(check.ok for check in checks.values()), checks=checks)
