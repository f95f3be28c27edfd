"""Every flag that cannot be used is refused in one line that names it."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import pytest

from pipeline.errors import InputError
from preprocess import settings

GOOD: dict[str, Any] = {
    "input": ["photos"],
    "output": "data",
    "name": "leaves",
    "version": "1.0.0",
    "splits": "train=0.8,validation=0.1,test=0.1",
    "seed": 42,
    "shard_bytes": 0,
    "max_workers": 8,
    "shorter_side": 0,
    "jpeg_quality": 95,
    "chroma": "4:4:4",
    "lossless": False,
    "group_by": "",
    "near_duplicates": "join",
    "grow_from": "",
    "replay_quarantine": "",
    "job": "a",
}


def test_good_flags() -> None:
    parsed = settings.parse(**GOOD)
    assert parsed.directory == os.path.join(os.getcwd(), "data/leaves/1.0.0")
    assert parsed.staging == parsed.directory + ".incomplete-a/dataset"
    assert settings.parse(**{**GOOD, "splits": ""}).splits == {}
    grown = settings.parse(**{**GOOD, "version": "2.0.0", "grow_from": "data/leaves/1.0.0"})
    assert grown.earlier == parsed.directory
    assert settings.parse(**{**GOOD, "output": "gs://bucket/data/"}).directory == "gs://bucket/data/leaves/1.0.0"


def test_fractions_are_the_numbers_that_were_written() -> None:
    assert settings.parse_splits("train=0.7, dev = 1/5 ,test=.1") == {
        "train": Fraction(7, 10),
        "dev": Fraction(1, 5),
        "test": Fraction(1, 10),
    }
    assert settings.parse_splits("test=1") == {"test": Fraction(1)}


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("input", [], "--input is missing"),
        ("input", ["photos", ""], "--input is missing"),
        ("output", "", "--output is missing"),
        ("name", "", "--name is missing"),
        ("name", "Leaves", "--name='Leaves'"),
        ("name", "1leaves", "--name='1leaves'"),
        ("name", "a/b", "--name='a/b'"),
        ("version", "1.0", "--version='1.0'"),
        ("version", "01.0.0", r"--version='01\.0\.0'"),
        ("version", "../1.0.0", "--version="),
        ("shard_bytes", -1, "--shard_bytes=-1"),
        ("max_workers", 0, "--max_workers=0"),
        ("shorter_side", -1, "shorter_side is -1"),
        ("jpeg_quality", 0, "jpeg_quality is 0"),
        ("jpeg_quality", 101, "jpeg_quality is 101"),
        ("chroma", "4:1:1", "chroma is '4:1:1'"),
        ("near_duplicates", "yes", "--near_duplicates='yes'"),
        ("grow_from", "data/leaves/1.0.0", "give the new one another --version"),
        ("splits", "train", "'train' is not NAME=FRACTION"),
        ("splits", "train=", "is not NAME=FRACTION"),
        ("splits", "train=0.8,,test=0.2", "'' is not NAME=FRACTION"),
        ("splits", "train=-0.5,test=1.5", "'train=-0.5' is not NAME=FRACTION"),
        ("splits", "train=1e0", "is not NAME=FRACTION"),
        ("splits", "train=1e999999999", "is not NAME=FRACTION"),
        ("splits", "train=nan,test=1", "is not NAME=FRACTION"),
        ("splits", "train=1/0", "is not NAME=FRACTION"),
        ("splits", "Train=1", "'Train' cannot name a split"),
        ("splits", "all=1", "'all' cannot name a split"),
        ("splits", "train-2=1", "'train-2' cannot name a split"),
        ("splits", "train=0.5,train=0.5", "stands there twice"),
        ("splits", "train=1,test=0", "'test' gets nothing"),
        ("splits", "train=0.8,test=0.1", "sum to 0.9, expected exactly 1"),
        ("splits", "train=0.333,validation=0.333,test=0.333", "sum to 0.999"),
        ("splits", "train=0.9,test=0.2", "sum to 1.1"),
    ],
)
def test_bad_flags(flag: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings.parse(**{**GOOD, flag: value})
    assert "\n" not in str(caught.value)


def test_growing_and_replaying_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--grow_from and --replay_quarantine exclude each other"):
        settings.parse(**{**GOOD, "grow_from": "data/leaves/0.1.0", "replay_quarantine": "data/leaves/0.1.0"})
