"""A CSV, TSV or JSONL listing as --input: every row ends as a file or as a rejected row with its line."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import uuid

import pytest

from pipeline import storage
from pipeline.errors import InputError
from preprocess.inputs import Hidden, Input, Rejected, Source, find_classes, listing, open_inputs


def opened(path: pathlib.Path, text: str | bytes, **options: object) -> Input:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (one,) = open_inputs([str(path)], **options)  # type: ignore[arg-type]
    return one


def everything(one: Input) -> list[Source | Rejected | Hidden]:
    one = pickle.loads(pickle.dumps(one))
    return [found for piece in one.pieces() for found in one.sources(piece)]


def refusal(path: pathlib.Path, text: str | bytes, **options: object) -> str:
    with pytest.raises(InputError) as error:
        find_classes([opened(path, text, **options)])
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


ROWS = [
    Source(0, "a/1.jpg", "ant", "train", "p1"),
    Source(0, "b 2.jpg", "bee", "train", ""),
    Source(0, "3.jpg", "ant", "test", "9"),
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "path,label,split,group\na/1.jpg,ant,train,p1\nb 2.jpg,bee,train,\n3.jpg,ant,test,9\n"),
        (
            "x.CSV",
            "\ufeffGroup, Split ,extra,CLASS,File\r\np1,Train,?,ant,a/1.jpg\r\n\r\n"
            ",train,?, bee ,b 2.jpg\r\n9,test,?,ant,./3.jpg",
        ),
        (
            "x.tsv",
            "file_name\tclass_name\tgroup\tsplit\n"
            "a/1.jpg\tant\tp1\ttrain\nb 2.jpg\tbee\t\ttrain\n3.jpg\tant\t9\ttest\n",
        ),
        (
            "x.jsonl",
            '{"path": "a/1.jpg", "label": "ant", "split": "train", "group": "p1", "other": [1]}\n\n'
            '{"Label": "bee", "path": "b 2.jpg", "split": "Train", "group": null}\n'
            '{"path": "x/../3.jpg", "label": "ant", "split": "test", "group": 9}',
        ),
    ],
)
def test_each_format_says_the_same(tmp_path: pathlib.Path, name: str, text: str) -> None:
    one = opened(tmp_path / name, text)
    assert everything(one) == ROWS
    assert one.splits == ("train", "test")
    assert find_classes([one]).names == ("ant", "bee")
    (tmp_path / "b 2.jpg").write_bytes(b"bytes")
    assert one.read("b 2.jpg", 3) == b"byt"
    missing, there = one.read_many(["a/1.jpg", "b 2.jpg"], 10)
    assert isinstance(missing, FileNotFoundError)
    assert there == b"bytes"


def test_splits_are_given_up_when_others_are_asked_for(tmp_path: pathlib.Path) -> None:
    text = "path,label,split\n1,ant,train\n2,bee,all the rest\n"
    one = opened(tmp_path / "x.csv", text, keep_splits=False)
    assert everything(one) == [Source(0, "1", "ant"), Source(0, "2", "bee")]
    assert one.splits == ()


def test_validation_has_one_name(tmp_path: pathlib.Path) -> None:
    one = opened(tmp_path / "x.csv", "path,label,split\n1,a,val\n2,b,VALID\n3,b,fold_2\n4,b,train\n")
    assert [found.split for found in everything(one)] == ["validation", "validation", "fold_2", "train"]  # type: ignore[union-attr]
    assert one.splits == ("train", "validation", "fold_2")


def test_bad_rows_are_rejected_with_their_line_and_the_rest_goes_on(tmp_path: pathlib.Path) -> None:
    lines = [
        "path,label,split",
        "1.jpg,ant,train",
        ",ant,train",
        "2.jpg,,train",
        "3.jpg,ant",
        '"4\n.jpg",bee,test',
        '5.jpg,"ant"x,train',
        "6.jpg,bee,no split",
        "7\0.jpg,bee,test",
        "nothing://8.jpg,bee,test",
        "9.jpg,bee,test",
        "12.jpg,bee,",
        '"10.jpg,bee,',
        "11.jpg,bee,",
    ]
    one = opened(tmp_path / "x.csv", "\n".join(lines) + "\n")
    found = everything(one)
    assert [each.file for each in found if isinstance(each, Source)] == ["1.jpg", "4\n.jpg", "9.jpg"]
    rejected = {each.source.file: each.detail for each in found if isinstance(each, Rejected)}
    assert rejected.pop("x.csv:10") in (
        "line 10: the path '7\\x00.jpg' cannot be a file's name",
        "line 10: line contains NUL",  # Python 3.10
    )
    assert rejected == {
        "x.csv:3": "line 3: no path",
        "x.csv:4": "line 4: no label",
        "x.csv:5": "line 5: 2 columns, the first line has 3",
        "x.csv:8": "line 8: ',' expected after '\"'",
        "x.csv:9": "line 9: split 'no split' is not written with lower-case letters, digits and _",
        "x.csv:11": "line 11: no driver reads 'nothing://8.jpg'",
        "x.csv:13": "line 13: no split, which other rows have",
        "x.csv:14": "line 14: a quote is not closed in its line (unexpected end of data, up to line 15)",
        "x.csv:15": "line 15: no split, which other rows have",
    }
    classes = {each.source.file: each.source.class_name for each in found if isinstance(each, Rejected)}
    assert (classes["x.csv:3"], classes["x.csv:4"], classes["x.csv:9"]) == ("ant", "", "bee")
    assert {each.reason for each in found if isinstance(each, Rejected)} == {"bad_row"}


@pytest.mark.parametrize("piece_bytes", [1, 150, 1 << 20])
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({14: '14.jpg,ant,"leaf'}, "unexpected end of data, up to line 113"),
        ({14: '"14.jpg,ant,leaf'}, "unexpected end of data, up to line 113"),
        ({180: '180.jpg,ant,"leaf'}, "unexpected end of data, up to line 201"),
        ({14: '14.jpg,ant,"leaf', 20: '20.jpg,"ant",leaf'}, "',' expected after '\"', up to line 20"),
        ({14: '14.jpg,ant,"leaf', 20: '20.jpg,bee",leaf'}, "4 columns, the first line has 3, up to line 20"),
        ({14: '14.jpg,ant,"leaf', 20: '20.jpg,ant,leaf"'}, "it is closed where a row is, up to line 20"),
        ({14: '"14.jpg,ant,leaf', 20: '20.jpg",ant,leaf'}, "it is closed where a row is, up to line 20"),
    ],
)
def test_a_stray_quote_costs_its_own_row_and_no_other(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, changed: dict[int, str], why: str, piece_bytes: int
) -> None:
    """Also where a piece of the listing ends among the lines that the quote would take in."""
    monkeypatch.setattr(listing, "_PIECE_BYTES", piece_bytes)
    lines = {number: f"{number}.jpg,{'ant' if number % 3 else 'bee'},leaf" for number in range(2, 202)} | changed
    one = opened(tmp_path / "x.csv", "\n".join(["path,label,note", *lines.values()]) + "\n")
    found = everything(one)
    assert [each.file.strip('"') for each in found if isinstance(each, Source)] == [
        f"{number}.jpg" for number in lines if number != min(changed)
    ]
    (rejected,) = [each for each in found if isinstance(each, Rejected)]
    assert rejected.detail.startswith(f"line {min(changed)}: ")
    if piece_bytes > 1000:
        assert rejected.detail == f"line {min(changed)}: a quote is not closed in its line ({why})"


def test_texts_of_several_lines_are_no_stray_quotes(tmp_path: pathlib.Path) -> None:
    text = 'path,note,label\n1.jpg,"two, long\n\nlines",ant\n"2\n,.jpg",,bee\n3.jpg,"a\n""b"",\nc",ant\n'
    found = everything(opened(tmp_path / "x.csv", text))
    assert found == [Source(0, "1.jpg", "ant"), Source(0, "2\n,.jpg", "bee"), Source(0, "3.jpg", "ant")]


def test_quotes_in_every_line_do_not_take_forever(tmp_path: pathlib.Path) -> None:
    """Each of these lines closes the quote of the one before it and opens another."""
    text = "path,label\n" + 'x","""\n' * 5_000 + "1.jpg,ant\n2.jpg,bee\n"
    found = everything(opened(tmp_path / "x.csv", text))
    assert [each.file for each in found if isinstance(each, Source)] == ["1.jpg", "2.jpg"]
    rejected = [each for each in found if isinstance(each, Rejected)]
    assert len(rejected) == 5_000
    assert rejected[0].detail.endswith("up to line 101)")


def test_bad_json_rows_are_rejected_with_their_line(tmp_path: pathlib.Path) -> None:
    lines = [
        "{broken",
        '{"path": "1.jpg", "label": "ant"}',
        "[1]",
        '{"path": "2.jpg", "label": ["ant"]}',
        '{"path": "3.jpg", "label": true}',
        '{"path": "4.jpg", "file": "5.jpg", "label": "ant"}',
        '{"path": "6.jpg"}',
        "[" * 100_000,
        '{"path": "7.jpg", "label": 7}',
    ]
    found = everything(opened(tmp_path / "x.jsonl", "\n".join(lines)))
    assert [each for each in found if isinstance(each, Source)] == [Source(0, "1.jpg", "ant"), Source(0, "7.jpg", "7")]
    details = [each.detail for each in found if isinstance(each, Rejected)]
    assert [detail.partition(":")[0] for detail in details] == [f"line {number}" for number in (1, 3, 4, 5, 6, 7, 8)]
    assert "no JSON (" in details[0]
    assert details[1:6] == [
        "line 3: no JSON object",
        "line 4: the label is neither text nor a whole number",
        "line 5: the label is neither text nor a whole number",
        "line 6: the columns 'path' and 'file' both mean the path: drop or rename one",
        "line 7: no label among its columns 'path'",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "needs a first line that names a path (or file, file_name) and a label"),
        ("x.csv", "a;path;label\n1;2;3\n", "found 'a;path;label'"),
        ("x.csv", "image,label\n1.jpg,ant\n", "found 'image', 'label'"),
        ("x.csv", "path,label,Class\n1.jpg,ant,ant\n", "the columns 'label' and 'Class' both mean the label"),
        ("x.csv", "path,label\n", "holds no row with a path"),
        ("x.csv", "path,label\n1.jpg\n", "but begins with line 2: 1 columns, the first line has 2"),
        (
            "x.jsonl",
            '{"image": "1.jpg", "label": "ant"}\n',
            "but begins with line 1: no path among its columns 'image', 'label'",
        ),
        ("x.jsonl", "hello\n", "but begins with line 1: no JSON"),
        ("x.csv", "path,label\n1,2\n".encode("utf-16"), "is written in UTF-16: save it as UTF-8"),
        ("x.csv", "path,label\n1.jpg,ant\n2.jpg,ant\n", "holds one class only (ant), and a classifier needs two"),
        ("x.csv", "path,label\n1.jpg,ant\n2.jpg,Ant\n", "labels 'Ant' and 'ant' in"),
        ("x.csv", b"path,label\n1.jpg,ant\n2.jpg,\xff\n", "label '\\udcff' in"),
    ],
)
def test_listings_that_cannot_be_used(tmp_path: pathlib.Path, name: str, text: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path / name, text)


def test_a_group_column_and_an_expression_exclude_each_other(tmp_path: pathlib.Path) -> None:
    text = "path,label,group\n1_a.jpg,ant,p1\n2_a.jpg,bee,\n"
    assert "drop one of them" in refusal(tmp_path / "x.csv", text, group_by="(.*)_")
    one = opened(tmp_path / "y.csv", "path,label,group\n1_a.jpg,ant,\n2_a.jpg,bee,\n", group_by="(.*)_")
    assert [found.group for found in everything(one)] == ["1", "2"]  # type: ignore[union-attr]


def test_labels_that_are_something_else_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAX_CLASSES", 3)
    text = "path,label\n" + "".join(f"{number}.jpg,id{number}\n" for number in range(4))
    assert "more than 3 different values in its column 'label', 'id3' among them" in refusal(tmp_path / "x.csv", text)


def test_paths_are_relative_or_full_and_never_leave_the_folder(tmp_path: pathlib.Path) -> None:
    bucket = f"memory://{uuid.uuid4().hex}/1.jpg"
    storage.write_text(bucket, "in a bucket")
    (tmp_path / "secret.jpg").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/1.jpg").write_text("elsewhere")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.jpg").write_text("one")
    (folder / "link.jpg").symlink_to("1.jpg")
    (folder / "out.jpg").symlink_to("../secret.jpg")
    (folder / "out").symlink_to("..")
    paths = ["1.jpg", ".//1.jpg", f"{folder}/1.jpg", "link.jpg", f"{tmp_path}/other/1.jpg", bucket]
    bad = ["../secret.jpg", "a/../../secret.jpg", "..", "out.jpg", "out/secret.jpg", "out/in/out/secret.jpg"]
    text = "path,label\n" + "".join(f"{path},ant\n" for path in [*paths, *bad]) + "2.jpg,bee\n"
    one = opened(folder / "x.csv", text)
    found = everything(one)
    sources = [each.file for each in found if isinstance(each, Source)]
    assert sources == ["1.jpg", "1.jpg", "1.jpg", "link.jpg", f"{tmp_path}/other/1.jpg", bucket, "2.jpg"]
    rejected = [each for each in found if isinstance(each, Rejected)]
    assert [each.source.file for each in rejected] == [bad[0], "../secret.jpg", *bad[2:]]
    assert {each.reason for each in rejected} == {"outside_root"}
    assert rejected[0].detail.startswith("line 8: ")
    data = list(one.read_many(sources[:-1], 100))
    assert data == [b"one"] * 4 + [b"elsewhere", b"in a bucket"]


def test_names_that_are_not_utf_8_are_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_text("1")
    one = opened(tmp_path / "x.csv", b"path,label\n\xff.jpg,ant\nb.jpg,bee\n")
    assert one.read(everything(one)[0].file, 9) == b"1"  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_many_pieces_give_every_row_once_with_its_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Pieces end where rows do, also where quoted names hold line ends."""
    monkeypatch.setattr(listing, "_PIECE_BYTES", 50)
    names = [f"{number}\n{'x' * (number % 60)}.jpg" if number % 3 else f"{number}.jpg" for number in range(200)]
    if suffix == "csv":
        text = "path,label\n" + "".join(f'"{name}",c{number % 2}\n' for number, name in enumerate(names))
    else:
        text = "".join(
            json.dumps({"path": name, "label": f"c{number % 2}"}) + "\n" for number, name in enumerate(names)
        )
    one = opened(tmp_path / f"x.{suffix}", text + "bad\n")
    assert len(one.pieces()) > 90
    found = everything(one)
    assert [(each.file, each.class_name) for each in found if isinstance(each, Source)] == [
        (name, f"c{number % 2}") for number, name in enumerate(names)
    ]
    (rejected,) = [each for each in found if isinstance(each, Rejected)]
    assert rejected.detail.startswith(f"line {text.count(chr(10)) + 1}: ")


def test_a_listing_in_a_bucket(tmp_path: pathlib.Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for name in ("a/1.jpg", "2.jpg"):
        storage.write_text(f"{root}/{name}", name)
    storage.write_text(f"{root}/x.csv", f"path,label\na/1.jpg,ant\n{root}/2.jpg,bee\n../3.jpg,bee\n")
    (one,) = open_inputs([f"{root}/x.csv"])
    first, second, third = everything(one)
    assert (first, second) == (Source(0, "a/1.jpg", "ant"), Source(0, "2.jpg", "bee"))
    assert isinstance(third, Rejected)
    assert third.reason == "outside_root"
    assert list(one.read_many(["2.jpg", "a/1.jpg"], 100)) == [b"2.jpg", b"a/1.jpg"]
