"""A corpus of files as hostile as people and disks make them: a seed in, a folder of classes out, and its verdicts.

Beside the folder lies a canary that nothing may read.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import pathlib
import socket
from collections.abc import Mapping

import numpy as np

from tests.preprocess.hostile_files import (
    EITHER,
    RARE,
    REJECTED,
    USABLE,
    Random,
    bad_kinds,
    jpeg,
    odd_kinds,
    usable_kinds,
)

CLASSES = ("ant", "bee", "lá chuối")


@dataclasses.dataclass(frozen=True)
class Expected:
    kind: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """`rows` has one entry for each row that the ledger must have, by the file's name relative to the root."""

    seed: int
    rows: Mapping[str, Expected]
    hidden: int  # files that are counted and left out
    canary: bytes  # stands in every file outside the root, and in no file inside
    outside: pathlib.Path  # a folder; a file `pwned` appears in it when something inside was executed

    @property
    def by_class(self) -> dict[str, int]:
        return dict(collections.Counter(file.partition("/")[0] for file in self.rows))

    @property
    def kinds(self) -> dict[str, int]:
        return dict(collections.Counter(expected.kind for expected in self.rows.values()))


def make_hostile_corpus(root: pathlib.Path, seed: int, files: int = 1000) -> Corpus:
    """Fills `root`, which must not exist, with at least `files` files; equal seeds and roots give equal bytes.

    The canary's folder is made beside `root`, whose address stands in files that try to reach it.
    """
    canary = b"CANARY-" + hashlib.sha256(b"%d" % seed).hexdigest().encode()
    outside = root.parent / f"{root.name}-outside"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    rows: dict[str, Expected] = {}
    _put_canary(outside, canary, seed)
    hidden = _put_special_files(root, outside, rows, seed)
    for index, name in enumerate(_names()):
        _put(root, rows, f"{CLASSES[index % len(CLASSES)]}/{name}", "odd_name", USABLE, jpeg(_random(seed, 1, index)))
    usable = usable_kinds()
    content = {**usable, **odd_kinds(), **bad_kinds(outside)}
    # Good images thrice, so that every class has enough to split.
    often = [kind for kind in [*content, *usable, *usable] if kind not in RARE]
    turns = [*RARE, *often * (files // len(often) + 1)]
    for index, kind in enumerate(turns):
        if len(rows) >= files:
            break
        verdict, extension, make = content[kind]
        class_name = CLASSES[index // 7 % len(CLASSES)]
        _put(root, rows, f"{class_name}/{index:05d}{extension}", kind, verdict, make(_random(seed, 2, index)))
    return Corpus(seed, rows, hidden, canary, outside)


def _random(*seed: int) -> Random:
    return np.random.default_rng(seed)


def _put(root: pathlib.Path, rows: dict[str, Expected], file: str, kind: str, verdict: str, data: bytes) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    rows[file] = Expected(kind, verdict)


def _names() -> list[str]:
    """Names that file systems allow and programs trip over; each holds a good image."""
    return [
        "new\nline.jpg",
        "tab\tand\x07bell.jpg",
        "\udcff\udcfe not utf-8.jpg",
        "emoji \U0001f41c.jpg",
        "right to left \u202egpj.exe",
        "la\u0301 combining.jpg",
        "l\u00e1 composed.jpg",
        "-rf.jpg",
        "--help",
        "$(touch pwned).jpg",
        "'; drop table images; --.jpg",
        "%s%n{0}{__class__}.jpg",
        "a..jpg",
        "a\\..\\..\\b.jpg",
        "%2e%2e%2fsecret.jpg",
        "two::colons.jpg",
        "gs:.jpg",
        "a?b#c*d[e]f.jpg",
        " leading and trailing .jpg ",
        "con.jpg.",
        "<script>alert(1)</script>.jpg",
        'comma,quote",.jpg',
        "x@0+5",
        "null",
        "n" * 250 + ".jpg",
        "\u1ea1" * 83 + ".jpg",  # 253 bytes
        "/".join(["d" * 60] * 8 + ["deep.jpg"]),
        "/".join("abcdefghijklmnopqrstuvwxyz" * 3) + "/deeper.jpg",
        "folder.jpg/image.jpg",
        "folder.jpg/inner.png/image",
    ]


def _put_canary(outside: pathlib.Path, canary: bytes, seed: int) -> None:
    """Good images, so that whoever reads one writes it on."""
    (outside / "folder").mkdir(parents=True)
    for index, name in enumerate(("secret.jpg", "folder/1.jpg", "folder/2.jpg")):
        (outside / name).write_bytes(jpeg(_random(seed, 3, index), comment=canary))
    (outside / "secret.txt").write_bytes(canary)


def _put_special_files(root: pathlib.Path, outside: pathlib.Path, rows: dict[str, Expected], seed: int) -> int:
    """Links, pipes, sockets and the like; returns how many hidden files there are."""
    ant, bee = root / "ant", root / "bee"
    for index, file in enumerate(("ant/origin.jpg", "ant/locked.jpg", "bee/origin.jpg")):
        _put(root, rows, file, "locked" if "locked" in file else "jpeg", USABLE, jpeg(_random(seed, 4, index)))
    (ant / "locked.jpg").chmod(0)
    rows["ant/locked.jpg"] = Expected("locked", EITHER)  # root reads it
    os.link(ant / "origin.jpg", ant / "hard.jpg")
    rows["ant/hard.jpg"] = Expected("hard_link", USABLE)
    links = {
        "ant/inside.jpg": ("origin.jpg", USABLE),
        "ant/around.jpg": ("../bee/../ant/origin.jpg", USABLE),
        "ant/absolute.jpg": (str(ant / "origin.jpg"), USABLE),
        "ant/dangling.jpg": ("nowhere.jpg", REJECTED),
        "ant/self.jpg": ("self.jpg", REJECTED),
        "ant/ping.jpg": ("pong.jpg", REJECTED),
        "ant/pong.jpg": ("ping.jpg", REJECTED),
        "ant/up": ("..", REJECTED),
        "ant/here": (".", REJECTED),
        "bee/out.jpg": (f"../../{outside.name}/secret.jpg", REJECTED),
        "bee/out-absolute.jpg": (str(outside / "secret.jpg"), REJECTED),
        "bee/out-text.jpg": (str(outside / "secret.txt"), REJECTED),
        "bee/out-folder": (str(outside / "folder"), REJECTED),
        "bee/out-by-folder.jpg": ("out-folder/1.jpg", REJECTED),
        "bee/out-by-two.jpg": ("out.jpg", REJECTED),
        "bee/passwd.jpg": ("/etc/passwd", REJECTED),
        "bee/zero.jpg": ("/dev/zero", REJECTED),
        "bee/environment.jpg": ("/proc/self/environ", REJECTED),
    }
    for file, (target, verdict) in links.items():
        (root / file).symlink_to(target)
        kind = "link_out" if file.startswith("bee/") else "link_inside" if verdict == USABLE else "link_broken"
        rows[file] = Expected(kind, verdict)
    (root / "leak").symlink_to(outside / "folder")  # a whole class
    for number in range(3):
        os.mkfifo(bee / f"pipe{number}.jpg")
        rows[f"bee/pipe{number}.jpg"] = Expected("pipe", REJECTED)
    with socket.socket(socket.AF_UNIX) as server:  # a name of 100 bytes at most
        server.bind(os.path.relpath(bee / "socket.jpg"))
    rows["bee/socket.jpg"] = Expected("socket", REJECTED)
    with open(bee / "sparse.jpg", "wb") as stream:  # nothing on disk
        stream.truncate(3 << 30)
    rows["bee/sparse.jpg"] = Expected("sparse", REJECTED)
    (ant / "empty.jpg").mkdir()
    hidden = ("ant/.DS_Store", "ant/._origin.jpg", "bee/.git/config", "bee/__MACOSX/._1.jpg", "bee/__MACOSX/1.jpg")
    for index, file in enumerate(hidden):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes(jpeg(_random(seed, 5, index)))
    (root / "notes.txt").write_text("beside the classes")
    return len(hidden)
