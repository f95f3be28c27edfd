"""Crops and resizes against Pillow, NumPy and arithmetic, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import decode

RNG = np.random.default_rng(0)
# Colour at full, half and quarter resolution; the third is 4:2:2 turned on its side, which Pillow does not write.
CHROMA = ("4:4:4", "4:2:2", "4:4:0", "4:2:0")


def _smooth(height: int, width: int) -> np.ndarray:
    """Two gradients and a wave: resampling differences stay small, misplacement shows."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * y / max(1, height - 1), 255 * x / max(1, width - 1), 127.5 + 127.5 * np.sin((x + y) / 20)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _encoded(pixels: np.ndarray, file_format: str = "JPEG", *, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def _jpeg(height: int, width: int, chroma: str, *, progressive: bool = False) -> bytes:
    """A JPEG with colours that change at every pixel."""
    if chroma == "4:4:0":
        return _turned_sampling(_jpeg(-(-height // 16) * 8, -(-width // 8) * 16, "4:2:2"))
    pixels = RNG.integers(0, 256, [height, width, 3], dtype=np.uint8)
    return _encoded(pixels, quality=90, subsampling=chroma, progressive=progressive)


def _turned_sampling(jpeg: bytes) -> bytes:
    """Reads the blocks of a 4:2:2 file as a 4:4:0 picture, twice as high and half as wide.

    Both have two blocks of brightness beside one of each colour. The frame header: ITU-T T.81, B.2.2.
    """
    data = bytearray(jpeg)
    frame = data.index(b"\xff\xc0")
    height, width = (int.from_bytes(data[frame + at : frame + at + 2], "big") for at in (5, 7))
    data[frame + 5 : frame + 9] = (2 * height).to_bytes(2, "big") + (width // 2).to_bytes(2, "big")
    assert data[frame + 11] == 0x21
    data[frame + 11] = 0x12
    return bytes(data)


def _mapped(function: Callable[..., tf.Tensor], *elements: object) -> np.ndarray:
    """`function` of one element, traced inside Dataset.map; images with unknown height and width."""
    tensors = [tf.constant(element) for element in elements]
    specs = tuple(tf.TensorSpec([None, None, 3] if t.shape.rank == 3 else t.shape, t.dtype) for t in tensors)
    dataset = tf.data.Dataset.from_generator(lambda: iter([tuple(tensors)]), output_signature=specs).map(function)
    assert dataset.element_spec.shape.rank == 3
    return next(iter(dataset)).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{"file_format": "PNG"}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}])
def test_decode_gives_pillows_pixels_in_three_channels(options: dict[str, str], mode: str) -> None:
    source = _encoded(_smooth(41, 61), mode=mode, **options)
    expected = np.asarray(Image.open(io.BytesIO(source)).convert("RGB"))
    found = decode.decode(tf.constant(source)).numpy()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(_mapped(decode.decode, source), expected)


def _both(size: int) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """Of (encoded, seed), both crops twice: from the bytes and from the pixels."""

    def crops(encoded: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        training = {"image_size": size, "area": (0.01, 1.0), "seed": seed, "flip": True}
        judging = {"image_size": size, "crop_fraction": 0.875}
        pixels = decode.decode(encoded)
        return (
            decode.random_resized_crop_encoded(encoded, **training),
            decode.random_resized_crop(pixels, **training),
            decode.central_crop_encoded(encoded, **judging),
            decode.central_crop(pixels, **judging),
        )

    return crops


@pytest.mark.parametrize("kind", [*CHROMA, "progressive", "gray", "PNG"])
def test_the_crop_of_bytes_is_the_crop_of_pixels(kind: str) -> None:
    """200 random boxes of images of 1 to 70 pixels a side: the border of a cut is where decoders differ."""

    def source(index: int) -> bytes:
        height, width = RNG.integers(1, (6, 20, 70)[index % 3] + 1, size=2)
        if kind in CHROMA:
            return _jpeg(height, width, kind)
        if kind == "progressive":
            return _jpeg(height, width, "4:2:0", progressive=True)
        pixels = RNG.integers(0, 256, [height, width, 3], dtype=np.uint8)
        return _encoded(pixels, "PNG") if kind == "PNG" else _encoded(pixels, mode="L")

    sources = [source(index) for index in range(200)]
    seeds = np.stack([np.full(200, 5), np.arange(200)], axis=1)
    for found in tf.data.Dataset.from_tensor_slices((sources, seeds)).map(_both(24)):
        random_of_bytes, random_of_pixels, central_of_bytes, central_of_pixels = (image.numpy() for image in found)
        np.testing.assert_array_equal(random_of_bytes, random_of_pixels)
        np.testing.assert_array_equal(central_of_bytes, central_of_pixels)
    eager = [image.numpy() for image in _both(24)(tf.constant(sources[-1]), tf.constant(seeds[-1]))]
    for image, mapped in zip(eager, found, strict=True):
        np.testing.assert_array_equal(image, mapped)


@pytest.mark.parametrize("chroma", ["4:2:0", "4:2:2"])
@pytest.mark.parametrize("width", [4, 5, 6, 33])
def test_every_cut_is_exact_and_holds_what_was_asked(width: int, chroma: str) -> None:
    """All pairs of columns; narrow pieces too, in which libjpeg does not interpolate colour."""
    source = tf.constant(_jpeg(17, width, chroma))
    whole = decode.decode(source).numpy()
    for left in range(width):
        for right in range(left + 1, width + 1):
            begin, end, shape = tf.constant([3, left]), tf.constant([9, right]), tf.constant([17, width])
            box = decode.where_cuts_agree(begin, end, shape)
            top, first, height, columns = box.numpy()
            cut = tf.io.decode_and_crop_jpeg(source, box, channels=3, dct_method="INTEGER_ACCURATE").numpy()
            np.testing.assert_array_equal(cut, whole[top : top + height, first : first + columns])
            assert first <= left < right <= first + columns
            assert columns <= max(right - left + 2, 6)


def _bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Two neighbours on each axis, weighted by their distance to the output pixel's centre."""
    for axis in (0, 1):
        side = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, side - 1)
        weight = np.expand_dims(at - low, tuple({0, 1, 2} - {axis}))
        image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
    return image


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("height", "width", "box"),  # a side of 0.875 times the shorter one: left, top, right and bottom
    [(320, 200, (12, 72, 187, 247)), (200, 320, (72, 12, 247, 187)), (40, 32, (2, 6, 30, 34)), (1, 1, (0, 0, 1, 1))],
)
def test_central_crop_resizes_the_square_in_the_middle(
    height: int, width: int, box: tuple[int, int, int, int], file_format: str
) -> None:
    source = _encoded(RNG.integers(0, 256, [height, width, 3], dtype=np.uint8), file_format)
    square = np.asarray(Image.open(io.BytesIO(source)).convert("RGB").crop(box), float)

    def crop(encoded: tf.Tensor) -> tf.Tensor:
        return decode.central_crop_encoded(encoded, image_size=80, crop_fraction=0.875)

    found = crop(tf.constant(source)).numpy()
    assert np.abs(found - _bilinear(square, 80)).max() <= 0.501
    np.testing.assert_array_equal(_mapped(crop, source), found)


def test_training_and_evaluation_resample_alike() -> None:
    """Noise, enlarged and shrunk eight times: antialiasing one of them would be far off."""
    for side in (20, 256):
        noise = tf.constant(RNG.integers(0, 256, [side, side, 3], dtype=np.uint8))
        seed = tf.constant([0, 0], tf.int64)
        trained = decode.random_resized_crop(noise, image_size=32, area=(1.0, 1.0), seed=seed, flip=False)
        judged = decode.central_crop(noise, image_size=32, crop_fraction=1.0)
        np.testing.assert_array_equal(trained.numpy(), judged.numpy())


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000), (3000, 40)])
def test_a_thin_image_takes_no_more_memory_than_its_middle(shape: tuple[int, int]) -> None:
    """Enlarged whole, the first would be 3.6 million pixels high and 37 wide: more than 1 GB as float32."""
    image = np.zeros([*shape, 3], np.uint8)
    middle = [slice(max(0, side // 2 - 60), side // 2 + 60) for side in shape]
    image[middle[0], middle[1]] = 200
    found = decode.central_crop(tf.constant(image), image_size=32, crop_fraction=0.875).numpy()
    assert (found == 200).all()


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 32), (90, 70, 32), (24, 31, 48), (1, 1, 32)])
def test_a_random_crop_of_everything_is_a_plain_bilinear_resize(height: int, width: int, size: int) -> None:
    image = RNG.integers(0, 256, [height, width, 3], dtype=np.uint8)
    found = decode.random_resized_crop(
        tf.constant(image), image_size=size, area=(1.0, 1.0), seed=tf.constant([1, 2], tf.int64), flip=False
    ).numpy()
    assert np.abs(found - _bilinear(image.astype(float), size)).max() <= 0.501


def test_random_crop_repeats_with_its_seed_and_varies_without() -> None:
    source = _encoded(_smooth(90, 120), quality=100, subsampling="4:4:4")

    def crop(index: int, encoded: tf.Tensor = source) -> tf.Tensor:
        seed = tf.stack([tf.constant(3, tf.int64), tf.cast(index, tf.int64)])
        return decode.random_resized_crop_encoded(encoded, image_size=32, area=(0.1, 0.5), seed=seed, flip=True)

    crops = [image.numpy() for image in tf.data.Dataset.range(256).map(crop)]
    for index in (0, 5):
        np.testing.assert_array_equal(crop(index).numpy(), crops[index])
    assert len({crop.tobytes() for crop in crops}) == 256
    # Red is a ramp down the image, green one to the right: their spans are the box's height and width.
    heights = np.array([np.ptp(crop[..., 0].astype(int)) / 255 for crop in crops])
    widths = np.array([np.ptp(crop[..., 1].astype(int)) / 255 for crop in crops])
    areas = heights * widths
    assert 0.05 < areas.min() < 0.15
    assert 0.4 < areas.max() < 0.55
    ratios = widths * 120 / (heights * 90)
    assert 0.68 < ratios.min() < 0.85
    assert 1.18 < ratios.max() < 1.45
    centres = [crop[..., channel].mean() / 255 for crop in crops for channel in (0, 1)]
    assert 0.46 < np.mean(centres) < 0.54
    mirrored = np.array([crop[0, 0, 1] > crop[0, -1, 1] for crop in crops])
    assert 96 <= mirrored.sum() <= 160  # 256 fair coins stay inside with probability 0.9999
    # A coin drawn from the box's own numbers would mirror the small ones alone.
    large = areas > np.median(areas)
    assert 40 <= mirrored[large].sum() <= 88


def test_flip_mirrors_the_same_crop() -> None:
    image = tf.constant(RNG.integers(0, 256, [40, 50, 3], dtype=np.uint8))

    def crop(index: int, *, flip: bool) -> np.ndarray:
        seed = tf.constant([0, index], tf.int64)
        return decode.random_resized_crop(image, image_size=32, area=(0.1, 1.0), seed=seed, flip=flip).numpy()

    kept = mirrored = 0
    for index in range(32):
        without, with_flip = crop(index, flip=False), crop(index, flip=True)
        kept += np.array_equal(with_flip, without)
        mirrored += np.array_equal(with_flip, without[:, ::-1])
    assert kept + mirrored == 32
    assert min(kept, mirrored) >= 5


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_bytes_that_are_no_complete_image_stop(file_format: str) -> None:
    whole = _encoded(_smooth(64, 64), file_format)
    judging = {"image_size": 32, "crop_fraction": 1.0}
    training = {"image_size": 32, "area": (1.0, 1.0), "seed": tf.constant([0, 0], tf.int64), "flip": False}
    for damaged in (b"", b"GIF89a", whole[:30], whole[: len(whole) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode.decode(tf.constant(damaged))
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode.central_crop_encoded(tf.constant(damaged), **judging)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode.random_resized_crop_encoded(tf.constant(damaged), **training)


def test_an_image_without_pixels_stops() -> None:
    empty = tf.zeros([0, 7, 3], tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.random_resized_crop(
            empty, image_size=32, area=(0.1, 1.0), seed=tf.constant([0, 0], tf.int64), flip=False
        )
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.central_crop(empty, image_size=32, crop_fraction=1.0)
