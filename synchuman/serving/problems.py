"""Errors as RFC 9457 problem details, the same shape for everything that can go wrong."""

from __future__ import annotations

import errno
import http
import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from synchuman.events import PhotoError
from synchuman.serving.jobs import ServiceError

LOGGER = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
BOUNDS = ("ge", "le", "gt", "lt", "multiple_of", "max_length", "expected")


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["stage1_steps"])
    message: str = Field(examples=["Input should be less than or equal to 100"])
    bound: dict[str, Any] | None = Field(None, examples=[{"le": 100}])


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is for programs, `detail` for people."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    code: str = Field(examples=["invalid"])
    detail: str = Field(examples=["stage1_steps: Input should be less than or equal to 100"])
    errors: list[FieldProblem] | None = None
    job: dict[str, Any] | None = None


class Invalid(ServiceError):
    """Fields of a request are wrong; `errors` says which and how."""

    status, code = 422, "invalid"

    def __init__(self, errors: list[FieldProblem]) -> None:
        """Carry what is wrong with each field."""
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors

    @classmethod
    def field(cls, name: str, message: str) -> Invalid:
        """Return the error of one field."""
        return cls([FieldProblem(field=name, message=message)])

    @classmethod
    def of(cls, error: ValidationError) -> Invalid:
        """Return pydantic's errors, each with the bound that was broken."""
        return cls(_fields(error.errors(include_url=False, include_input=False)))


class JobFailed(ServiceError):
    """A request waited for its job, and that did not end well."""

    def __init__(self, status: int, code: str, message: str, job: dict[str, Any]) -> None:
        """Carry what the job shows."""
        super().__init__(message)
        self.status, self.code, self.job = status, code, job


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[FieldProblem] | None = None,
    job: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return an error as a response."""
    told = Problem(
        title=http.HTTPStatus(status).phrase, status=status, code=code, detail=detail, errors=errors, job=job
    )
    return JSONResponse(told.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


def from_error(error: ServiceError) -> JSONResponse:
    """Return one of our own errors as a response."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return problem(
        error.status,
        error.code,
        str(error),
        errors=getattr(error, "errors", None),
        job=getattr(error, "job", None),
        headers=headers,
    )


def unexpected(error: BaseException) -> JSONResponse:
    """Return the response for an error that nobody foresaw: it says nothing of the inside."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return problem(507, "disk_full", "The disk of the server is full. Please try again later.")
    LOGGER.error("a request failed", exc_info=error)
    return problem(500, "internal", "Something went wrong on our side. Please try again.")


def install(app: FastAPI) -> None:
    """Have an application answer errors in this shape."""

    async def own(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServiceError)
        return from_error(error)

    async def photo(_: Request, error: Exception) -> JSONResponse:
        told = FieldProblem(field="image", message=str(error))
        return problem(422, "bad_photo", str(error), errors=[told])

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_error(Invalid(_fields(error.errors())))

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = http.HTTPStatus(error.status_code).name.lower()
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, code, str(error.detail), headers=headers)

    app.add_exception_handler(ServiceError, own)
    app.add_exception_handler(PhotoError, photo)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error responses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
            "model": Problem,
        }
        for status in statuses
    }


def _fields(errors: Sequence[Any]) -> list[FieldProblem]:
    told = []
    for error in errors:
        context = error.get("ctx") or {}
        bound = {name: context[name] for name in BOUNDS if name in context}
        names = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
        told.append(
            FieldProblem(field=names[0] if names else "request", message=error["msg"], bound=bound or None)
        )
    return told
