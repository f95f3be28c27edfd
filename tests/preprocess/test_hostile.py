"""A thousand hostile files: the job ends well, every file is accounted for, and nothing outside the root is read."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from pipeline import manifest
from preprocess.inputs import Hidden, Rejected, Source, open_inputs
from tests.preprocess.folders import REPOSITORY
from tests.preprocess.hostile import REJECTED, USABLE, Corpus, make_hostile_corpus

SEED = 20240229
# One worker's bound, of which importing Beam takes about a sixth.
MAX_BYTES = 2**30
# A process begins with the memory of the one it was forked from, and the test's own may be large: one between them.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Corpus]:
    root = tmp_path_factory.mktemp("hostile") / "in"
    return root, make_hostile_corpus(root, SEED)


def fingerprint(root: pathlib.Path) -> str:
    """Of names, kinds, link targets and contents."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            digest.update(os.fsencode(os.path.relpath(path, root)) + bytes([stat.S_IFMT(status.st_mode) >> 12]))
            if stat.S_ISLNK(status.st_mode):
                digest.update(os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(status.st_mode) and status.st_size < 2**30 and os.access(path, os.R_OK):
                digest.update(pathlib.Path(path).read_bytes())
    return digest.hexdigest()


def test_the_corpus_is_large_various_and_follows_its_seed(tmp_path: pathlib.Path) -> None:
    prints = set()
    for seed in (1, 1, 2):
        root = tmp_path / "in"
        corpus = make_hostile_corpus(root, seed)
        assert len(corpus.rows) >= 1000
        assert len(corpus.kinds) >= 60
        prints.add(fingerprint(root))
        for path in (root, corpus.outside):
            subprocess.run(["rm", "-r", str(path)], check=True)
    assert len(prints) == 2


def test_listing_names_every_file_and_opens_nothing_outside(corpus: tuple[pathlib.Path, Corpus]) -> None:
    root, expected = corpus
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:  # cannot be taken back, so it can be switched off
        if watching and event == "open" and isinstance(arguments[0], str):
            opened.append(os.path.realpath(arguments[0]))

    sys.addaudithook(watch)
    (one,) = open_inputs([str(root)])
    found = [each for piece in one.pieces() for each in one.sources(piece)]
    sources = [each.file for each in found if isinstance(each, Source)]
    read = dict(zip(sources, one.read_many(sources, 2**20), strict=True))
    watching = False

    assert opened
    assert [path for path in opened if not path.startswith(f"{os.path.realpath(root)}/")] == []
    rejected = {each.source.file: each.reason for each in found if isinstance(each, Rejected)}
    assert sorted([*sources, *rejected]) == sorted(expected.rows)
    assert sum(isinstance(each, Hidden) for each in found) == expected.hidden
    links = {file for file, row in expected.rows.items() if row.kind == "link_out"}
    assert {file for file, reason in rejected.items() if reason == "outside_root"} == links
    unread = {file for file, data in read.items() if isinstance(data, OSError)} | set(rejected)
    kinds = {expected.rows[file].kind for file in unread}
    assert kinds - {"locked"} == {"link_out", "link_broken", "pipe", "socket"}
    assert not [file for file, data in read.items() if isinstance(data, bytes) and expected.canary in data]


def test_the_job_accounts_for_every_file_in_bounded_memory(
    corpus: tuple[pathlib.Path, Corpus], tmp_path: pathlib.Path
) -> None:
    root, expected = corpus
    command = [sys.executable, "-m", "preprocess", f"--input={root}", f"--output={tmp_path}/out", "--name=hostile"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], cwd=REPOSITORY, capture_output=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said.decode(errors="backslashreplace")[-3000:]
    peak_bytes = 1024 * int(done.stdout.splitlines()[-1])  # Linux counts in KiB

    directory = tmp_path / "out/hostile/1.0.0"
    lines = [line for part in sorted(directory.glob("ledger-*")) for line in part.read_text().splitlines()]
    rows = {row["file"]: row for row in map(json.loads, lines)}
    assert len(lines) == len(rows)
    assert set(rows) == set(expected.rows)
    kept = {file for file, row in rows.items() if row["status"] in ("written", "duplicate")}
    for file, row in expected.rows.items():
        if row.verdict == USABLE:
            assert file in kept, rows[file]
        elif row.verdict == REJECTED:
            assert file not in kept, rows[file]
    balance = manifest.load(str(directory)).ledger
    assert {name: counts["seen"] for name, counts in balance["by_class"].items()} == expected.by_class
    for counts in balance["by_class"].values():
        assert counts["seen"] == counts["written"] + counts["quarantined"] + counts["duplicates"]

    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if expected.canary in path.read_bytes()]
    assert expected.canary not in said
    assert not (expected.outside / "pwned").exists()
    assert not (REPOSITORY / "pwned").exists()
    assert peak_bytes < MAX_BYTES, f"{peak_bytes / 2**20:.0f} MiB"
