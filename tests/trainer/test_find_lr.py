"""The learning-rate finder: its arithmetic by hand, and one real run on digits."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib

import pytest
from PIL import Image

from configs import schema
from pipeline.errors import InputError
from trainer import find_lr


def test_rates_rise_by_one_factor() -> None:
    found = find_lr.rates(1e-4, 1.0, 25)
    assert len(found) == 25
    assert found[::6] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert found[3] == pytest.approx(1e-4 * 10**0.5)


@pytest.mark.parametrize(("lowest", "highest", "steps"), [(1e-3, 1e-3, 50), (0.0, 1.0, 50), (1e-4, 1.0, 19)])
def test_impossible_ranges_are_refused(lowest: float, highest: float, steps: int) -> None:
    with pytest.raises(InputError, match="expected"):
        find_lr.rates(lowest, highest, steps)


def test_smoothing_divides_by_the_weights_there_are() -> None:
    """Weights 1; 1/3, 2/3; 1/7, 2/7, 4/7."""
    assert find_lr.smooth([1.0, 2.0, 4.0], 0.5) == pytest.approx([1.0, 5 / 3, 3.0])
    assert find_lr.smooth([0.7] * 9) == pytest.approx([0.7] * 9)


@pytest.mark.parametrize(("last", "expected"), [(3.9, False), (4.1, True), (math.nan, True), (math.inf, True)])
def test_divergence_is_four_times_the_best(last: float, expected: bool) -> None:
    assert find_lr.diverged([2.0, 1.0, 1.5, last]) is expected


def test_the_steepest_power_of_ten_and_the_minimum_are_found() -> None:
    """Flat to 1e-4, gently down to 1e-3, steeply to 1e-2, gently to 1e-1 and up: twelve steps for each power of ten."""
    tried = find_lr.rates(1e-6, 1.0, 73)
    corners = {-6.0: 3.0, -4.0: 3.0, -3.0: 2.8, -2.0: 1.2, -1.0: 1.0, 0.0: 4.0}

    def loss(rate: float) -> float:
        x = math.log10(rate)
        left = max(corner for corner in corners if corner <= x + 1e-9)
        right = min((corner for corner in corners if corner > left), default=left)
        share = (x - left) / (right - left) if right > left else 0.0
        return corners[left] * (1 - share) + corners[right] * share

    found = find_lr.suggest(tried, [loss(rate) for rate in tried])
    assert found.minimum == pytest.approx(1e-1)
    assert found.tenth == pytest.approx(1e-2)
    assert found.steepest == pytest.approx(10**-2.5)


def test_one_lucky_batch_is_no_slope() -> None:
    tried = find_lr.rates(1e-6, 1.0, 73)
    losses = [3.0 - max(0.0, math.log10(rate) + 3) for rate in tried]
    losses[20] += 0.5  # falls by it at once, at 5e-5, and by 0.08 at most from there on
    assert 1e-3 <= find_lr.suggest(tried, losses).steepest <= 1e-0


def test_one_lucky_batch_at_the_start_is_no_minimum() -> None:
    tried = find_lr.rates(1e-6, 1.0, 73)
    losses = find_lr.smooth([0.5, *(3.0 - max(0.0, math.log10(rate) + 3) / 3 for rate in tried[1:])])
    assert min(losses) == losses[0]
    assert find_lr.suggest(tried, losses).minimum == tried[-1]


@pytest.mark.parametrize("losses", [[1.0 + i for i in range(40)], [2.0] * 40])
def test_a_loss_that_never_falls_suggests_nothing(losses: list[float]) -> None:
    assert find_lr.suggest(find_lr.rates(1e-6, 1.0, 40), losses) is None
    assert "never fell" in find_lr.describe(None, 1.0, "out")


def test_what_is_said_is_peak_lr_and_not_the_rate_of_a_scaled_phase() -> None:
    line = find_lr.describe(find_lr.Suggestion(steepest=0.002, minimum=0.05), 0.1, "out/find_lr.png")
    assert "peak_lr=2.0e-02" in line
    assert "--config.optimizer.peak_lr=5.0e-02" in line


def test_the_sweep_ends_where_the_loss_explodes() -> None:
    steps = iter([2.0, 1.0, 1.0, math.nan, 1.0])
    assert find_lr.sweep(lambda rate: next(steps), [1.0] * 5) == [2.0, 1.0, 1.0]
    steps = iter([1.0, 1.0, 1.0, 1e3, 1.0])
    assert find_lr.sweep(lambda rate: next(steps), [1.0] * 5) == [1.0, 1.0, 1.0, 1e3]


def test_digits_are_tried_with_real_steps(
    digits: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = schema.Config(
        input=schema.Input(image_size=32, crop_area=(0.8, 1.0), flip=False),
        model=schema.Model(width=0.35),
        optimizer=schema.Optimizer(name="sgd"),
    )
    found = find_lr.run(
        data=digits,
        settings=dataclasses.asdict(config),
        out=str(tmp_path / "out"),
        strategy="one",
        steps=40,
        lowest=1e-4,
        highest=1e2,
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["find_lr.csv", "find_lr.png"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "find_lr.csv").read_text())))
    rates, losses, smoothed = (
        [float(row[name]) for row in rows] for name in ("learning_rate", "loss", "smoothed_loss")
    )
    assert rates == pytest.approx(find_lr.rates(1e-4, 1e2, 40)[: len(rates)])
    # A new network guesses: with ten classes, and a little confidence in what is wrong, not far above ln(10).
    assert losses[0] == pytest.approx(math.log(10), abs=0.7)
    assert smoothed[-1] > find_lr.DIVERGED * min(smoothed)
    assert len(rates) < 40
    assert found.minimum in rates
    with Image.open(tmp_path / "out" / "find_lr.png") as picture:
        assert picture.size == (960, 540)
    assert f"{found.tenth:.1e}" in capsys.readouterr().out
