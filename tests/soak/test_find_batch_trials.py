"""The batch-size finder as a user runs it: real steps of the demo's model, each batch size in a process of its own."""

from __future__ import annotations

import dataclasses

import pytest

from configs import loading
from trainer import find_batch


@pytest.mark.soak
def test_larger_batches_take_more_memory_and_the_table_ends_with_advice(
    digits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.asdict(loading.read("configs/digits_mobilenetv2.py"))
    advice = find_batch.run(data=digits, settings=settings, strategy="one", smallest=8, largest=64)
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["batch", "images/s", "peak", "MiB"]
    batches, rates, peaks = zip(*((float(cell.replace(",", "")) for cell in row.split()) for row in rows), strict=True)
    assert batches == (8, 16, 32, 64)
    assert min(rates) > 0
    assert peaks[-1] > peaks[0] > 200  # TensorFlow alone takes as much
    assert advice.largest.batch == 64
    assert last.startswith(f"take {advice.smallest.batch} for each replica")
