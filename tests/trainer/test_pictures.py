"""Pictures are looked at by people; here only that the right pixels and words stand where they should."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.text import Text
from PIL import Image

from trainer import pictures, report


def _pixels(picture: pictures.Picture) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.size == (picture.width_px, picture.height_px)
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("classes", "numbers"), [(50, True), (51, False)])
def test_cells_of_up_to_fifty_classes_say_their_share_of_the_row(classes: int, numbers: bool) -> None:
    counts = np.zeros([classes, classes], np.int64)
    counts[0, :3] = [300, 99, 1]  # 75 %, 24.75 %, 0.25 %
    counts[1, 1] = 7  # a small class is as dark as a large one
    figure = report.matrix_figure(counts, [f"c{index}" for index in range(classes)], percent=True)
    axes = figure.axes[0]
    expected = {("75", 0, 0), ("25", 0, 1), ("<1", 0, 2), ("100", 1, 1)} if numbers else set()
    assert {(text.get_text(), text.get_position()[1], text.get_position()[0]) for text in axes.texts} == expected
    shares = np.asarray(axes.images[0].get_array())
    assert shares[0, :3] == pytest.approx([0.75, 0.2475, 0.0025])
    assert shares[1, 1] == 1
    assert shares[2].sum() == 0  # a class without examples


def test_the_confusion_picture_has_a_title() -> None:
    counts = np.diag([3, 2, 1])
    with_title, without = (pictures.confusion(counts, "abc", title=title) for title in ("step 7", ""))
    _pixels(with_title)
    assert with_title.png != without.png


@pytest.mark.parametrize(("size", "shown"), [(32, 160), (160, 160), (224, 224)])
def test_samples_are_shown_pixel_by_pixel(size: int, shown: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, [5, size, size, 3], np.uint8)
    pixels = _pixels(pictures.samples(images, np.array([0, 1, 2, 1, 0]), ["a", "b", "c"]))
    enlarged = images.repeat(shown // size, axis=1).repeat(shown // size, axis=2)
    for index, expected in enumerate(enlarged):
        top, left = 20 + index // 3 * (shown + 28), 8 + index % 3 * (shown + 8)
        np.testing.assert_array_equal(pixels[top : top + shown, left : left + shown], expected)
        caption = pixels[top - 16 : top - 2, left : left + shown]
        assert (caption < 128).any(), "nothing written above"


def test_a_large_sheet_is_scaled_down() -> None:
    picture = pictures.samples(np.zeros([100, 300, 300, 3], np.uint8), np.zeros([100], np.int64), ["a"])
    assert 1600 <= picture.width_px < 1700


def test_mixed_labels_say_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self.get_text()), draw(self, renderer)))
    labels = np.array([[0.7, 0.3, 0], [0, 0, 1]], np.float32)
    pictures.samples(np.zeros([2, 224, 224, 3], np.uint8), labels, ["cat", "dog", "$x_1$"])
    assert drawn == ["cat 70%, dog 30%", "$x_1$"]
