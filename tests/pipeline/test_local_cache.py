"""The cache of local files: its bound, what it holds on to, several processes at once, and processes that die."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from pipeline.errors import InputError
from pipeline.local_cache import Held, LocalCache
from tests.conftest import REPOSITORY
from tests.pipeline.cache_user import FILES, SIZE_BYTES, content, name, right


@pytest.fixture
def user(tmp_path: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started = []

    def start(mode: str, *, max_bytes: int = 10 * SIZE_BYTES, seed: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.pipeline.cache_user", str(tmp_path), str(max_bytes), str(seed), mode]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def take(cache: LocalCache, number: int, filled: list[int] | None = None) -> Held | None:
    def fill(stream: IO[bytes]) -> None:
        if filled is not None:
            filled.append(number)
        stream.write(content(number))

    return cache.add(name(number), SIZE_BYTES, fill, lambda path: right(number, path))


def keep(cache: LocalCache, number: int) -> None:
    held = take(cache, number)
    assert held
    held.release()


def kept(folder: pathlib.Path) -> set[int]:
    names = {path.name for path in folder.iterdir()} - {".lock"}
    numbers = {number for number in range(FILES) if name(number) in names}
    assert len(numbers) == len(names), names
    return numbers


def test_what_was_made_once_is_found_again(tmp_path: pathlib.Path) -> None:
    filled: list[int] = []
    for _ in range(2):  # the second as after a restart
        cache = LocalCache(str(tmp_path / "new/folder"), 10 * SIZE_BYTES)
        for _ in range(2):
            held = take(cache, 3, filled)
            assert held
            assert right(3, held.path)
            held.release()
    assert filled == [3]
    assert cache.find(name(4), lambda path: True) is None


def test_the_least_recently_used_goes_and_never_one_in_use(tmp_path: pathlib.Path) -> None:
    cache = LocalCache(str(tmp_path), 3 * SIZE_BYTES + 5)
    for number in (0, 1, 2):
        keep(cache, number)
    keep(cache, 0)
    keep(cache, 3)
    assert kept(tmp_path) == {0, 2, 3}
    held = [take(cache, 2), take(cache, 0)]
    keep(cache, 4)
    assert kept(tmp_path) == {0, 2, 4}
    held.append(take(cache, 4))
    assert take(cache, 5) is None  # there is room for three, and all are in use
    assert kept(tmp_path) == {0, 2, 4}
    assert held[1]
    held[1].release()
    keep(cache, 5)
    assert kept(tmp_path) == {2, 4, 5}


def test_a_file_held_twice_stays_until_both_let_go(tmp_path: pathlib.Path) -> None:
    cache = LocalCache(str(tmp_path), SIZE_BYTES)
    first, second = take(cache, 0), take(cache, 0)
    assert first
    assert second
    first.release()
    assert take(cache, 1) is None
    second.release()
    keep(cache, 1)
    assert kept(tmp_path) == {1}


def test_one_larger_than_the_bound_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"may hold 0\.0 MiB, and one file of it needs .*input\.cache_gib"):
        take(LocalCache(str(tmp_path), SIZE_BYTES - 1), 0)
    keep(LocalCache(str(tmp_path), SIZE_BYTES), 0)


def test_files_of_others_are_not_touched(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.doc").write_bytes(bytes(5 * SIZE_BYTES))
    cache = LocalCache(str(tmp_path), SIZE_BYTES)
    for number in range(3):
        keep(cache, number)
    assert (tmp_path / "thesis.doc").stat().st_size == 5 * SIZE_BYTES


@pytest.mark.parametrize("damage", [b"", content(0)[:-1], b"?" + content(0)[1:]])
def test_a_damaged_file_is_made_again_after_a_restart_and_where_it_was_changed(
    tmp_path: pathlib.Path, damage: bytes
) -> None:
    cache = LocalCache(str(tmp_path), 2 * SIZE_BYTES)
    keep(cache, 0)
    for used in (cache, LocalCache(str(tmp_path), 2 * SIZE_BYTES)):
        (tmp_path / name(0)).write_bytes(damage)
        filled: list[int] = []
        held = take(used, 0, filled)
        assert held
        assert right(0, held.path)
        assert filled == [0]
        held.release()


def test_checked_once_a_process(tmp_path: pathlib.Path) -> None:
    keep(LocalCache(str(tmp_path), SIZE_BYTES), 0)
    cache, checked = LocalCache(str(tmp_path), SIZE_BYTES), []
    for _ in range(3):
        held = cache.find(name(0), lambda path: not checked.append(path))
        assert held
        held.release()
    assert len(checked) == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("early", [True, False])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: int, early: bool
) -> None:
    cache = LocalCache(str(tmp_path), SIZE_BYTES)

    def full(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    if early:
        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"its disk is full.*input\.cache_dir"):
        cache.add(name(0), SIZE_BYTES, lambda stream: stream.write(b"1") and full(), lambda path: True)
    assert kept(tmp_path) == set()


def test_a_disk_that_is_really_full_says_so_before_anything_is_fetched(tmp_path: pathlib.Path) -> None:
    size_bytes = 1 << 50  # a PiB
    with pytest.raises(InputError, match=r"the shard cache .* can't take"):
        LocalCache(str(tmp_path), size_bytes).add(
            name(0), size_bytes, lambda stream: pytest.fail("fetched"), lambda path: True
        )
    assert kept(tmp_path) == set()


def test_what_fails_leaves_nothing_and_can_be_tried_again(tmp_path: pathlib.Path) -> None:
    cache = LocalCache(str(tmp_path), SIZE_BYTES)
    with pytest.raises(ValueError, match="1 bytes were written, 40,000 were announced"):
        cache.add(name(0), SIZE_BYTES, lambda stream: stream.write(b"1"), lambda path: True)
    with pytest.raises(KeyError):
        cache.add(name(0), SIZE_BYTES, lambda stream: {}[stream], lambda path: True)
    assert kept(tmp_path) == set()
    keep(cache, 0)


def test_half_of_what_is_free_is_the_bound_where_none_is_given(tmp_path: pathlib.Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    assert LocalCache(str(tmp_path), None).max_bytes == pytest.approx(free / 2, rel=0.2)  # others write too


def test_threads_make_each_file_once(tmp_path: pathlib.Path) -> None:
    cache, filled = LocalCache(str(tmp_path), 20 * SIZE_BYTES), []

    def work(first: int) -> None:
        for number in range(FILES):
            held = take(cache, (first + number) % FILES, filled)
            assert held
            held.release()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(filled) == list(range(FILES))


def test_two_processes_share_a_folder(tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]) -> None:
    processes = [user("storm", max_bytes=20 * SIZE_BYTES, seed=seed) for seed in range(2)]
    made = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(made) == FILES  # each file once, whoever was first
    assert kept(tmp_path) == set(range(FILES))


def test_processes_remove_what_nobody_uses_and_nothing_else(
    tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [user("storm", max_bytes=4 * SIZE_BYTES, seed=seed) for seed in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(kept(tmp_path)) <= 4


def test_what_another_process_uses_stays_until_it_ends(
    tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]
) -> None:
    other = user("holds")
    assert other.stdout
    assert other.stdout.readline() == "holds\n"
    cache = LocalCache(str(tmp_path), SIZE_BYTES)
    assert take(cache, 1) is None
    other.send_signal(signal.SIGKILL)
    other.wait()
    keep(cache, 1)
    assert kept(tmp_path) == {1}


def test_killed_while_it_writes(tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]) -> None:
    other = user("slow")
    assert other.stdout
    assert other.stdout.readline() == "writes\n"
    cache = LocalCache(str(tmp_path), 2 * SIZE_BYTES)
    keep(cache, 1)  # beside what is being written, which counts from its start
    held = take(cache, 1)
    assert take(cache, 2) is None
    assert (tmp_path / (name(0) + ".partial")).exists()
    killer = threading.Timer(0.2, other.kill)
    killer.start()
    filled: list[int] = []
    began = time.monotonic()
    keep_waiting = take(cache, 0, filled)  # waits for the other, and takes its place when it dies
    assert keep_waiting
    assert right(0, keep_waiting.path)
    assert filled == [0]
    assert time.monotonic() - began < 30
    assert held
    assert kept(tmp_path) == {0, 1}


def test_what_a_killed_process_left_is_removed_by_whoever_needs_room(
    tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]
) -> None:
    other = user("slow")
    assert other.stdout
    other.stdout.readline()
    other.kill()
    other.wait()
    assert (tmp_path / (name(0) + ".partial")).exists()
    cache = LocalCache(str(tmp_path), SIZE_BYTES)
    assert cache.find(name(0), lambda path: True) is None
    keep(cache, 1)
    assert kept(tmp_path) == {1}


@pytest.mark.soak
def test_a_storm_of_processes_that_are_killed(
    tmp_path: pathlib.Path, user: Callable[..., subprocess.Popen[str]]
) -> None:
    for number in range(40):
        processes = [user("storm", max_bytes=5 * SIZE_BYTES, seed=100 * number + seed) for seed in range(3)]
        time.sleep(0.1 + 0.01 * number)
        processes[0].kill()
        for process in processes[1:]:
            process.communicate(timeout=120)
            assert process.returncode == 0
    cache = LocalCache(str(tmp_path), FILES * SIZE_BYTES)
    for number in range(FILES):
        keep(cache, number)
    assert kept(tmp_path) == set(range(FILES))
