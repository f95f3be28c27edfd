"""Hashes and the search: transforms by hand, planted near-duplicates, and buckets in which all look alike."""

from __future__ import annotations

import collections
import hashlib
import io
import pathlib
import pickle
from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from preprocess import candidates, near_duplicates, similarity
from preprocess.near_duplicates import NearDuplicates
from tests.preprocess.near_duplicates import KINDS, hashed, made_photos, plant, preview, real_photos

Hashed = tuple[bytes, int]


def search(images: Sequence[Hashed], folder: pathlib.Path) -> list[tuple[int, int]]:
    """The real pipeline's edges, as pairs of indices."""
    nodes = [hashlib.sha256(str(index).encode()).digest()[:16] for index in range(len(images))]
    elements = [(node, *image) for node, image in zip(nodes, images, strict=True)]
    file = folder / "edges"
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create([elements[start : start + 64] for start in range(0, len(elements), 64)])
            | NearDuplicates()
            | beam.combiners.ToList()
            | beam.Map(lambda found: file.write_bytes(pickle.dumps(found)))
        )
    edges = [edge for some in pickle.loads(file.read_bytes()) for edge in some]
    assert all(one < other for one, other in edges)
    index = {node: place for place, node in enumerate(nodes)}
    return [(index[one], index[other]) for one, other in edges]


def groups(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest index of each one's component."""
    label = list(range(count))
    for one, other in edges:
        old, new = max(label[one], label[other]), min(label[one], label[other])
        label = [new if each == old else each for each in label]
    return label


def measure(photos: list[bytes], count: int, folder: pathlib.Path) -> tuple[dict[str, float], list[tuple[int, int]]]:
    """Recall by kind of planted copies (and "all"), and the pairs in one group that nobody planted."""
    copies = plant(photos, count, seed=11)
    images = [hashed(data) for data in [*photos, *(copy.jpeg for copy in copies)]]
    label = groups(len(images), search(images, folder))
    found: dict[str, list[bool]] = collections.defaultdict(list)
    for place, copy in enumerate(copies):
        hit = label[copy.original] == label[len(photos) + place]
        found[copy.kind].append(hit)
        found["all"].append(hit)
    picture = [*range(len(photos)), *(copy.original for copy in copies)]
    members: dict[int, set[int]] = collections.defaultdict(set)
    for image, group in enumerate(label):
        members[group].add(picture[image])
    others = [(a, b) for group in members.values() for a in group for b in group if a < b]
    return {kind: float(np.mean(hits)) for kind, hits in found.items()}, others


def test_eight_ways_of_a_hash_are_those_of_the_turned_picture() -> None:
    (photo,) = made_photos(1, seed=1)
    pixels = np.asarray(Image.open(io.BytesIO(photo)).resize((64, 64)))
    features = similarity.unpack(np.frombuffer(similarity.perceptual_hash(pixels)[0], np.uint8)[None])
    for way in range(8):
        turned = pixels.transpose(1, 0, 2) if way >= 4 else pixels
        turned = turned[:, ::-1] if way % 2 else turned
        turned = turned[::-1] if way // 2 % 2 else turned
        expected = similarity.unpack(
            np.frombuffer(similarity.perceptual_hash(np.ascontiguousarray(turned))[0], np.uint8)[None]
        )
        assert np.mean(similarity.oriented(features, np.array([way])) == expected) > 0.99


def test_coefficients_are_those_of_scipys_cosine_transform() -> None:
    fft = pytest.importorskip("scipy.fft")
    grey = np.random.default_rng(3).integers(0, 256, (64, 64), np.uint8)
    code, _ = similarity.perceptual_hash(np.repeat(grey[:, :, None], 3, axis=2))
    expected = fft.dctn(grey.astype(float), norm="ortho")[:16, :16]
    features = similarity.unpack(np.frombuffer(code, np.uint8)[None]).reshape(16, 16)
    kept = features != 0
    assert kept.sum() == 170
    assert ((features > 0) == (expected > 0))[kept].all()
    assert np.corrcoef(features[kept], (expected * np.hypot(*np.indices((16, 16))))[kept])[0, 1] > 0.95


@pytest.mark.parametrize("crop", [(0, 0, 0, 0), (10, 0, 0, 8), (0, 8, 10, 0), (9, 7, 9, 7)])
def test_a_crop_of_up_to_5_percent_is_undone(crop: tuple[int, int, int, int]) -> None:
    for photo in made_photos(5, seed=2):
        image = Image.open(io.BytesIO(photo))
        left, top, right, bottom = crop
        part = image.crop((left, top, image.width - right, image.height - bottom))
        (one, _), (other, _) = (similarity.perceptual_hash(np.asarray(picture)) for picture in (image, part))
        assert similarity.similar(one, other)
        assert similarity.similar(other, one)


def test_different_pictures_are_not_similar() -> None:
    codes = [hashed(photo)[0] for photo in made_photos(25, seed=4)]
    assert not any(similarity.similar(a, b) for place, a in enumerate(codes) for b in codes[:place])


def flat_previews() -> list[np.ndarray]:
    noise = np.random.default_rng(5).integers(-1, 2, (30, 80, 60, 3))
    plain = [np.full((80, 60, 3), 8 * level) for level in range(30)]  # whose hashes are all the same
    pages = [np.clip(8 * level + noise[level], 0, 255) for level in range(30)]
    ramp = [np.linspace(0, 8 * level, 80)[:, None, None] + np.zeros((80, 60, 3)) for level in range(1, 30)]
    return [image.astype(np.uint8) for image in [*plain, *pages, *ramp]]


def test_blank_pages_plain_colours_and_gradients_match_nothing(tmp_path: pathlib.Path) -> None:
    images = [similarity.perceptual_hash(image) for image in flat_previews()]
    assert max(texture for _, texture in images) < similarity.MIN_TEXTURE
    assert search(images, tmp_path) == []


def test_smallest_images_have_hashes_too() -> None:
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    for smallest in (pixels, pixels[:1, :1], pixels[:2]):
        code, texture = similarity.perceptual_hash(np.ascontiguousarray(smallest))
        assert len(code) == similarity.HASH_BYTES
        assert 0 <= texture <= 100


def test_keys_are_the_same_for_all_eight_ways() -> None:
    photos = np.frombuffer(b"".join(hashed(photo)[0] for photo in made_photos(40, seed=6)), np.uint8).reshape(-1, 64)
    features = similarity.unpack(photos)
    keys = near_duplicates.candidate_keys(features, bits=16) >> np.uint64(19)
    for way in range(1, 8):
        turned = near_duplicates.candidate_keys(similarity.oriented(features, np.full(40, way)), 16) >> np.uint64(19)
        assert np.mean([len(set(a) & set(b)) for a, b in zip(keys.tolist(), turned.tolist(), strict=True)]) > 30


def test_planted_copies_of_made_photos_are_found_and_nothing_else(tmp_path: pathlib.Path) -> None:
    recall, others = measure(made_photos(300, seed=7), 200, tmp_path)
    assert set(recall) == {*KINDS, "all"}
    assert recall["all"] >= 0.97
    assert others == []


def test_planted_copies_on_trashnet(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Objects on one plain background: the hard case for telling pictures apart."""
    photos = real_photos(shared / "data/trashnet.tar")
    names = [name.split("/")[-1] for name in photos]
    recall, others = measure(list(photos.values()), 200, tmp_path)
    assert recall["all"] >= 0.97
    assert all(recall[kind] == 1 for kind in KINDS if "cropped" not in kind)
    # Looked at: the first four are the same object, not moved between two photos.
    same = {("paper136.jpg", "paper148.jpg"), ("paper180.jpg", "paper284.jpg"), ("paper314.jpg", "paper53.jpg")}
    same |= {("metal11.jpg", "metal221.jpg")}
    wrong = {(names[a], names[b]) for a, b in others} - same
    assert 200 * recall["all"] / (200 * recall["all"] + len(wrong)) >= 0.99


def test_planted_copies_on_banana_leaf(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    photos = real_photos(shared / "data/banana-leaf.tar")
    recall, others = measure(list(photos.values()), 200, tmp_path)
    assert recall["all"] >= 0.89  # of three seeds this one finds least: 0.9, and 0.93 on average
    by_bytes: dict[bytes, list[int]] = collections.defaultdict(list)
    for place, data in enumerate(photos.values()):
        by_bytes[data].append(place)
    equal = {tuple(places) for places in by_bytes.values() if len(places) == 2}
    assert equal <= set(others)


def test_thousands_that_look_alike_cost_no_square_and_end_in_one_group(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A still camera: 3,000 frames that differ in noise only, searched in portions of 4,000 keys."""
    (photo,) = made_photos(1, seed=8)
    still = preview(photo).astype(int)
    noise = np.random.default_rng(9)
    frames = [
        similarity.perceptual_hash(np.clip(still + noise.integers(-6, 7, still.shape), 0, 255).astype(np.uint8))
        for _ in range(3000)
    ]
    assert len({code for code, _ in frames}) > 2000
    compared = 0
    correlation = similarity.correlation

    def counted(first: similarity.Floats, second: similarity.Floats) -> similarity.Floats:
        nonlocal compared
        compared += len(first)
        return correlation(first, second)

    monkeypatch.setattr(similarity, "correlation", counted)
    monkeypatch.setattr(near_duplicates, "_IMAGES_AT_ONCE", 256)
    monkeypatch.setattr(candidates, "_MOST_ROWS", 4000)
    edges = search(frames, tmp_path)
    assert set(groups(3000, edges)) == {0}
    assert compared < 60 * 3000  # all pairs would be 4,498,500
