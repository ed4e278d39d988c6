"""What `POST /generate` and retexture understand: one field per setting, with the setting's own bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import FormData, UploadFile

from synchuman.presets import DEFAULT_PRESET, NAMES, preset
from synchuman.serving.problems import FieldProblem, Invalid
from synchuman.settings import Settings

MAX_FIELDS = 64
MAX_FIELD_BYTES = 8192
IMAGE = "image"
FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
# What only matters while views are sampled: a new texture cannot follow it.
SAMPLING = frozenset(
    {
        "stage1_steps",
        "guidance",
        "stage2_steps",
        "stage2_guidance",
        "solver",
        "seed",
        "matting",
        "stage1_only",
    }
)
STAGE1_SETTINGS = frozenset({"stage1_steps", "guidance", "matting"})


def _optional(name: str) -> tuple[Any, Any]:
    """Return a setting's field for a form: its bounds and text, but None when it is not given."""
    field = Settings.model_fields[name]
    kind: Any = field.annotation
    for rule in field.metadata:
        kind = Annotated[kind, rule]
    text = f"{field.description} Default: the preset's."
    return kind | None, Field(None, title=field.title, description=text)


class Waiting(BaseModel):
    """How the answer comes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait: bool = Field(True, description="Answer when the job is over; false answers 202 at once.")
    download: bool = Field(False, description="With wait: answer with a ZIP of all files instead of JSON.")


class GenerateBase(Waiting):
    """Fields beside the settings."""

    preset: Literal[NAMES] | None = Field(  # type: ignore[valid-type]
        None,
        description=f"Settings to start from; the fields given change them. Default: {DEFAULT_PRESET}, and "
        "with skip_stage1 those of `job`.",
    )
    stage1_only: bool = Field(False, description="Stop after Stage 1; quicker, with a coarser model.")
    graceful_fallback: bool = Field(
        False, description="When Stage 2 fails, deliver Stage 1's model and say so in `fallback`."
    )
    skip_stage1: bool = Field(False, description="Go on from the views of an earlier job, named by `job`.")
    job: str | None = Field(None, description="With skip_stage1: id of a job that is done.", max_length=64)
    person: int | None = Field(
        None, ge=1, le=100, description="Whom to take of several people, counted from 1, largest first."
    )
    image_url: str | None = Field(
        None,
        description="Address (https) of the photo instead of `image`; where switched on.",
        max_length=2048,
    )
    webhook_url: str | None = Field(
        None, max_length=2048, description="Address (https) to tell when the job is over; if switched on."
    )


SETTINGS = tuple(name for name in Settings.model_fields if name != "stage1_only")
RETEXTURE_SETTINGS = tuple(name for name in SETTINGS if name not in SAMPLING)


def _with_settings(name: str, base: type[Waiting], settings: tuple[str, ...]) -> Any:
    fields: dict[str, Any] = {field: _optional(field) for field in settings}
    return create_model(name, __base__=base, **fields)


GenerateForm = _with_settings("GenerateForm", GenerateBase, SETTINGS)
RetextureForm = _with_settings("RetextureForm", Waiting, RETEXTURE_SETTINGS)


async def read(request: Request, form: Any, with_image: bool) -> tuple[Any, UploadFile | None]:
    """Read a form's fields, from the body or the query.

    Returns:
        The checked fields, and the photo if one came.

    Raises:
        Invalid: A field is unknown, given twice, or out of its bounds.
    """
    content_type = request.headers.get("content-type", "")
    body = FormData()
    if content_type.startswith(FORM_TYPES):
        body = await request.form(
            max_files=int(with_image), max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    elif content_type:
        kinds = " or ".join(FORM_TYPES)
        raise Invalid.field("Content-Type", f"Send a form ({kinds}), not {content_type[:100]!r}.")
    image: UploadFile | None = None
    values: dict[str, str] = {}
    for name, value in [*request.query_params.multi_items(), *body.multi_items()]:
        if isinstance(value, UploadFile):
            if name != IMAGE:
                raise Invalid.field(name, f"Files are only taken as `{IMAGE}`.")
            # Browsers send an empty file for a field that was left alone.
            image = value if value.filename or value.size else None
            continue
        if name in values:
            raise Invalid.field(name, "It was given twice.")
        if value != "":
            values[name] = value
    if with_image and IMAGE in values:
        raise Invalid.field(IMAGE, "Send the photo as a file: curl -F image=@photo.jpg")
    try:
        return form.model_validate(values), image
    except ValidationError as error:
        raise Invalid.of(error) from None


def settings_of(form: Any, variant: str, before: Settings | None = None) -> Settings:
    """Return the settings that a form asks for.

    Args:
        form: A generate or retexture form.
        variant: The weights in use, whose presets count.
        before: Settings of the job that it stands on; used when the form names no preset.

    Raises:
        Invalid: Values do not go together.
    """
    given = {name: getattr(form, name, None) for name in SETTINGS}
    changes = {name: value for name, value in given.items() if value is not None}
    chosen = getattr(form, "preset", None)
    try:
        if before is not None and chosen is None:
            return Settings(**{**before.model_dump(), **changes})
        return preset(chosen or DEFAULT_PRESET, variant, **changes)
    except ValidationError as error:
        raise Invalid.of(error) from None


def check_together(form: Any, image: UploadFile | None) -> None:
    """Raise Invalid when fields contradict each other."""
    problems = []
    sources = [name for name, given in ((IMAGE, image), ("image_url", form.image_url)) if given]
    if form.skip_stage1:
        if sources:
            problems.append((sources[0], "With skip_stage1 there is no photo: the views of `job` are used."))
        if form.job is None:
            problems.append(("job", "skip_stage1 needs the id of a job whose views are used."))
        for name in STAGE1_SETTINGS & form.model_fields_set:
            problems.append((name, "With skip_stage1 it has no effect: Stage 1 is not run again."))
        if form.stage1_only:
            problems.append(("stage1_only", "It contradicts skip_stage1: nothing would be left to do."))
    else:
        if form.job is not None:
            problems.append(("job", "It is only used with skip_stage1."))
        if len(sources) != 1:
            problems.append((IMAGE, "Give the photo either as `image` or as `image_url`."))
    if form.download and not form.wait:
        problems.append(("download", "It needs wait=true; otherwise fetch /jobs/{id}/archive later."))
    if problems:
        raise Invalid([FieldProblem(field=name, message=message) for name, message in problems])


def body_of(form: Any, with_image: bool, example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a form."""
    schema = form.model_json_schema()
    schema.pop("$defs", None)
    if with_image:
        photo = {
            "type": "string",
            "format": "binary",
            "description": "The photo: JPEG, PNG, WebP or HEIC of one person, from head to feet.",
        }
        schema["properties"] = {IMAGE: photo, **schema["properties"]}
    return {"requestBody": {"content": {FORM_TYPES[0]: {"schema": schema, "example": example}}}}
