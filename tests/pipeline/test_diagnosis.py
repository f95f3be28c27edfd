"""What a person reads when an iterator raised: the shard, the byte and the image, found after the fact."""

from __future__ import annotations

import hashlib
import pathlib

import pytest
import tensorflow as tf

from pipeline import decode, decoded, diagnosis, manifest, records, shards, training
from pipeline.errors import InputError
from tests.pipeline import shard_files

BROKEN = shard_files.image(8)[:-40]  # its header is fine


def reading(root: pathlib.Path, made: manifest.Manifest) -> tuple[shards.Opener, tf.data.Dataset]:
    """A reader as training has one: open, parse, decode."""
    opener = shards.Opener(str(root), made.split("train").shards, cache_dir=None, cache_bytes=None)

    def records_of(index: tf.Tensor) -> tf.data.Dataset:
        path = tf.numpy_function(lambda i: opener.open(i).encode(), [index], tf.string)
        return tf.data.TFRecordDataset(tf.ensure_shape(path, []))

    numbers = tf.data.Dataset.range(len(made.split("train").shards))
    return opener, numbers.flat_map(records_of).map(lambda example: decode.decode(records.parse(example)["image"]))


def raised(examples: tf.data.Dataset) -> tf.errors.OpError:
    with pytest.raises(tf.errors.OpError) as caught:
        list(examples)
    return caught.value


def test_an_image_that_does_not_decode(tmp_path: pathlib.Path) -> None:
    lists = [[shard_files.record(0)], [shard_files.record(1), shard_files.record(8, BROKEN), shard_files.record(2)]]
    made = shard_files.write(tmp_path, {"train": lists})
    opener, examples = reading(tmp_path, made)
    error = raised(examples)
    assert opener.failure is None  # the bytes are those of the manifest
    found = diagnosis.explain(error, opener=opener)
    assert isinstance(found, InputError)
    start = 16 + len(records.serialize(lists[1][0]))
    image_id = hashlib.sha256(BROKEN).hexdigest()
    path = tmp_path / "tiny-train.tfrecord-00001-of-00002"
    assert f"image cat/0008.jpg (id {image_id}) in shard {path}, record at byte {start:,}, can't be decoded" in str(
        found
    )
    assert "\n" not in str(found)


def test_a_record_that_is_no_example(tmp_path: pathlib.Path) -> None:
    made = shard_files.write(tmp_path, {"train": [[shard_files.record(0)]]})
    opener, _ = reading(tmp_path, made)
    path = pathlib.Path(opener.open(0))
    with path.open("wb") as stream:
        records.write_framed(stream, b"\xff\xff")
    found = diagnosis.explain(tf.errors.InvalidArgumentError(None, None, "parse"), opener=opener)
    assert "image unknown (id unknown) in shard" in str(found)


def test_damage_that_came_after_the_shard_was_opened(tmp_path: pathlib.Path) -> None:
    made = shard_files.small(tmp_path, shards=2, examples=3)
    opener, examples = reading(tmp_path, made)
    paths = [pathlib.Path(opener.open(number)) for number in range(2)]
    second = 16 + len(records.serialize(shard_files.record(0)))
    data = bytearray(paths[0].read_bytes())
    data[second + 20] ^= 1
    paths[0].write_bytes(data)
    error = raised(tf.data.TFRecordDataset([str(path) for path in paths]))
    assert isinstance(error, tf.errors.DataLossError)
    found = diagnosis.explain(error, opener=opener)
    assert isinstance(found, InputError)
    assert f"shard {paths[0]} is damaged: the checksum of the record at byte {second:,} is wrong" in str(found)
    raised(examples)  # opening it again compares it with the manifest
    assert "SHA-256" in str(diagnosis.explain(error, opener=opener))


def test_a_shard_cut_on_a_record_boundary_after_it_was_opened(tmp_path: pathlib.Path) -> None:
    made = shard_files.small(tmp_path, shards=1, examples=3)
    opener, _ = reading(tmp_path, made)
    path = pathlib.Path(opener.open(0))
    path.write_bytes(path.read_bytes()[: 16 + len(records.serialize(shard_files.record(0)))])
    found = diagnosis.explain(tf.errors.InvalidArgumentError(None, None, "cardinality"), opener=opener)
    assert f"shard {path} holds 1 records, expected 3" in str(found)
    path.unlink()
    found = diagnosis.explain(tf.errors.NotFoundError(None, None, "gone"), opener=opener)
    assert f"shard {path} can't be read any more" in str(found)


def test_a_damaged_decoded_file(tmp_path: pathlib.Path) -> None:
    made = shard_files.small(tmp_path / "data", shards=1, examples=3)
    opener = shards.Opener(
        str(tmp_path / "data"),
        made.split("train").shards,
        cache_dir=str(tmp_path / "c"),
        cache_bytes=None,
        decoded=True,
    )
    path = pathlib.Path(opener.open(0))
    elements = list(decoded.index(tf.constant(str(path))))
    error = tf.errors.DataLossError(None, None, "corrupted record")
    assert diagnosis.explain(error, opener=opener) is error
    data = bytearray(path.read_bytes())
    data[int(elements[1]["where"][0]) + 50] ^= 1
    path.write_bytes(data)
    found = diagnosis.explain(error, opener=opener)
    assert f"shard tiny-train.tfrecord-00000-of-00001 ({path}) is damaged" in str(found)
    assert f"at byte {int(elements[1]['where'][0]):,} is wrong" in str(found)
    assert f"delete {path}, it is made again" in str(found)
    opener.close()


def test_where_nothing_is_wrong_the_error_stays_what_it_is(tmp_path: pathlib.Path) -> None:
    made = shard_files.small(tmp_path, shards=2, examples=2)
    opener, examples = reading(tmp_path, made)
    error = tf.errors.ResourceExhaustedError(None, None, "out of memory")
    assert diagnosis.explain(error, opener=opener) is error
    list(examples)
    assert diagnosis.explain(error, opener=opener) is error


def test_no_more_images_are_decoded_than_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [shard_files.record(0), shard_files.record(1), shard_files.record(8, BROKEN)]
    made = shard_files.write(tmp_path, {"train": [members, [shard_files.record(2)]]})
    opener, examples = reading(tmp_path, made)
    error = raised(examples)
    opener.open(1)  # looked at first, and takes one from the limit
    for limit, named in ((3, False), (4, True)):
        monkeypatch.setattr(diagnosis, "MAX_IMAGES", limit)
        assert (diagnosis.explain(error, opener=opener) is not error) == named


@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("place", [0, 7])
def test_training_names_the_image_whichever_of_a_streams_shards_it_stands_in(
    tmp_path: pathlib.Path, cache: str, place: int
) -> None:
    lists = [[shard_files.record(3 * shard + number) for number in range(3)] for shard in range(8)]
    lists[place][1] = shard_files.record(50, shard_files.image(50)[:-60])
    made = shard_files.write(tmp_path, {"train": lists})
    batches = training.batches(
        str(tmp_path),
        made,
        split="train",
        seed=1,
        global_batch=1,
        image_size=32,
        crop_area=(1.0, 1.0),
        flip=False,
        cache=cache,
        shuffle_mib=1,
    )
    with pytest.raises(InputError, match=rf"cat/0050\.jpg .* in shard .*train\.tfrecord-{place:05d}-of-00008"):
        for _ in zip(range(24), batches, strict=False):
            pass
