"""Wording and escaping that every page has."""

from __future__ import annotations

import jinja2
import markupsafe
import pytest

from pipeline import page


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.00"), (0.0, "0.00"), (0.98765, "98.77"), (0.99999, "over 99.99"), (0.000001, "under 0.01")],
)
def test_percent_says_all_and_nothing_only_where_exact(share: float, text: str) -> None:
    assert page.percent(share) == f"{text}\N{NO-BREAK SPACE}%"


def test_settings_get_dotted_names() -> None:
    value = {"a": {"b": 1, "c": [{"d": 2}, {"d": 3}]}, "e": [1, 2], "f": {}}
    assert dict(page.flatten(value)) == {"a.b": 1, "a.c[0].d": 2, "a.c[1].d": 3, "e": [1, 2]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("a\nb\x00c", "a\\nb\\x00c"),
        ("right\u202eleft", "right\\u202eleft"),
        ("stray\udcff", "stray\\udcff"),
        ("a\u00a0b \u8549 \u0928\u200d", "a\u00a0b \u8549 \u0928\u200d"),
        (markupsafe.Markup("<i>\n</i>"), "<i>\n</i>"),
        (3, "3"),
    ],
)
def test_any_text_is_shown_and_does_nothing(text: object, shown: str) -> None:
    assert page.environment("preprocess").from_string("{{ value }}").render(value=text) == shown


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        page.environment("trainer").from_string("{{ missing }}").render()
