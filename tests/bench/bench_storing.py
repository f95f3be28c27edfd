"""Trashnet in, one row per way of storing it out: bytes, CPU to prepare and to train from, and the accuracy it costs.

Accuracy is that of a linear probe on frozen ImageNet features, 5-fold, the same folds for all rows, beside its paired
standard error over images. This is what the defaults of --shorter_side, --jpeg_quality and --chroma were chosen from.
"""

from __future__ import annotations

import io
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from tests.bench import data, measure

# Shorter side, quality, chroma; trashnet's own is 384, so that 384 only encodes again.
VARIANTS = ((384, 90, "4:2:0"), (320, 95, "4:4:4"), (256, 95, "4:4:4"), (256, 90, "4:2:0"), (256, 75, "4:2:0"))
_SIDE = 224
_SEEDS = 3
_PENALTY = 0.01  # inverse strength; 1,280 features of 800 images need a strong one


def storing(archives: pathlib.Path, every: int) -> str:
    """One of `every` images is taken; 1 takes all.

    Raises:
      FileNotFoundError: without trashnet, or the weights in the folder `weights` beside `archives`.
    """
    weights = archives.parent / "weights/mobilenet_v2_1.0_no_top.weights.h5"
    if not weights.exists():
        raise FileNotFoundError(f"no {weights}")
    folder = data.unpacked("trashnet", archives)
    names = data.files(folder)[::every]
    originals = [(folder / name).read_bytes() for name in names]
    labels = np.array([name.partition("/")[0] for name in names])
    features = _extractor(str(weights))
    baseline = _correct(features(originals), labels)
    rows = [["stored as", "KB per image", "prepare CPU-s per 1,000", "train CPU-s per 1,000", "accuracy", "lost"]]
    rows.append(_row("originals", originals, 0.0, baseline, baseline))
    for side, quality, chroma in VARIANTS:
        before = time.process_time()
        stored = [_stored(source, side, quality, chroma) for source in originals]
        prepare_s = time.process_time() - before
        correct = _correct(features(stored), labels)
        rows.append(_row(f"{side}, quality {quality}, {chroma}", stored, prepare_s, correct, baseline))
    return f"### Storing trashnet: {len(names):,} images\n\n{measure.table(rows)}"


def _row(name: str, stored: Sequence[bytes], prepare_s: float, correct: np.ndarray, baseline: np.ndarray) -> list[str]:
    count = len(stored)
    lost = baseline - correct
    error = lost.std() / count**0.5
    return [
        name,
        f"{sum(map(len, stored)) / count / 1000:.1f}",
        f"{prepare_s / count * 1000:.2f}",
        f"{_train_cpu_s(stored) / count * 1000:.2f}",
        f"{correct.mean():.1%}",
        f"{100 * lost.mean():.1f} ± {100 * error:.1f}",
    ]


def _stored(source: bytes, side: int, quality: int, chroma: str) -> bytes:
    image = Image.open(io.BytesIO(source))
    scale = min(1.0, side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image.draft("RGB", size)
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=quality, subsampling=chroma)
    return buffer.getvalue()


def _train_cpu_s(stored: Sequence[bytes]) -> float:
    """Of decoding and cropping everything once as training does, in one thread; the median of three."""
    import tensorflow as tf

    from pipeline import decode

    def crop(index: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([index, tf.zeros_like(index)])
        image = decode.decode(encoded)
        return decode.random_resized_crop(image, image_size=_SIDE, area=(0.08, 1.0), seed=seed, flip=True)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    images = tf.data.Dataset.from_tensor_slices(list(stored)).enumerate().map(crop).with_options(options)
    spent = []
    for _ in range(4):  # the first one warms up
        before = time.process_time()
        for _ in images:
            pass
        spent.append(time.process_time() - before)
    return float(np.median(spent[1:]))


def _extractor(weights: str) -> Callable[[Sequence[bytes]], np.ndarray]:
    import keras
    import tensorflow as tf

    from pipeline import decode

    model = keras.applications.MobileNetV2(
        include_top=False, weights=weights, input_shape=(_SIDE, _SIDE, 3), pooling="avg"
    )

    def central(encoded: tf.Tensor) -> tf.Tensor:
        return decode.central_crop(decode.decode(encoded), image_size=_SIDE, crop_fraction=0.875)

    @tf.function(input_signature=[tf.TensorSpec([None, _SIDE, _SIDE, 3], tf.uint8)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return model(tf.cast(images, tf.float32) / 127.5 - 1, training=False)

    def features(stored: Sequence[bytes]) -> np.ndarray:
        batches = tf.data.Dataset.from_tensor_slices(list(stored)).map(central).batch(64)
        return np.concatenate([forward(images).numpy() for images in batches])

    return features


def _correct(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each image was classified rightly while it was held out, 0 to 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(labels))
    for seed in range(_SEEDS):
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(features, labels):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=300))
            probe.fit(features[train], labels[train])
            right[test] += probe.predict(features[test]) == labels[test]
    return right / _SEEDS
