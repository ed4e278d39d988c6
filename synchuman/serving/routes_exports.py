"""Routes of other files of a finished job: what there is, and any of it made on demand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from synchuman.exports import FORMATS, HIGHEST, LOWEST
from synchuman.serving.problems import documented
from synchuman.serving.routes_jobs import FILE_POLICY, JobHere, ServiceHere
from synchuman.serving.schemas import ExportOffer, ExportOffers

AT_ONCE = 4  # requests that make a file, or wait for another one to be made
TEXTURES = tuple(dict.fromkeys(texture for kind in FORMATS.values() for texture in kind.textures))

Format = Literal[tuple(FORMATS)]  # type: ignore[valid-type]
Texture = Literal[TEXTURES]  # type: ignore[valid-type]

router = APIRouter(tags=["jobs"])


@router.get("/jobs/{job_id}/exports", response_model=ExportOffers, responses=documented(401, 404, 409))
async def list_exports(service: ServiceHere, job: JobHere) -> dict[str, Any]:
    """List the kinds of files that a finished job can be had as."""
    there = await to_thread.run_sync(service.exporter.offers, job)
    return {
        "exports": [
            ExportOffer(
                format=offer.format.name,
                title=offer.format.title,
                text=offer.format.text,
                file=offer.format.file,
                media_type=offer.format.media_type,
                textures=list(offer.format.textures),
                height=offer.format.scaled,
                ready=offer.ready,
                unavailable=offer.lacking,
                url=f"/jobs/{job.id}/exports/{offer.format.name}",
            )
            for offer in there
        ]
    }


@router.get(
    "/jobs/{job_id}/exports/{format}",
    response_class=FileResponse,
    responses={
        **documented(401, 404, 409, 422, 500, 503, 507),
        200: {
            "description": "The file.",
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in dict.fromkeys(kind.media_type for kind in FORMATS.values())
            },
        },
    },
)
async def get_export(
    request: Request,
    service: ServiceHere,
    job: JobHere,
    format: Format,  # type: ignore[valid-type]
    texture: Annotated[
        Texture | None,
        Query(description="How the texture is stored; the list says which go.", examples=["webp"]),
    ] = None,
    height: Annotated[
        float | None,
        Query(ge=LOWEST, le=HIGHEST, description="Of the person in metres. Default: 1.7.", examples=[0.18]),
    ] = None,
) -> FileResponse:
    """Fetch a file of a finished job's model. The first time it is made: seconds, for films half a minute."""
    wanted = (job, format, texture, height)
    path = await to_thread.run_sync(service.exporter.find, *wanted)
    if path is None:
        path = await to_thread.run_sync(service.exporter.get, *wanted, limiter=request.app.state.exports)
    return FileResponse(path, media_type=FORMATS[format].media_type, filename=path.name, headers=FILE_POLICY)
