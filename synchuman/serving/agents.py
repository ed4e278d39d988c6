"""Endpoints with stable names for gradio_client, and tools for agents (MCP): REST's jobs as plain functions.

Gradio reads types and docstrings of these functions at run time and shows them to callers, so their
annotations are no strings here.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from anyio import to_thread
from fastapi import FastAPI
from gradio import processing_utils
from gradio.data_classes import FileData

from synchuman.serving import forms
from synchuman.serving.agent_calls import Calls, plainly_told
from synchuman.serving.jobs import JobRequest, Kind, ServiceError
from synchuman.serving.present import present
from synchuman.serving.problems import Invalid
from synchuman.serving.service import Service

TOOLS = ("start_person", "start_retexture", "wait_for_job", "get_model", "cancel_job", "delete_job")
LONGEST_WAIT = 300.0  # seconds of one call of `wait_for_job`
NO_ADDRESS = "Addresses are not fetched for this field. Upload the file, or name the address as `image_url`."


class Endpoints:
    """The functions; each tells who calls by what the guard found."""

    def __init__(self, service: Service, app: FastAPI, cache: Path) -> None:
        """Serve one service; uploads to Gradio are in `cache`."""
        self._service = service
        self._calls = Calls(service, app, cache)

    def add(self) -> None:
        """Add the functions to the page whose context this is called in."""
        for name in TOOLS:
            gr.api(getattr(self, name), api_name=name, queue=False)
        gr.api(self.make_person, api_name="make_person", concurrency_limit=None)

    async def start_person(
        self,
        request: gr.Request,
        photo: FileData | None = None,
        image_url: str | None = None,
        preset: str = "Balanced",
        seed: int | None = None,
        stage1_only: bool = False,
        graceful_fallback: bool = False,
        person: int | None = None,
        stage1_steps: int | None = None,
        guidance: float | None = None,
        stage2_steps: int | None = None,
        stage2_guidance: float | None = None,
        solver: str | None = None,
        matting: str | None = None,
        faces: int | None = None,
        texture_size: int | None = None,
    ) -> dict:
        """Start making a textured 3D model (GLB) of the person in a photo. Then call wait_for_job.

        Args:
            photo: The photo (JPEG, PNG, WebP or HEIC) of one person, head to feet: a file or a data: URI.
            image_url: Its https address instead of `photo`; not every server allows that.
            preset: "Fast", "Balanced" or "Best"; the settings given change it.
            seed: Of the noise; the same seed gives the same model again.
            stage1_only: Stop after Stage 1; quicker, with a coarser model.
            graceful_fallback: When Stage 2 fails, deliver Stage 1's model and say so in `fallback`.
            person: Whom to take of several people, counted from 1, largest first.
            stage1_steps: Sampling steps of Stage 1, 1 to 100.
            guidance: How strictly the views follow the photo, 1 to 10.
            stage2_steps: Sampling steps of Stage 2, 1 to 100.
            stage2_guidance: How strictly the fine surface follows the photo, 1 to 10.
            solver: "euler", or "multistep" for few steps with guidance.
            matting: Background removal.
            faces: Triangles of the model, 1000 to 200000.
            texture_size: Side of the texture in texels, a multiple of 256 up to 4096.

        Returns:
            The job: its id, state, place in the queue and seconds left.
        """
        values = {name: value for name, value in locals().items() if name not in ("self", "request", "photo")}
        with plainly_told():
            job = await self._calls.start(request, photo, values)
            return await to_thread.run_sync(self._service.show, job)

    async def make_person(
        self,
        request: gr.Request,
        photo: FileData,
        preset: str = "Balanced",
        seed: int | None = None,
        stage1_only: bool = False,
        faces: int | None = None,
        texture_size: int | None = None,
    ) -> tuple[FileData, dict]:
        """Make a textured 3D model (GLB) of the person in a photo, and wait for it.

        Args:
            photo: The photo (JPEG, PNG, WebP or HEIC) of one person from head to feet, as a file.
            preset: "Fast", "Balanced" or "Best"; the settings given change it.
            seed: Of the noise; the same seed gives the same model again.
            stage1_only: Stop after Stage 1; quicker, with a coarser model.
            faces: Triangles of the model, 1000 to 200000.
            texture_size: Side of the texture in texels, a multiple of 256 up to 4096.

        Returns:
            The model, and the job that made it.
        """
        values = {"preset": preset, "seed": seed, "stage1_only": stage1_only, "faces": faces}
        with plainly_told():
            job = await self._calls.start(request, photo, {**values, "texture_size": texture_size})
            progress = gr.Progress()
            try:
                async for message in self._calls.follow(job):
                    if message.name == "progress":
                        told = message.data
                        progress((told["step"], told["total"]), desc=told["stage"])
            finally:
                # Nobody reads the end of a run whose caller has gone.
                with suppress(ServiceError), anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._service.cancel, job)
            ended = await to_thread.run_sync(self._service.get, job.id)
            return self._calls.model_of(ended), present(ended)

    async def start_retexture(
        self, request: gr.Request, job_id: str, faces: int | None = None, texture_size: int | None = None
    ) -> dict:
        """Start making a new model from a finished job with other faces or texture size, without sampling.

        Args:
            job_id: Id of a job that is done.
            faces: Triangles of the model, 1000 to 200000.
            texture_size: Side of the texture in texels, a multiple of 256 up to 4096.

        Returns:
            The new job.
        """
        with plainly_told():
            identity = self._calls.admit(request)
            before = await self._calls.find(request, job_id)
            given = {"faces": faces, "texture_size": texture_size}
            form = forms.RetextureForm(**{name: value for name, value in given.items() if value is not None})
            wanted = JobRequest(
                kind=Kind.RETEXTURE,
                settings=forms.settings_of(form, self._service.options.variant, before.request.settings),
                stage1_only=before.result.get("mode") == "stage1_only",
                parent=before.id,
            )
            job = await self._calls.submit(identity, wanted, None)
            return await to_thread.run_sync(self._service.show, job)

    async def wait_for_job(self, request: gr.Request, job_id: str, seconds: float = 30.0) -> dict:
        """Wait until a job is over, at most some seconds, and tell how it is: state, progress, result, error.

        Args:
            job_id: Id of the job.
            seconds: How long to wait at most, up to 300; 0 to look only.

        Returns:
            The job. Its state is queued, running, done, failed, cancelled or interrupted.
        """
        with plainly_told():
            if not 0 <= seconds <= LONGEST_WAIT:
                raise Invalid.field("seconds", f"It must be between 0 and {LONGEST_WAIT:.0f}.")
            job = await self._calls.find(request, job_id)
            with anyio.move_on_after(seconds):
                async for _ in self._calls.follow(job):
                    pass
            now = await to_thread.run_sync(self._service.get, job.id)
            return await to_thread.run_sync(self._service.show, now)

    async def get_model(self, request: gr.Request, job_id: str) -> FileData:
        """Fetch the model (GLB) of a job that is done.

        Args:
            job_id: Id of the job.

        Returns:
            The model.
        """
        with plainly_told():
            return self._calls.model_of(await self._calls.find(request, job_id))

    async def cancel_job(self, request: gr.Request, job_id: str) -> dict:
        """Stop a job: at once when it waits, at its next step when it runs.

        Args:
            job_id: Id of the job.

        Returns:
            The job.
        """
        with plainly_told():
            job = await self._calls.find(request, job_id)
            now = await to_thread.run_sync(self._service.cancel, job)
            return await to_thread.run_sync(self._service.show, now)

    async def delete_job(self, request: gr.Request, job_id: str) -> bool:
        """Delete a job with all its files; a running one is stopped first.

        Args:
            job_id: Id of the job.

        Returns:
            Whether it is gone already; else it is being stopped, and goes then.
        """
        with plainly_told():
            job = await self._calls.find(request, job_id)
            return await to_thread.run_sync(self._service.delete, job)


def keep_tools(page: gr.Blocks) -> None:
    """Have the MCP server of a mounted page offer our tools alone.

    Endpoints that wait in Gradio's queue would not work there: it calls itself for them, without the
    caller's key.
    """
    server = page.mcp_server_obj
    assert server is not None
    for name in [name for name in server.tool_to_endpoint if name not in TOOLS]:
        del server.tool_to_endpoint[name]


def refuse_addresses() -> None:
    """Have Gradio fetch no address that a caller names instead of a file: `image_url` has its own rules."""

    async def refuse(url: str) -> Any:
        raise gr.Error(NO_ADDRESS, print_exception=False)

    processing_utils.async_ssrf_protected_get = refuse
