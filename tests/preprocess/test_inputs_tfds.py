"""TFDS datasets as --input, written by TFDS itself and by this program, read without TensorFlow."""

from __future__ import annotations

import json
import pathlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from pipeline import records, storage
from pipeline.errors import InputError
from preprocess.inputs import Hidden, Input, Rejected, Source, find_classes, open_inputs, tfds_records
from preprocess.inputs.tfds_records import TfdsRecords
from tests.preprocess.folders import REPOSITORY

KINDS = ["bee", "ant", "the cat"]


class NestedPhotos(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS ships no types
    """Features as real datasets have them: nested, in sequences, several images and labels."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # which TFDS cannot find out for a module that lies in no package

    def _info(self) -> Any:
        features = {
            "photo": {"pixels": tfds.features.Image(encoding_format="png"), "filename": tfds.features.Text()},
            "about": {"kind": tfds.features.ClassLabel(names=KINDS)},
            "boxes": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=3)}
            ),
            "crops": tfds.features.Sequence(tfds.features.Image()),
            "weights": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples(12), "val": self._generate_examples(5)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            yield (
                number,
                {
                    "photo": {"pixels": pixels(number), "filename": f"{number}.png"},
                    "about": {"kind": number % 4 if number % 4 < 3 else -1},
                    "boxes": [{"bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "label": 2}] * (number % 3),
                    "crops": [pixels(number)] * (number % 2),
                    "weights": [0.5, number],
                    "file_name": f"p{number // 2}_{number}.png",
                },
            )


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6 + number, 5, 3), np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tfds")
    builder = NestedPhotos(data_dir=str(folder))
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


@pytest.fixture
def dataset(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(written, tmp_path / "dataset"))


def opened(address: object, **options: object) -> Input:
    (one,) = open_inputs([str(address)], **options)  # type: ignore[arg-type]
    return pickle.loads(pickle.dumps(one))  # type: ignore[no-any-return]


def everything(one: Input) -> list[Source | Rejected | Hidden]:
    return [found for piece in one.pieces() for found in one.sources(piece)]


def sources(one: Input) -> list[Source]:
    return [found for found in everything(one) if isinstance(found, Source)]


def expected(written: pathlib.Path, split: str) -> list[tuple[bytes, str]]:
    """(PNG bytes, class) in TFDS's own order, by TFDS's own reader."""
    builder = tfds.builder_from_directory(str(written))
    decoders = {"photo": {"pixels": tfds.decode.SkipDecoding()}}
    examples = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False).as_numpy_iterator()
    return [
        (example["photo"]["pixels"], KINDS[example["about"]["kind"]])
        for example in examples
        if example["about"]["kind"] >= 0
    ]


def test_records_are_what_tfds_reads(written: pathlib.Path) -> None:
    one = opened(written)
    assert isinstance(one, TfdsRecords)
    assert one.splits == ("train", "validation")
    assert find_classes([one]).names == ("ant", "bee", "the cat")
    found = sources(one)
    assert [source.split for source in found] == ["train"] * 9 + ["validation"] * 4
    data = list(one.read_many([source.file for source in found], 2**20))
    pairs = [(image, source.class_name) for image, source in zip(data, found, strict=True)]
    assert pairs == expected(written, "train") + expected(written, "val")
    assert len({source.file for source in found}) == 13


def test_each_record_is_read_alone_in_any_order_and_again(written: pathlib.Path) -> None:
    one = opened(written)
    files = [source.file for source in sources(one)]
    straight = list(one.read_many(files, 2**20))
    assert [one.read(file, 2**20) for file in files] == straight
    assert list(one.read_many(files[::-1], 2**20)) == straight[::-1]
    assert one.read(files[3], 4) == b"\x89PNG"
    with pytest.raises(FileNotFoundError):
        one.read("nothing@0+5", 10)
    with pytest.raises(OSError, match="damaged"):
        one.read(files[0].replace("@0+", "@1+"), 10)


def test_neighbours_are_read_by_one_request(written: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened(written)
    files = [source.file for source in sources(one) if source.split == "validation"]
    requests = []
    read_part = storage.read_part
    monkeypatch.setattr(storage, "read_part", lambda *given: requests.append(given[1:]) or read_part(*given))
    straight = list(one.read_many(files, 2**20))
    assert len(requests) == 2  # the record between the third and the fourth has no class
    assert list(one.read_many(files[::-1], 2**20)) == straight[::-1]
    assert len(requests) == 6
    monkeypatch.setattr(tfds_records, "_RUN_BYTES", sum(size for _, size in requests[-2:]))
    assert list(one.read_many(files, 2**20)) == straight
    assert len(requests) == 9


def test_a_label_that_names_no_class_is_rejected(written: pathlib.Path) -> None:
    rejected = [found for found in everything(opened(written)) if isinstance(found, Rejected)]
    assert len(rejected) == 4
    assert {(each.reason, each.detail) for each in rejected} == {("bad_record", "its label -1 names no class")}


def test_splits_are_merged_when_others_are_asked_for(written: pathlib.Path) -> None:
    one = opened(written, keep_splits=False)
    assert one.splits == ()
    assert {source.split for source in sources(one)} == {""}
    assert len(sources(one)) == 13


def test_groups_are_found_in_the_text_that_holds_the_file_name(written: pathlib.Path) -> None:
    groups = sorted(source.group for source in sources(opened(written, group_by="(.*)_")) if source.split == "train")
    assert groups == sorted(f"p{number // 2}" for number in range(12) if number % 4 < 3)


def test_damage_costs_the_records_it_hits_and_is_told(dataset: pathlib.Path) -> None:
    one = opened(dataset)
    before = everything(one)
    files = [found.file if isinstance(found, Source) else found.source.file for found in before]  # type: ignore[union-attr]
    shard = dataset / files[0].partition("@")[0]
    starts = [int(file.partition("@")[2].partition("+")[0]) for file in files[:12]]
    data = bytearray(shard.read_bytes())
    data[starts[2] + 40] ^= 1  # in a record's body
    data[starts[9] + 3] ^= 1  # in a record's length: the end of what can be found
    shard.write_bytes(bytes(data))
    after = everything(one)
    assert after[:2] + after[3:9] == before[:2] + before[3:9]
    assert after[11:] == before[12:]
    rejected = [found for found in (after[2], after[9], after[10]) if isinstance(found, Rejected)]
    assert [each.detail for each in rejected] == [
        "damaged, or cut off",
        "damaged, or cut off",
        "the shard ends after 10 records, dataset_info.json says 12",
    ]
    assert len({each.source.file for each in rejected}) == 3
    assert isinstance(next(one.read_many([files[2]], 100)), OSError)


def test_a_shard_cut_between_records_is_told(dataset: pathlib.Path) -> None:
    one = opened(dataset)
    eleventh = everything(one)[10]
    file = eleventh.source.file if isinstance(eleventh, Rejected) else eleventh.file
    name, _, start = file.partition("+")[0].partition("@")
    with open(dataset / name, "r+b") as stream:
        stream.truncate(int(start))
    (cut,) = [found.detail for found in everything(one) if isinstance(found, Rejected) and "ends" in found.detail]
    assert cut == "the shard ends after 10 records, dataset_info.json says 12"


def edit(path: pathlib.Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dataset_info.json", lambda info: info.update(fileFormat="array_record"), "stored as array_record"),
        ("dataset_info.json", lambda info: info["splits"][1].update(name="Train"), "both mean the split 'train'"),
        ("dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["1", "2"]), "misses the shard"),
        ("dataset_info.json", lambda info: info.update(splits=[]), "says of no shards"),
        (
            "features.json",
            lambda features: features["featuresDict"]["features"].update(
                second={"pythonClassName": "x.ClassLabel", "classLabel": {"numClasses": "2"}}
            ),
            "expected one feature of type ClassLabel, or one that supervised_keys names; found about (FeaturesDict)",
        ),
        (
            "features.json",
            lambda features: features["featuresDict"]["features"]["photo"]["featuresDict"]["features"]["pixels"][
                "image"
            ].update(dtype="float32"),
            "'photo/pixels' holds float32",
        ),
    ],
)
def test_datasets_that_cannot_be_used(dataset: pathlib.Path, name: str, change: Any, message: str) -> None:
    edit(dataset / name, change)
    with pytest.raises(InputError) as refusal:
        opened(dataset)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_supervised_keys_decide_between_several(dataset: pathlib.Path) -> None:
    def second_label(features: Any) -> None:
        features["featuresDict"]["features"]["photo"]["featuresDict"]["features"]["size"] = {
            "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "2"},
        }

    edit(dataset / "features.json", second_label)
    items = [{"featureKey": "photo/pixels"}, {"featureKey": "about/kind"}]
    edit(dataset / "dataset_info.json", lambda info: info.update(supervisedKeys={"tuple": {"items": items}}))
    assert len(sources(opened(dataset))) == 13


def test_labels_without_names_are_called_by_their_number(dataset: pathlib.Path) -> None:
    (dataset / "about-kind.labels.txt").unlink()
    assert opened(dataset).classes().names == ("0", "1", "2")


def test_a_dataset_by_name(written: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(written.parents[1]))
    one = opened("tfds:nested_photos:1.0.0")
    assert one.address == str(written)
    assert len(sources(one)) == 13
    with pytest.raises(InputError, match="TFDS cannot prepare it") as refusal:
        opened("tfds:no_such_dataset")
    assert "\n" not in str(refusal.value)


def test_our_own_datasets_are_datasets_too(digits: str) -> None:
    one = opened(digits)
    assert one.splits == ("train", "validation", "test")
    found = sources(one)
    assert len(found) == 240
    read = tfds.builder_from_directory(digits).as_dataset(
        split="train+validation+test", decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False
    )
    by_image = {example["image"]: example for example in read.as_numpy_iterator()}
    for source, image in zip(found, one.read_many([source.file for source in found], 2**20), strict=True):
        assert isinstance(image, bytes)
        assert source.class_name == str(by_image[image]["label"])
        assert source.group == by_image[image]["group"].decode()
    by_file = {source.group for source in sources(opened(digits, group_by="^([^/]*)/"))}
    assert by_file == {str(label) for label in range(10)}


def test_workers_read_without_tensorflow(written: pathlib.Path) -> None:
    code = (
        "import sys; from preprocess.inputs import open_inputs, find_classes\n"
        f"(one,) = open_inputs([{str(written)!r}]); find_classes([one])\n"
        "files = [found.file for piece in one.pieces() for found in one.sources(piece) if hasattr(found, 'file')]\n"
        "assert len(list(one.read_many(files, 100))) == 13\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)


def test_a_dataset_in_a_bucket(written: pathlib.Path) -> None:
    root = "memory://datasets/photos"
    for path in written.iterdir():
        with storage.open_file(f"{root}/{path.name}", "wb") as stream:
            stream.write(path.read_bytes())
    one, local = opened(root), opened(written)
    assert sources(one) == sources(local)
    files = [source.file for source in sources(one)]
    assert list(one.read_many(files[::-1], 2**20)) == list(local.read_many(files[::-1], 2**20))


def test_features_are_what_tensorflow_wrote() -> None:
    values = {
        "bytes": [b"", b"\xff" * 300],
        "integers": [0, 1, -1, 2**63 - 1, -(2**63), 300],
        "none": [],
        "lá": [b"x"],
    }
    features = {
        "bytes": tf.train.Feature(bytes_list=tf.train.BytesList(value=values["bytes"])),
        "integers": tf.train.Feature(int64_list=tf.train.Int64List(value=values["integers"])),
        "none": tf.train.Feature(int64_list=tf.train.Int64List()),
        "lá": tf.train.Feature(bytes_list=tf.train.BytesList(value=values["lá"])),
        "floats": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5, 2.5])),
        "unset": tf.train.Feature(),
    }
    serialized = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    assert records.features(serialized) == values
    # Integers that are not packed, as old writers have them: field 1 as single varints.
    unpacked = b"\x0a\x0d\x0a\x0b\x0a\x01n\x12\x06\x1a\x04\x08\x05\x08\x07"
    assert tf.train.Example.FromString(unpacked).features.feature["n"].int64_list.value == [5, 7]
    assert records.features(unpacked) == {"n": [5, 7]}


def test_features_of_damaged_bytes_raise_and_never_hang() -> None:
    example = records.serialize(records.Record(b"x" * 50, 3, "id", "file", "group"))
    generator = np.random.default_rng(0)
    failed = 0
    for _ in range(2000):
        damaged = bytearray(example)
        for position in generator.integers(0, len(example), 3):
            damaged[position] = generator.integers(0, 256)
        try:
            records.features(bytes(damaged[: generator.integers(0, len(example) + 1)]))
        except ValueError:
            failed += 1
    assert failed > 1000
