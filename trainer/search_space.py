"""What `--space` says in; a parameter with its values, and overrides of a config, out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.errors import InputError

PREFIX = "--config."


class Parameter(NamedTuple):
    """A field of `configs.schema.Config` and its values: between two numbers, or one of several words."""

    field: str  # as in an override: optimizer.peak_lr, phases[0].epochs
    kind: str  # log, linear, int, choice
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()


def parse(text: str) -> Parameter:
    """`FIELD=log(1e-4,1e-1)`, `FIELD=linear(0,1)`, `FIELD=int(1,8)` or `FIELD=a|b|c`.

    Raises:
      InputError: for anything else.
    """
    field, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.\[\]]+", field) or not values:
        raise InputError(f"--space={text}: expected FIELD=log(LOW,HIGH), linear(LOW,HIGH), int(LOW,HIGH) or A|B|…")
    match = re.fullmatch(r"(\w+)\(([^,()]+),([^,()]+)\)", values)
    if not match:
        choices = tuple(values.split("|"))
        if len(set(choices)) < 2 or len(set(choices)) < len(choices) or "" in choices:
            raise InputError(f"--space={text}: expected at least two values, all different, like {field}=0.0|0.1")
        return Parameter(field, "choice", choices=choices)
    kind, *bounds = match.groups()
    try:
        low, high = (int(bound) if kind == "int" else float(bound) for bound in bounds)
    except ValueError:
        raise InputError(f"--space={text}: {', '.join(bounds)} are no {'whole ' * (kind == 'int')}numbers") from None
    if kind not in ("log", "linear", "int"):
        raise InputError(f"--space={text}: expected log, linear or int, got {kind}")
    if not low < high or (kind == "log" and low <= 0):
        raise InputError(f"--space={text}: expected {'0 < ' * (kind == 'log')}LOW < HIGH")
    return Parameter(field, kind, low, high)


def overrides(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> tuple[str, ...]:
    """What to tell `python -m trainer train`, given a value for each field."""
    return tuple(f"{PREFIX}{parameter.field}={_text(values[parameter.field])}" for parameter in parameters)


def extremes(parameter: Parameter) -> list[str]:
    """Overrides with which a config has to be valid before a search is worth starting."""
    values: tuple[Any, ...] = parameter.choices
    if parameter.kind != "choice":
        # Between whole numbers others are drawn, which a field of whole numbers doesn't take.
        between = () if parameter.kind == "int" else ((parameter.low + parameter.high) / 2.0003,)
        values = (parameter.low, parameter.high, *between)
    return [overrides([parameter], {parameter.field: value})[0] for value in values]


def _text(value: Any) -> str:
    """Numbers with as many digits as matter, so that a command can be read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
