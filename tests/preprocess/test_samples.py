"""Which pictures are chosen: the same ones however the files were divided, and never too many."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from preprocess import samples


@dataclasses.dataclass(frozen=True)
class Facts:
    file: str
    class_name: str
    input: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.file.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Row:
    file: str
    class_name: str
    status: str = "quarantined"
    reason: str = "empty_file"
    detail: str = "0 bytes"
    input: int = 0


def images(classes: int, each: int) -> list[tuple[str, Facts]]:
    return [("train", Facts(f"{name}/{index}", f"class {name}")) for name in range(classes) for index in range(each)]


def per_class(found: list[samples.Candidate]) -> list[int]:
    names = [one.class_name for one in found]
    return sorted(names.count(name) for name in set(names))


def test_the_images_with_the_smallest_hashes_of_each_class_are_shown() -> None:
    given_images = images(2, 30)
    found = samples.finish(samples.choose_contacts(given_images))
    expected = [
        sorted((facts.sha256, facts.file) for _, facts in given_images if facts.class_name == name)[:8]
        for name in ("class 0", "class 1")
    ]
    assert sorted((one.key, one.file) for one in found) == sorted(expected[0] + expected[1])
    assert {(one.kind, one.caption) for one in found} == {("contact", "train")}


def test_more_classes_have_fewer_pictures_each() -> None:
    assert per_class(samples.finish(samples.choose_contacts(images(60, 10)))) == [8] * 60
    assert per_class(samples.finish(samples.choose_contacts(images(100, 10)))) == [4] * 100
    assert per_class(samples.finish(samples.choose_contacts(images(900, 2)))) == [1] * 900
    assert per_class(samples.finish(samples.choose_contacts(images(1500, 2)))) == [1] * 1000


def test_every_reason_is_shown_and_only_quarantined_rows() -> None:
    rows = [Row(f"{reason}/{index}", "ant", reason=reason) for reason in ("a", "b") for index in range(50)]
    rows += [Row("c/1", "ant", reason="c"), Row("again", "ant", "duplicate", ""), Row("good", "ant", "written", "")]
    found = samples.finish(samples.choose_quarantined(rows))
    reasons = [one.reason for one in found]
    assert {reason: reasons.count(reason) for reason in reasons} == {"a": 12, "b": 12, "c": 1}
    assert {one.caption for one in found} == {"0 bytes"}
    (long,) = samples.finish(samples.choose_quarantined([Row("x", "ant", detail="y" * 5000)]))
    assert len(long.caption) == 200


def test_all_together_stay_within_the_limit() -> None:
    rows = [Row(f"{index}", "ant", reason=f"reason {index % 200}") for index in range(5000)]
    chosen = samples.merge([samples.choose_contacts(images(1500, 1)), samples.choose_quarantined(rows)])
    one = samples.Candidate("00", 0, "a", "ant", samples.PAIR, "train", pair="00")
    assert len(samples.finish(chosen, [(one, one)] * 100)) == 1000 + 120 + 80 == samples.MAX_SAMPLES


@given(
    st.lists(st.tuples(st.text("ab\udcff\n", max_size=3), st.sampled_from(["ant", "bee"])), unique=True, max_size=60),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_the_choice_does_not_depend_on_order_or_division(files: list[tuple[str, str]], random: Any, parts: int) -> None:
    rows = [Row(file, name, reason=name) for file, name in files]
    facts = [("test", Facts(ascii(file), name)) for file, name in files]

    def choose(some: slice) -> samples.Chosen:
        return samples.merge([samples.choose_quarantined(rows[some]), samples.choose_contacts(facts[some])])

    whole = choose(slice(None))
    random.shuffle(rows)
    random.shuffle(facts)
    divided = samples.merge([samples.merge([]), *(choose(slice(part, None, parts)) for part in range(parts))])
    assert divided == whole
    assert sorted(samples.finish(divided)) == sorted(samples.finish(whole))
