"""Config dataclasses: their checks, and the way to JSON and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

Config = TypeVar("Config")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless sizes fit together."""
    if not condition:
        raise ValueError(f"Bad network sizes: {message}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as a dictionary that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(cls: type[Config], data: dict[str, Any]) -> Config:
    """Build a config dataclass, nested ones included, from what `to_dict` or JSON gave.

    Raises:
        ValueError: A key is missing or unknown, or the sizes do not fit together.
    """
    hints = typing.get_type_hints(cls)
    if set(data) != set(hints):
        missing, unknown = sorted(set(hints) - set(data)), sorted(set(data) - set(hints))
        raise ValueError(f"{cls.__name__}: missing {missing}, unknown {unknown}.")
    return cls(**{name: _convert(hints[name], value) for name, value in data.items()})


def _convert(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return value
