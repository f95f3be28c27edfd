"""What a service does before anybody asks it."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import weakref
from typing import Any

import pytest

from pipeline.errors import InputError
from trainer.serving import limits, measures, model, service


@pytest.mark.parametrize("value", [{"max_request_bytes": 300 << 20}, {"max_instances": 200}, {"max_pixels": 0}])
def test_limits_that_would_refuse_everything_are_refused(value: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(value))):
        limits.Limits(**value)


def test_a_second_model_has_had_its_place_beside_the_first_before_it_is_ready(
    workdir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = service.Service(str(workdir), limits=limits.Limits(), measures=measures.Measures())
    loaded: list[weakref.ref[model.Model]] = []
    load = model.load

    def noted(*arguments: Any, **keywords: Any) -> model.Model:
        assert not started.ready
        assert all(reference() for reference in loaded)
        made = load(*arguments, **keywords)
        loaded.append(weakref.ref(made))
        return made

    monkeypatch.setattr(model, "load", noted)
    try:
        asyncio.run(started.refresh())
        assert started.ready
        assert [reference() is not None for reference in loaded] == [True, False]
        # Where it looked at all of TensorFlow, the collector stopped everybody for seconds.
        assert gc.get_freeze_count() > 100_000
        asyncio.run(started.refresh())
        assert len(loaded) == 2
    finally:
        started.close()
    assert gc.get_freeze_count() == 0
