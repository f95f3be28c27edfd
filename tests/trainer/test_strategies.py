"""A process's place among the workers, from TF_CONFIG."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import InputError
from trainer import strategies


def _config(job: str, index: int, **cluster: list[str]) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})


def test_workers_count_from_zero_and_a_chief_comes_first() -> None:
    assert strategies.place(_config("worker", 1, worker=["a:1", "b:1"])) == (1, 2)
    assert strategies.place(_config("chief", 0, chief=["a:1"], worker=["b:1", "c:1"])) == (0, 3)
    assert strategies.place(_config("worker", 1, chief=["a:1"], worker=["b:1", "c:1"])) == (2, 3)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", _config("worker", 2, worker=["a:1", "b:1"]), _config("ps", 0, worker=["a:1"])],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"TF_CONFIG.*host0:2222"):
        strategies.place(text)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of one, mirrored, multi_worker, tpu"):
        strategies.connect("horovod")
