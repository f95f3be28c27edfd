"""int8 is taken where it keeps enough right answers; else the next safer kind, and it is said why."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.export import quantization

LABELS = np.zeros(200, np.int64)


def probabilities(wrong: int, turned_right: int = 0) -> np.ndarray:
    """Of 200 examples of class 0; the trainer has the last 20 wrong."""
    chosen = np.zeros(200, np.int64)
    chosen[180:] = 1
    chosen[:wrong] = 1
    chosen[180 : 180 + turned_right] = 0
    return np.eye(2)[chosen]


def choose(answers: dict[str, np.ndarray], budget: float) -> quantization.Chosen:
    return quantization.choose(
        lambda kind: kind.encode(),
        lambda content: answers[content.decode()],
        probabilities=probabilities(0),
        labels=LABELS,
        budget=budget,
    )


def test_the_budget_is_on_right_answers_lost() -> None:
    one_lost = choose({"int8": probabilities(1)}, 0.5)  # 1 of 200 is half a point
    assert (one_lost.kind, one_lost.note) == ("int8", "")
    evened_out = choose({"int8": probabilities(3, turned_right=3)}, 0.0)
    assert evened_out.kind == "int8"
    assert evened_out.tried == ({"kind": "int8", "examples": 200, "points_lost": 0.0, "decisions_turned": 3.0},)


def test_over_the_budget_it_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    second = choose({"int8": probabilities(2), "int16": probabilities(0)}, 0.5)
    assert (second.kind, second.content) == ("int16", b"int16")
    assert second.note == "int8 loses 1.00 points: int16 instead"
    assert second.note in caplog.text
    last = choose({"int8": probabilities(9), "int16": probabilities(8), "float16": probabilities(7)}, 0.5)
    assert (last.kind, last.note) == ("float16", "int8 loses 4.50 points; int16 loses 4.00 points: float16 instead")


def test_a_kernel_that_does_not_exist_is_a_reason_to_fall_back() -> None:
    def convert(kind: str) -> bytes:
        if kind == "int8":
            raise RuntimeError("long\nQuantization not yet supported for op: 'CAST'.\n")
        return kind.encode()

    chosen = quantization.choose(
        convert, lambda content: probabilities(0), probabilities=probabilities(0), labels=LABELS, budget=0.5
    )
    assert chosen.kind == "int16"
    assert "can't be made (Quantization not yet supported for op: 'CAST'.)" in chosen.note
