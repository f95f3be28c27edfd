"""Real photos of leaves, four of them in one picture: the heat lies on the one whose class is asked for."""

from __future__ import annotations

import io
import pathlib
import tarfile
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression

from tests.trainer.explanation import objects
from trainer import model
from trainer.explanation.grad_cam import grad_cam
from trainer.explanation.occlusion import occlusion

pytestmark = pytest.mark.soak
SIZE, HALF = 160, 80
CLASSES = ("cordana", "healthy", "pestalotiopsis", "sigatoka")
SETTINGS = {
    "backbone": "mobilenetv2",
    "num_classes": 4,
    "image_size": SIZE,
    "width": None,
    "head": "linear",
    "dropout": None,
    "drop_path": None,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}


class Leaves(NamedTuple):
    net: keras.Model
    photos: npt.NDArray[np.uint8]  # [classes, 10, size, size, 3], not trained on, and the surest


@pytest.fixture(scope="module")
def leaves(shared: pathlib.Path) -> Leaves:
    """ImageNet's backbone and a head that is fitted to every second photo."""
    photos, labels = [], []
    with tarfile.open(shared / "data/banana-leaf.tar") as archive:
        for member in archive:
            data = archive.extractfile(member)
            if data is not None and member.name.endswith("jpeg"):
                with Image.open(io.BytesIO(data.read())) as opened:
                    photos.append(np.asarray(opened.convert("RGB").resize((SIZE, SIZE))))
                labels.append(CLASSES.index(member.name.split("/")[-2]))
    images, truth = np.stack(photos), np.array(labels)
    net = model.build(**SETTINGS, weights=str(shared / "weights/mobilenet_v2_1.0_no_top.weights.h5"))
    pooled = keras.Model(net.input, net.get_layer("pool").output).predict(images, verbose=0)
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(pooled[::2], truth[::2])
    assert fitted.score(pooled[1::2], truth[1::2]) > 0.9
    net.get_layer("head").set_weights([fitted.coef_.T, fitted.intercept_])
    sure = fitted.predict_proba(pooled)
    chosen = [[i for i in np.argsort(-sure[:, label]) if truth[i] == label and i % 2][:10] for label in range(4)]
    return Leaves(net, images[np.array(chosen)])


def _quarter(number: int) -> tuple[slice, slice]:
    top, left = number // 2 * HALF, number % 2 * HALF
    return slice(top, top + HALF), slice(left, left + HALF)


def _small(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photo).resize((HALF, HALF)))


def _share(heat: npt.NDArray[np.float32], quarter: int) -> float:
    """Of all heat, what lies in a quarter."""
    side = len(heat) // 2
    top, left = quarter // 2 * side, quarter % 2 * side
    return float(heat[top : top + side, left : left + side].sum() / max(heat.sum(), 1e-9))


def test_heat_lies_on_the_photo_of_its_class_among_four(leaves: Leaves) -> None:
    """The grid pointing game (https://arxiv.org/abs/2104.00032, section 3.1); a quarter of the heat is chance."""
    generator = np.random.default_rng(0)
    pictures, asked, quarters = [], [], []
    for number in range(10):
        picture = np.zeros([SIZE, SIZE, 3], np.uint8)
        order = generator.permutation(4)
        for quarter, label in enumerate(order):
            picture[_quarter(quarter)] = _small(leaves.photos[label, number])
        pictures += [picture] * 4
        asked += order.tolist()
        quarters += range(4)
    for maps in (grad_cam(leaves.net, np.stack(pictures), asked).numpy(), occlusion(leaves.net, pictures, asked)):
        shares = np.array(list(map(_share, maps, quarters)))
        print(f"{shares.mean():.3f} of the heat in the right quarter, most of it in {np.mean(shares > 0.5):.0%}")
        assert np.mean(shares) > 0.4


def test_heat_follows_a_leaf_that_is_moved(leaves: Leaves) -> None:
    """Over a blurred photo of another class, in each corner."""
    shares = []
    for label in range(4):
        behind = Image.fromarray(leaves.photos[label - 1, 9]).filter(ImageFilter.GaussianBlur(SIZE // 6))
        for photo in leaves.photos[label, :4]:
            pictures = np.repeat(np.asarray(behind)[np.newaxis], 4, axis=0)
            for quarter in range(4):
                pictures[quarter][_quarter(quarter)] = _small(photo)
            shares.append(
                [_share(heat, q) for q, heat in enumerate(grad_cam(leaves.net, pictures, [label] * 4).numpy())]
            )
    print(f"{np.mean(shares):.3f} of the heat on the leaf, by corner {np.mean(shares, axis=0).round(3)}")
    assert np.mean(shares) > 0.45
    assert np.mean(shares, axis=0).min() > 0.35


def test_random_weights_see_something_else(leaves: Leaves) -> None:
    """From the head down, a block at a time (https://arxiv.org/abs/1810.03292, section 3.1)."""
    photos = leaves.photos[:, :4].reshape(-1, SIZE, SIZE, 3)
    asked = np.repeat(np.arange(4), 4)
    keras.utils.set_random_seed(0)
    other = model.build(**SETTINGS, weights="none")
    fresh = model.build(**SETTINGS, weights="none")
    other.set_weights(leaves.net.get_weights())
    trained = grad_cam(leaves.net, photos, asked).numpy()

    def correlation() -> float:
        maps = grad_cam(other, tf.constant(photos), asked).numpy()
        found = [objects.rank_correlation(*pair) for pair in zip(trained, maps, strict=True) if pair[1].any()]
        return float(np.mean([*found, *[0.0] * (len(maps) - len(found))]))

    assert correlation() > 0.999
    found = {}
    for block, (own, random) in enumerate(list(zip(model.blocks(other), model.blocks(fresh), strict=True))[::-1]):
        for variable, value in zip(own, random, strict=True):
            variable.assign(value)
        found[block] = round(correlation(), 3)
    print(f"rank correlation by blocks that are random: {found}")
    assert max(map(abs, found.values())) < 0.5
