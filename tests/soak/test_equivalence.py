"""1, 2 and 4 worker processes over loopback: fifty steps with the same losses to 1e-5, and the same evaluations."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.trainer import equivalence
from tests.trainer.commands import command, end, start_workers

pytestmark = pytest.mark.soak
STEPS, TOLERANCE = 50, 1e-5
SIZES = {
    "8 shards": {"train": [25] * 8, "validation": [7] * 8},
    "prime": {"train": [27] * 3 + [26] * 5, "validation": [6] * 5 + [1] * 1},  # 211 and 31
    "1 shard": {"train": [97], "validation": [13]},
}


@pytest.mark.parametrize("sizes", list(SIZES))
def test_one_two_and_four_workers_learn_and_count_the_same(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], sizes: str
) -> None:
    data, config = tmp_path / "data", equivalence.config(tmp_path, STEPS)
    equivalence.dataset(data, **SIZES[sizes])
    differences = {}
    for workers in (1, 2, 4):
        workdir = tmp_path / str(workers)
        equivalence.train(workdir, data, config, workers=workers)
        differences[workers] = equivalence.assert_equal(workdir, tmp_path / "1", steps=STEPS, tolerance=TOLERANCE)
    counts = [_evaluated(tmp_path / "1", workers) for workers in (1, 2, 4)]
    assert counts[0]["examples"] == sum(SIZES[sizes]["validation"])
    for found in counts[1:]:
        assert found["confusion"] == counts[0]["confusion"]
        assert found["top_k"] == counts[0]["top_k"]
        assert found["loss"] == pytest.approx(counts[0]["loss"], rel=1e-6)
    with capsys.disabled():
        print(f"\n{sizes}: largest differences of a loss in 50 steps, by workers: {differences}")


def _evaluated(workdir: pathlib.Path, workers: int) -> dict[str, object]:
    """`metrics.json` of the same weights, evaluated by so many workers."""
    arguments = command("evaluate", f"--workdir={workdir}", "--split=validation", *equivalence.strategy(workers))
    end(start_workers(arguments, workers), status=0, timeout_s=equivalence.TIMEOUT_S)
    return json.loads((workdir / "report" / "metrics.json").read_text())
