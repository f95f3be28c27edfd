"""What a TFDS dataset says of itself in JSON: which features, classes, splits and shards it has. No TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

SCHEME = "tfds:"
INFO = "dataset_info.json"
_FEATURES = "features.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def resolve(address: str) -> str:
    """The folder of the dataset that tfds:NAME[/CONFIG][:VERSION] names, prepared by TFDS if it is not yet.

    Raises:
      InputError: where TFDS does not know or cannot prepare it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(address.removeprefix(SCHEME), data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
    except Exception as error:  # builders are anybody's code and fail with any type
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"--input={address}: TFDS cannot prepare it ({first_line}): check the name, "
            "or prepare it yourself and give its folder"
        ) from error
    return str(builder.data_dir)


def read(address: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        info, features = (storage.read_json(storage.join(address, name)) for name in (INFO, _FEATURES))
    except FileNotFoundError:
        raise InputError(
            f"--input={address} has {INFO} and no {_FEATURES}: prepare it again with a TFDS newer than 4.0"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"--input={address}: its {INFO} or {_FEATURES} cannot be read ({error})") from None
    if (found := info.get("fileFormat", "tfrecord")) != "tfrecord":
        raise InputError(
            f"--input={address} is stored as {found}, which cannot be read here: convert it, "
            "tfds convert_format --out_file_format=tfrecord"
        )
    return info, features


def type_of(node: Mapping[str, Any]) -> str:
    return str(node.get("pythonClassName", "")).rpartition(".")[2]


def leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name in the records, its JSON) of each feature; those inside sequences are not one per example, so not here."""
    for name, child in node.get("featuresDict", {}).get("features", {}).items():
        yield above + name, child
        yield from leaves(child, f"{above}{name}/")


def supervised(info: Mapping[str, Any]) -> list[str]:
    items = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
    return [item["featureKey"] for item in items if "featureKey" in item]


def choose(address: str, kind: str, leaves: Mapping[str, Mapping[str, Any]], supervised: Sequence[str]) -> str:
    found = [name for name, node in leaves.items() if type_of(node) == kind]
    named = [name for name in supervised if name in found]
    if len(found) != 1 and len(named) != 1:
        others = ", ".join(f"{name} ({type_of(node)})" for name, node in leaves.items())
        raise InputError(
            f"--input={address}: expected one feature of type {kind}, or one that supervised_keys names; found {others}"
        )
    return (named if len(named) == 1 else found)[0]


def class_names(address: str, label: str, node: Mapping[str, Any]) -> tuple[str, ...]:
    """TFDS writes names beside the shards; a feature inside others has `-` for what separates them."""
    path = storage.join(address, f"{label.replace('/', '-')}.labels.txt")
    if storage.exists(path):
        lines = storage.read_bytes(path).decode("utf-8").split("\n")
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(map(str, range(int(node["classLabel"]["numClasses"]))))


def shards(address: str, info: Mapping[str, Any], splits: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    shards = []
    for described, split in zip(info.get("splits", []), splits, strict=True):
        lengths = [int(length) for length in described.get("shardLengths", [])]
        for number, examples in enumerate(lengths):
            shard_of = f"{number:05d}-of-{len(lengths):05d}"
            parts = {
                "{DATASET}": str(info.get("name")),
                "{SPLIT}": str(described["name"]),
                "{FILEFORMAT}": "tfrecord",
                "{SHARD_X_OF_Y}": shard_of,
                "{SHARD_INDEX}": shard_of[:5],
                "{NUM_SHARDS}": shard_of[-5:],
            }
            file = described.get("filepathTemplate") or _TEMPLATE
            for name, value in parts.items():
                file = file.replace(name, value)
            shards.append((file, split, examples))
    there = {name for name, _ in storage.children(address)}
    missing = [file for file, _, _ in shards if file not in there]
    if missing or not shards:
        what = f"misses the shard {missing[0]} ({len(missing):,} in all)" if missing else "says of no shards"
        raise InputError(f"--input={address} {what}: copy it again from its source, or prepare it again")
    return tuple(shards)
