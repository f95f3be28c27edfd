"""A package's template folder in, what fills its templates out: pages with everything escaped, and their wording."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import markupsafe

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's controls, format marks, surrogates, line and paragraph separators
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # several scripts cannot be written without them


def environment(package: str) -> jinja2.Environment:
    """Templates from the folder `templates` of `package`; a name that is not given is an error, not an empty text."""
    result = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result.filters["percent"] = percent
    return result


def percent(share: float) -> str:
    """`share` in 0..1 with two decimals; 100 % and 0 % are said only of what is exactly all or nothing."""
    text = f"{100 * share:.2f}"
    if text == "100.00" and share < 1:
        return "over 99.99\N{NO-BREAK SPACE}%"
    if text == "0.00" and share > 0:
        return "under 0.01\N{NO-BREAK SPACE}%"
    return f"{text}\N{NO-BREAK SPACE}%"


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything inside nested mappings and sequences of mappings: `phases[0].epochs`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value and all(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from flatten(inner, f"{name}[{index}]")
    else:
        yield name, value


def _shown(value: Any) -> Any:
    """Text as it can be shown: newlines, controls, marks that turn the direction of text and stray bytes as escapes."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup) or value.isprintable():
        return value
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _HIDDEN and char not in _JOINERS
        else char
        for char in value
    )
