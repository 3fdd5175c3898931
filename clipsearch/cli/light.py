"""Commands whose ordinary values are taken without pydantic, which takes longer to load than a search."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

_HEAVY = object()


class LightCommand(TyperCommand):
    """A command that converts words, numbers and paths itself, as Typer would by way of pydantic.

    Whatever is no plain case, and every value that is wrong, goes to Typer, which knows what to say. Paths
    must be wanted as they are given: not checked, not resolved.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with light converters."""
        return _lightened(super().get_params(ctx))


class LightGroup(TyperGroup):
    """The same for the options before the command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with light converters."""
        return _lightened(super().get_params(ctx))


def _lightened(parameters: list[Any]) -> list[Any]:
    """Put a light converter before that of each; a Typer that needs no pydantic has none."""
    for parameter in parameters:
        heavy = getattr(parameter, "get_runtime_param", None)
        if heavy is not None and not isinstance(heavy, partial):
            described = parameter.type_descriptor
            light = _Light(described.annotation, described.parameter_info, heavy)
            parameter.get_runtime_param = partial(_same, light)
    return parameters


def _same(light: _Light) -> _Light:
    return light


class _Light:
    """Stands before Typer's own converter of one parameter."""

    def __init__(self, annotation: Any, info: Any, heavy: Any) -> None:
        self._annotation = annotation
        self._info = info
        self._heavy = heavy

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value that the command is called with; raises BadParameter."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if several and isinstance(value, list | tuple) and get_origin(self._annotation) is list:
            [kind] = get_args(self._annotation)
            found = [self._one(kind, item) for item in value]
            heavy = any(item is _HEAVY for item in found)
        else:
            found = self._one(self._annotation, value)
            heavy = found is _HEAVY
        return self._heavy().coerce(value, param=param, ctx=ctx) if heavy else found

    def _one(self, kind: Any, value: Any) -> Any:
        if self._info.parser is not None:
            return _HEAVY
        if kind is str and isinstance(value, str):
            return value
        if kind is Path and isinstance(value, str | Path):
            return Path(value)
        if kind is int and isinstance(value, int | str):
            return self._number(value)
        return _HEAVY

    def _number(self, value: int | str) -> Any:
        if isinstance(value, bool) or (
            isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) < 10)
        ):
            return _HEAVY
        number = int(value)
        low, high = self._info.min, self._info.max
        inside = (low is None or number >= low) and (high is None or number <= high)
        return number if inside else _HEAVY
