"""The cache's choice, case by case, and the free memory it is made from."""

from __future__ import annotations

import pytest

from pipeline import cache
from pipeline.errors import InputError

SIZES = {"stored_bytes": 100, "decoded_bytes": 1000}


@pytest.mark.parametrize(
    ("available_bytes", "expected"), [(3000, "decoded"), (2996, "encoded"), (300, "encoded"), (296, "none")]
)
def test_auto_takes_the_best_that_fits_in_a_third(available_bytes: int, expected: str) -> None:
    assert cache.choose("auto", **SIZES, available_bytes=available_bytes).mode == expected


def test_what_is_asked_for_is_what_comes() -> None:
    for mode in ("none", "encoded", "decoded"):
        assert cache.choose(mode, **SIZES, available_bytes=1).mode == mode
    with pytest.raises(InputError, match="expected one of auto, none"):
        cache.choose("ram", **SIZES, available_bytes=1)


def test_available_bytes_is_plausible() -> None:
    assert 2**26 < cache.available_bytes() < 2**50
