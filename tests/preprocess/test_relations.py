"""How groups relate: counted by hand, and equal however the groups were divided."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction

import pytest

from preprocess import relations

FRACTIONS = {"train": Fraction(4, 5), "validation": Fraction(1, 10), "test": Fraction(1, 10)}


@dataclasses.dataclass(frozen=True)
class Image:
    file: str
    split: str = ""
    class_name: str = "ant"
    phash: bytes = bytes(32)
    input: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.file.encode()).hexdigest()


def alone(image: relations.Member) -> str:
    return relations.split_alone(image, FRACTIONS, 42)


def describe(*groups: list[Image]) -> relations.Relations:
    return relations.merge(relations.describe(group, alone) for group in groups)


def test_alone_an_image_goes_where_its_own_hash_says() -> None:
    splits = [alone(Image(f"{number}")) for number in range(3000)]
    # Binomial with n = 3,000: standard deviations 22 and 16; five of them each way.
    assert abs(splits.count("train") - 2400) < 110
    assert abs(splits.count("validation") - 300) < 80
    assert alone(Image("7")) == splits[7]
    assert splits != [relations.split_alone(Image(f"{number}"), FRACTIONS, 43) for number in range(3000)]
    assert alone(Image("7", split="holdout")) == "holdout"
    with pytest.raises(ValueError, match="less than 1"):
        [relations.split_alone(Image(f"{number}"), {"train": Fraction(1, 10)}, 42) for number in range(100)]


def test_groups_are_counted_by_hand() -> None:
    found = describe(
        [Image("single", "train")],
        [Image("a", "train"), Image("b", "train")],
        [Image("c", "train"), Image("d", "test"), Image("e", "test", "bee"), Image("f", "train")],
        [Image(f"g{number}", ("train", "test", "validation")[number % 3]) for number in range(12)],
    )
    assert relations.to_json(found, own_splits=True) == {
        "own_splits": True,
        "groups": 3,
        "images": 18,
        "sizes": {"bounds": [3, 4, 6, 11, 21, 51, 101, 1001], "groups": [1, 0, 1, 0, 1, 0, 0, 0, 0]},
        "mixed": 1,
        "separated": {"groups": 2, "images": 16, "between": {"test, train": 1, "test, train, validation": 1}},
        "largest": [
            {"images": 12, "classes": {"ant": 12}, "first": ["g0", "g1", "g10"]},
            {"images": 4, "classes": {"ant": 3, "bee": 1}, "first": ["c", "d", "e"]},
            {"images": 2, "classes": {"ant": 2}, "first": ["a", "b"]},
        ],
    }
    assert relations.merge([]) == relations.EMPTY == describe([Image("single")])


def test_the_pair_is_the_most_alike_across_splits() -> None:
    group = [
        Image("near", "train", phash=b"\0" * 31 + b"\x01"),
        Image("far", "train", phash=b"\xff" * 32),
        Image("twin of far", "train", phash=b"\xff" * 32),
        Image("other", "test", phash=b"\0" * 31 + b"\x03"),
    ]
    ((first, second),) = describe(group).pairs
    assert [(one.file, one.caption, one.kind) for one in (first, second)] == [
        ("other", "test", "pair"),
        ("near", "train", "pair"),
    ]
    assert first.pair == second.pair != ""


def test_sums_do_not_depend_on_order_or_division() -> None:
    groups = [[Image(f"{number}/{index}") for index in range(2 + number % 7)] for number in range(300)]
    parts = [relations.describe(group, alone) for group in groups]
    whole = relations.merge(parts)
    backwards = [relations.describe(group[::-1], alone) for group in groups[::-1]]
    assert relations.merge([relations.merge(backwards[::2]), relations.merge(backwards[1::2])]) == whole
    separated = [group for group in groups if len({alone(image) for image in group}) > 1]
    assert whole.separated == len(separated) > 100
    assert len(whole.pairs) == 40
    assert len({first.pair for first, _ in whole.pairs}) == 40
    assert [group.images for group in whole.largest] == [8] * 10


def test_a_name_that_is_not_utf8_is_shown_escaped() -> None:
    images = [Image("ant/\N{LATIN SMALL LETTER A WITH RING ABOVE}"), dataclasses.replace(Image("b"), input=1)]
    odd = relations.Group((-2, ""), (("ant", 2),), ("ant/\udcff.png",))
    found = dataclasses.replace(describe(images), largest=(odd,))
    text = relations.to_json(found, own_splits=False)["largest"][0]["first"][0]
    assert text == "ant/\\udcff.png"
