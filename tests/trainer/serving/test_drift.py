"""What changes is flagged, what doesn't isn't, and the numbers are those of hand and of a second implementation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter
from scipy import stats

from tests.trainer.serving import tiny_export
from trainer.serving import drift, monitor
from trainer.serving.model import Row

PROBABILITIES = np.array([[0.7, 0.3], [0.4, 0.6]])


def outputs(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(probabilities, embeddings) of a model that looks at colours."""
    means = images.mean(axis=(1, 2))
    powers = np.exp((means - means.mean(axis=1, keepdims=True)) / 30)
    return powers / powers.sum(axis=1, keepdims=True), np.hstack([means, images.std(axis=(1, 2))])


def usual(count: int = 90) -> dict[str, Any]:
    """From JSON, as a server reads it."""
    images = tiny_export.pictures(np.random.default_rng(1), count)
    found: dict[str, Any] = json.loads(json.dumps(drift.reference(images, *outputs(images))))
    return found


def flagged(images: npt.NDArray[np.uint8], reference: dict[str, Any]) -> set[str]:
    probabilities, embeddings = outputs(images)
    values = drift.measure(reference, images, probabilities, embeddings)
    return {found.feature for found in drift.compare(reference, values, probabilities.argmax(axis=1)) if found.alarm}


def test_features_are_those_of_hand() -> None:
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0, 0] = (10, 20, 60)  # a row of this over a row of black
    reference = {"embedding": {"mean": [1.0, 1.0], "axes": [[0.6, 0.8]]}}
    found = drift.measure(
        reference, images, PROBABILITIES, np.array([[4.0, 5.0], [1.0, 1.0]]), np.array([[3, 5], [7, 1]])
    )
    luma = 0.299 * 10 + 0.587 * 20 + 0.114 * 60
    expected = {
        "brightness": luma / 2,
        "contrast": luma / 2,
        "sharpness": luma / (luma / 2 + 1),  # down each column a step of `luma`, along the rows none
        "red_minus_blue": -25,
        "green_minus_others": 10 - 35 / 2,
        "confidence": 0.7,
        "embedding_distance": 5,
        "embedding_axis_1": 0.6 * 3 + 0.8 * 4,
        "source_pixels": 15,
    }
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected, rel=1e-5)


def test_distances_in_the_reference_are_to_the_mean_of_the_others() -> None:
    images = tiny_export.pictures(np.random.default_rng(2), 12)
    probabilities, embeddings = outputs(images)
    found = drift.reference(images, probabilities, embeddings)["features"]["embedding_distance"]
    expected = [
        np.linalg.norm(embeddings[number] - np.delete(embeddings, number, axis=0).mean(axis=0)) for number in range(12)
    ]
    assert found == pytest.approx(sorted(expected), rel=1e-4)


def test_p_values_are_those_of_a_second_implementation() -> None:
    random = np.random.default_rng(3)
    reference = usual(40)
    values = {name: np.asarray(before)[:25] + 2.7 for name, before in reference["features"].items()}
    predicted = random.integers(0, 2, 25)
    found = {finding.feature: finding for finding in drift.compare(reference, values, predicted)}
    before, new = np.asarray(reference["features"]["brightness"]), values["brightness"]
    assert not np.isin(new.round(3), before.round(3)).any()  # of ties the formula knows nothing
    # Mann and Whitney's normal approximation, written out.
    above = (new[:, None] > before[None]).sum()
    deviation = np.sqrt(len(new) * len(before) * (len(new) + len(before) + 1) / 12)
    z = (abs(above - len(new) * len(before) / 2) - 0.5) / deviation
    assert found["brightness"].p_value == pytest.approx(2 * stats.norm.sf(z), rel=1e-6)
    assert found["brightness"].effect == pytest.approx(above / (len(new) * len(before)) - 0.5)
    # Fisher's test with each tail doubled.
    (old, count), total = (reference["predicted"][0], int((predicted == 0).sum())), reference["examples"]
    table = [[count, 25 - count], [old, total - old]]
    tails = [stats.fisher_exact(table, side)[1] for side in ("less", "greater")]
    assert found["class 0"].p_value == pytest.approx(min(1, 2 * min(tails)), rel=1e-6)


def test_what_came_without_a_size_says_nothing_of_sizes() -> None:
    images = tiny_export.pictures(np.random.default_rng(1), 90)
    sizes = np.random.default_rng(2).integers(500, 600, [90, 2]).astype(float)
    reference = drift.reference(images, *outputs(images), sizes)
    small = sizes / 20
    for known, alarm in ((0, False), (drift.EVERY - 1, False), (drift.EVERY, True)):
        given = np.where(np.arange(90)[:, None] < known, small, np.nan)
        values = drift.measure(reference, images, *outputs(images), given)
        found = drift.compare(reference, values, np.zeros(90, np.int64))
        assert [one.alarm for one in found if one.feature == "source_pixels"] == [alarm]


def test_blur_swapped_channels_light_and_other_classes_are_flagged() -> None:
    reference = usual()
    random = np.random.default_rng(4)
    images = tiny_export.pictures(random, 400)
    assert flagged(images[:200], reference) == set()
    blurred = np.stack([Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)) for image in images[:200]])
    assert "sharpness" in flagged(blurred, reference)
    warm = tiny_export.pictures(random, 400)
    warm = warm[warm[..., 0].mean(axis=(1, 2)) > warm[..., 2].mean(axis=(1, 2))]  # as most photos are
    of_warm = json.loads(json.dumps(drift.reference(warm[:90], *outputs(warm[:90]))))
    assert flagged(warm[90:], of_warm) == set()
    assert "red_minus_blue" in flagged(warm[90:, ..., ::-1], of_warm)
    assert "brightness" in flagged(tiny_export.pictures(random, 200, shift=40), reference)
    green = images[outputs(images)[0].argmax(axis=1) == 1]
    assert "class 1" in flagged(green[:100], reference)


def test_clean_runs_are_not_flagged() -> None:
    random = np.random.default_rng(5)
    images, reference = tiny_export.pictures(random, 1500), usual(60)
    alarms = [flagged(images[random.choice(1500, 200, replace=False)], reference) for _ in range(50)]
    assert sum(map(bool, alarms)) == 0


def test_constant_features_and_few_examples_give_no_alarm() -> None:
    images = np.full((60, 8, 8, 3), 7, np.uint8)
    reference = drift.reference(images, *outputs(images), sizes=np.full((60, 2), 8))
    assert flagged(images, reference) == set()
    with pytest.raises(ValueError, match="2 or more"):
        drift.reference(images[:1], *outputs(images[:1]))


def rows(images: npt.NDArray[np.uint8]) -> list[Row]:
    probabilities, embeddings = outputs(images)
    return [Row(p, p, e) for p, e in zip(probabilities, embeddings, strict=True)]


def test_a_window_slides_and_an_image_sent_again_is_no_evidence(caplog: pytest.LogCaptureFixture) -> None:
    watching = monitor.Monitor(usual(), tiny_export.CLASSES)
    random = np.random.default_rng(6)

    def send(images: npt.NDArray[np.uint8]) -> list[list[str] | None]:
        found = []
        for start in range(0, len(images), 10):
            batch = images[start : start + 10]
            looked = watching.add(batch, rows(batch), [(8, 8)] * len(batch))
            found.append(looked and [finding.feature for finding in looked if finding.alarm])
        return found

    dark = tiny_export.pictures(random, 1, shift=-40)
    assert send(np.repeat(dark, 200, axis=0)) == [None] * 20
    looks = send(tiny_export.pictures(random, 99))
    assert [number for number, look in enumerate(looks) if look is not None] == [4, 9]  # 49 and one, then 50
    assert looks[4] == looks[9] == []
    assert "brightness" in (send(tiny_export.pictures(random, 200, shift=40))[-1] or ())
    assert "brightness of the last 200 images is not the reference's" in caplog.text
    assert send(tiny_export.pictures(random, 200))[-1] == []
    assert "brightness of the last 200 images is as the reference's again" in caplog.text
