"""The strategies by their names."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from trainer import strategies


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of one, mirrored, multi_worker, tpu"):
        strategies.connect("horovod")


def test_several_workers_need_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TF_CONFIG", "COORDINATOR", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="nothing says which worker this is"):
        strategies.connect("multi_worker")
