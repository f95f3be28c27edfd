"""Two workers learn what one process does, from one shard of a prime number of images; and one goes on for two."""

from __future__ import annotations

import pathlib

from tests.trainer import equivalence

STEPS = 6


def test_two_workers_then_one_learn_what_one_does_alone(tmp_path: pathlib.Path) -> None:
    data, config = tmp_path / "data", equivalence.config(tmp_path, STEPS)
    equivalence.dataset(data, train=[37], validation=[11])
    equivalence.train(tmp_path / "one", data, config, workers=1)
    equivalence.train(tmp_path / "two", data, config, f"--config.max_steps={STEPS - 2}", workers=2)
    equivalence.train(tmp_path / "two", data, config, workers=1)
    equivalence.assert_equal(tmp_path / "two", tmp_path / "one", steps=STEPS, tolerance=1e-5)
