"""The record against TensorFlow's own protobuf, writer and reader."""

from __future__ import annotations

import hashlib
import io
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import records

tf = pytest.importorskip("tensorflow")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
RECORDS = st.builds(
    records.Record,
    image=st.binary(max_size=300),
    label=st.integers(-(2**63), 2**63 - 1),
    id=st.text("0123456789abcdef", min_size=64, max_size=64),
    file=TEXT,
    group=TEXT,
)
RECORD = records.Record(b"\x89PNG", 3, "ab" * 32, "healthy/0.jpeg", "ab" * 32)


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_serialize_writes_what_protobuf_reads(record: records.Record) -> None:
    serialized = records.serialize(record)
    message = tf.train.Example.FromString(serialized)
    feature = message.features.feature
    assert set(feature) == {"image", "label", "id", "file", "group"}
    assert feature["image"].bytes_list.value[:] == [record.image]
    assert feature["label"].int64_list.value[:] == [record.label]
    for name in ("id", "file", "group"):
        assert feature[name].bytes_list.value[:] == [getattr(record, name).encode()]
    assert records.deserialize(serialized) == record
    # Protobuf's deterministic encoder sorts map keys as well, so the very bytes agree.
    assert message.SerializeToString(deterministic=True) == serialized


@settings(max_examples=50, deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_parse_reads_one_and_many(batch: list[records.Record]) -> None:
    serialized = [records.serialize(record) for record in batch]
    together = records.parse(tf.constant(serialized))
    assert together["label"].dtype == tf.int64
    for position, record in enumerate(batch):
        alone = records.parse(tf.constant(serialized[position]))
        for parsed in (alone, {name: tensor[position] for name, tensor in together.items()}):
            assert parsed["image"].numpy() == record.image
            assert parsed["label"].numpy() == record.label
            assert parsed["file"].numpy() == record.file.encode()


def test_a_name_that_is_not_utf8_comes_back_as_its_bytes() -> None:
    record = records.Record(b"", 0, "", b"a/\xff.png".decode("utf-8", "surrogateescape"), "")
    assert records.parse(tf.constant(records.serialize(record)))["file"].numpy() == b"a/\xff.png"


def test_what_is_no_record_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="it has no 'file'"):
        records.deserialize(tf.train.Example().SerializeToString())
    odd = records.Record(b"", 0, "", "caf\udce9.jpg", "")
    assert records.deserialize(records.serialize(odd)) == odd


def test_the_bytes_of_a_record_are_pinned() -> None:
    """A change here changes every shard's hash: it needs a new major version of the dataset format."""
    serialized = records.serialize(RECORD)
    assert hashlib.sha256(serialized).hexdigest() == "61df63cc2fbb9a1da9d0aeb17d6678f824d77e8673246761d1567a9dc6e4a99e"


def test_frames_are_tensorflows_own(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "shard"
    serialized = [records.serialize(RECORD), b"", bytes(100_000)]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in serialized:
            writer.write(data)
    ours = io.BytesIO()
    sizes = [records.write_framed(ours, data) for data in serialized]
    assert ours.getvalue() == path.read_bytes()
    assert sum(sizes) == path.stat().st_size
    ours.seek(0)
    assert list(records.read_framed(ours)) == serialized


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_cut_or_flipped_shard_never_reads_as_whole(data: st.DataObject) -> None:
    stream = io.BytesIO()
    sizes = [records.write_framed(stream, bytes([length] * length)) for length in (3, 0, 40)]
    whole = stream.getvalue()
    cut = data.draw(st.integers(1, len(whole) - 1))
    if cut in (sizes[0], sizes[0] + sizes[1]):  # on a boundary only the manifest's counts can tell
        assert len(list(records.read_framed(io.BytesIO(whole[:cut])))) < 3
    else:
        with pytest.raises(ValueError, match="damaged TFRecord"):
            list(records.read_framed(io.BytesIO(whole[:cut])))
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="damaged TFRecord"):
        list(records.read_framed(io.BytesIO(bytes(flipped))))
