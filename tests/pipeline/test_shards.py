"""Opening shards: local and remote ones, in the background and not, and what is said where something is wrong."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
import tensorflow as tf

from pipeline import manifest, shards, sources, storage
from pipeline.errors import InputError
from tests.pipeline import http_folder, shard_files


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> tuple[pathlib.Path, manifest.Manifest]:
    root = tmp_path / "data"
    return root, shard_files.small(root)


@pytest.fixture
def server(dataset: tuple[pathlib.Path, manifest.Manifest]) -> Iterator[http_folder.Server]:
    pytest.importorskip("aiohttp", reason="fsspec needs it for HTTP")
    with http_folder.serving(dataset[0]) as serving:
        yield serving


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BACKOFF_S", (0.01,) * 4)


def local(root: pathlib.Path, made: manifest.Manifest) -> shards.Opener:
    return shards.Opener(str(root), made.split("train").shards, cache_dir=None, cache_bytes=None)


def remote(address: str, made: manifest.Manifest, cache: pathlib.Path, **more: int) -> shards.Opener:
    options = {"cache_bytes": 1 << 20, **more}
    return shards.Opener(address, made.split("train").shards, cache_dir=str(cache), **options)  # type: ignore[arg-type]


def sha256(path: str) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def test_in_a_graph_the_shards_come_as_they_are_and_in_the_order_asked_for(
    dataset: tuple[pathlib.Path, manifest.Manifest],
) -> None:
    root, made = dataset
    opener = local(root, made)
    order = [2, 0, 3, 1, 1, 2, 0, 3]
    opener.expect(order)

    def records_of(index: tf.Tensor) -> tf.data.Dataset:
        path = tf.numpy_function(lambda i: opener.open(i).encode(), [index], tf.string)
        return tf.data.TFRecordDataset(tf.ensure_shape(path, []))

    read = list(tf.data.Dataset.from_tensor_slices(order).flat_map(records_of).as_numpy_iterator())
    files = [root / made.split("train").shards[index].file for index in order]
    assert read == list(tf.data.TFRecordDataset([str(file) for file in files]).as_numpy_iterator())
    assert [path for path, _ in opener.recent()] == [str(file) for file in reversed(files[-4:])]
    opener.close()


def test_many_threads_get_what_they_ask_for(
    dataset: tuple[pathlib.Path, manifest.Manifest], server: http_folder.Server, tmp_path: pathlib.Path
) -> None:
    _, made = dataset
    opener = remote(server.address, made, tmp_path / "cache")
    opener.expect([0, 1, 2, 3] * 3)
    wrong: list[int] = []

    def reader(first: int) -> None:
        order = [(first + number) % 4 for number in range(12)]
        wrong.extend(index for index in order if sha256(opener.open(index)) != made.split("train").shards[index].sha256)

    threads = [threading.Thread(target=reader, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(server.gets) == sorted(f"/{shard.file}" for shard in made.split("train").shards)  # once each
    opener.close()


def test_a_shard_is_hashed_once_and_again_where_its_file_has_changed(
    dataset: tuple[pathlib.Path, manifest.Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, made = dataset
    hashed = []
    original = sources._sha256
    monkeypatch.setattr(sources, "_sha256", lambda stream: hashed.append(1) or original(stream))
    opener = local(root, made)
    path = pathlib.Path(opener.open(0))
    assert opener.open(0) == str(path)
    assert len(hashed) == 1
    data = path.read_bytes()
    path.write_bytes(data)  # as preparation with equal settings would
    opener.open(0)
    assert len(hashed) == 2
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=times)
    with pytest.raises(
        InputError, match=rf"{path.name} has changed since training began: its SHA-256 is [0-9a-f]{{64}}"
    ):
        opener.open(0)
    assert isinstance(opener.failure, InputError)
    first = opener.failure
    path.write_bytes(data[:-1])
    with pytest.raises(
        InputError, match=rf"{path.name} has changed since training began: it has {len(data) - 1:,} bytes"
    ):
        opener.open(0)
    assert len(hashed) == 3
    path.unlink()
    with pytest.raises(InputError, match=rf"{path.name} is missing: copy it back"):
        opener.open(0)
    assert opener.failure is first


def test_a_background_failure_is_raised_where_the_shard_is_opened(
    dataset: tuple[pathlib.Path, manifest.Manifest],
) -> None:
    root, made = dataset
    (root / made.split("train").shards[2].file).unlink()
    opener = local(root, made)
    opener.expect(range(4))
    opener.open(0)
    opener.open(1)
    assert opener.failure is None
    with pytest.raises(InputError, match=r"tiny-train\.tfrecord-00002-of-00004 is missing"):
        opener.open(2)
    assert opener.failure is not None


def test_only_so_many_are_got_ready_ahead(
    dataset: tuple[pathlib.Path, manifest.Manifest], server: http_folder.Server, tmp_path: pathlib.Path
) -> None:
    root, _ = dataset
    made = shard_files.small(root, shards=12, examples=2)
    opener = remote(server.address, made, tmp_path / "cache")
    opener.expect(range(12))
    opener.open(11)  # not in the order that was announced
    for future in list(opener._ready.values()):
        future.result()
    assert sorted(server.gets) == sorted(f"/{made.split('train').shards[index].file}" for index in (0, 1, 2, 3, 11))
    for index in range(11):
        opener.open(index)
    assert len(server.gets) == 12
    opener.close()


def test_fsspec_memory_is_remote_too(dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path) -> None:
    root, made = dataset
    address = f"memory://{uuid.uuid4().hex}"
    for shard in made.split("train").shards:
        storage.copy(str(root / shard.file), f"{address}/{shard.file}")
    opener = remote(address, made, tmp_path / "cache")
    assert [sha256(opener.open(index)) for index in range(4)] == [shard.sha256 for shard in made.split("train").shards]
    storage.remove_tree(address)  # what the cache holds is used on
    assert sha256(opener.open(1)) == made.split("train").shards[1].sha256
    opener.close()


@pytest.mark.parametrize(
    "faults", [["503"] * 4, ["cut"], ["503", "cut", "503", "cut"], ["flip"], ["flip", "503", "flip"]]
)
@pytest.mark.parametrize("ranges", [True, False])
def test_what_passes_is_tried_again(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    server: http_folder.Server,
    tmp_path: pathlib.Path,
    faults: list[str],
    ranges: bool,
) -> None:
    _, made = dataset
    server.faults, server.ranges = list(faults), ranges
    opener = remote(server.address, made, tmp_path / "cache")
    assert sha256(opener.open(0)) == made.split("train").shards[0].sha256
    assert server.faults == []
    assert len(server.gets) > len(faults) - 1
    opener.close()


@pytest.mark.parametrize("part_bytes", [1, 1000])
def test_parts_of_any_size_make_the_whole(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    part_bytes: int,
) -> None:
    root, made = dataset
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    address = f"memory://{uuid.uuid4().hex}"
    storage.copy(str(root / made.split("train").shards[0].file), f"{address}/{made.split('train').shards[0].file}")
    opener = remote(address, made, tmp_path / "cache")
    assert sha256(opener.open(0)) == made.split("train").shards[0].sha256
    opener.close()


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (["503"] * 5, "can't be fetched .*503.*start again; training resumes"),
        (["404"], "is missing"),
        (["401"], "can't be fetched"),  # and not asked for again
        (["429", "403"], "can't be fetched"),
        (["flip"] * 3, "its SHA-256 is [0-9a-f]{64}, the manifest says"),
    ],
)
def test_what_stays_is_named_and_leaves_nothing(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    server: http_folder.Server,
    tmp_path: pathlib.Path,
    faults: list[str],
    expected: str,
) -> None:
    _, made = dataset
    server.faults = list(faults)
    opener = remote(server.address, made, tmp_path / "cache")
    with pytest.raises(InputError, match=rf"shard http.*/tiny-train\.tfrecord-00000-of-00004 .*{expected}"):
        opener.open(0)
    assert server.faults == []
    assert len(server.gets) == len(faults)
    assert os.listdir(tmp_path / "cache") == [".lock"]
    assert sha256(opener.open(1)) == made.split("train").shards[1].sha256
    opener.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-7], "it has {size} bytes, the manifest says"),
        (lambda data: data + b"more", "it has at least {size} bytes"),
        (lambda data: b"", "it has 0 bytes"),
        (lambda data: data[:50] + b"?" + data[51:], "its SHA-256 is"),
    ],
)
def test_another_object_in_the_bucket_is_named(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    tmp_path: pathlib.Path,
    change: object,
    expected: str,
) -> None:
    root, made = dataset
    shard = made.split("train").shards[1]
    data = change((root / shard.file).read_bytes())  # type: ignore[operator]
    address = f"memory://{uuid.uuid4().hex}"
    storage.write_bytes(f"{address}/{shard.file}", data)
    opener = remote(address, made, tmp_path / "cache")
    size = min(len(data), shard.bytes + 1)
    with pytest.raises(InputError, match=f"{shard.file} has changed: {expected.format(size=f'{size:,}')}"):
        opener.open(1)
    opener.close()


def test_swapped_shards_are_told_apart(dataset: tuple[pathlib.Path, manifest.Manifest]) -> None:
    root, _ = dataset
    lists = [[shard_files.record(0, shard_files.image(0)[:-2] + bytes([n]) * 2)] for n in range(2)]  # of equal sizes
    made = shard_files.write(root, {"train": lists})
    first, second = (root / shard.file for shard in made.split("train").shards)
    assert first.stat().st_size == second.stat().st_size
    first.rename(root / "x")
    second.rename(first)
    (root / "x").rename(second)
    with pytest.raises(
        InputError, match=r"00000-of-00002 has changed: .*\(that of tiny-train\.tfrecord-00001-of-00002\)"
    ):
        local(root, made).open(0)


def test_what_lies_in_a_shards_place_is_not_waited_for(dataset: tuple[pathlib.Path, manifest.Manifest]) -> None:
    root, made = dataset
    for index, make in enumerate((os.mkfifo, os.mkdir)):
        path = root / made.split("train").shards[index].file
        path.unlink()
        make(path)
        with pytest.raises(InputError, match=f"{path.name} (is not a regular file|can't be read)"):
            local(root, made).open(index)


def test_a_cache_that_does_not_fit_the_dataset_is_refused(
    dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    root, made = dataset
    train = made.split("train").shards
    with pytest.raises(InputError, match="is on a local disk and is read where it is"):
        shards.Opener(str(root), train, cache_dir=str(tmp_path / "c"), cache_bytes=None)
    with pytest.raises(InputError, match="up to 16 shards are read at once"):
        remote("memory://x", made, tmp_path / "c", cache_bytes=10)
    with pytest.raises(InputError, match="not on a local disk"):
        shards.Opener("memory://x", train, cache_dir="memory://y", cache_bytes=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give a folder on a local disk that you may write"):
        remote("memory://x", made, tmp_path / "file")


def test_closing_ends_a_download_and_leaves_nothing(
    dataset: tuple[pathlib.Path, manifest.Manifest], server: http_folder.Server, tmp_path: pathlib.Path
) -> None:
    _, made = dataset
    opener = remote(server.address, made, tmp_path / "cache")
    server.faults = ["503"] * 100
    opener.expect(range(4))
    opener.close()
    assert os.listdir(tmp_path / "cache") == [".lock"]
    assert opener.failure is None


def test_a_cache_smaller_than_the_split_is_kept_to(
    dataset: tuple[pathlib.Path, manifest.Manifest], server: http_folder.Server, tmp_path: pathlib.Path
) -> None:
    root, _ = dataset
    made = shard_files.small(root, shards=8, examples=2)
    train = made.split("train").shards
    bound = 3 * max(shard.bytes for shard in train)
    opener = remote(server.address, made, tmp_path / "cache", cache_bytes=bound, open_at_once=2)
    for order in (range(8), range(7, -1, -1)):
        opener.expect(order)
        for index in order:
            assert sha256(opener.open(index)) == train[index].sha256
            with open(tmp_path / "cache/.lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # nobody removes or adds while it is counted
                assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= bound
    opener.close()


def test_what_is_waited_for_goes_before_what_is_expected(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    server: http_folder.Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, _ = dataset
    made = shard_files.small(root, shards=8, examples=2)
    train = made.split("train").shards
    monkeypatch.setattr(shards, "_ROOM_WAIT_S", 5)
    bound = sum(sorted(shard.bytes for shard in train)[-3:])
    opener = remote(server.address, made, tmp_path / "cache", cache_bytes=bound, open_at_once=2)
    opener.expect(range(8))
    for index in (7, 6, 5, 4, 3, 2, 1, 0):  # the one got ready ahead is always in the way
        assert sha256(opener.open(index)) == train[index].sha256
    opener.close()


def test_no_room_is_said_after_a_while(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    server: http_folder.Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, made = dataset
    monkeypatch.setattr(shards, "_ROOM_WAIT_S", 0.2)
    bound = sum(shard.bytes for shard in made.split("train").shards)
    other, opener = (remote(server.address, made, tmp_path / "cache", cache_bytes=bound) for _ in range(2))
    for index in range(4):
        other.open(index)
    moved = dataclasses.replace(made.split("train").shards[0], sha256="0" * 64)
    late = shards.Opener(server.address, [moved], cache_dir=str(tmp_path / "cache"), cache_bytes=bound)
    with pytest.raises(InputError, match=r"no room for tiny-train.* are using: allow more"):
        late.open(0)
    assert sha256(opener.open(2)) == made.split("train").shards[2].sha256  # what is there can be shared
    other.close()
    opener.close()
    with pytest.raises(InputError, match="SHA-256"):
        late.open(0)
    late.close()
    with pytest.raises(ValueError, match="closed"):
        late.open(0)


@pytest.mark.parametrize("failures", [0.0, pytest.param(0.2, marks=pytest.mark.soak)])
def test_a_bucket(
    dataset: tuple[pathlib.Path, manifest.Manifest],
    tmp_path: pathlib.Path,
    serve_bucket: Callable[..., str],
    failures: float,
) -> None:
    root, _ = dataset
    made = shard_files.small(root, shards=12, examples=2)
    bucket = serve_bucket(f"--failures={failures}")
    for shard in made.split("train").shards:
        storage.copy(str(root / shard.file), f"{bucket}/tiny/{shard.file}")
    opener = remote(f"{bucket}/tiny", made, tmp_path / "cache")
    opener.expect(range(12))
    assert [sha256(opener.open(index)) for index in range(12)] == [shard.sha256 for shard in made.split("train").shards]
    with pytest.raises(InputError, match=r"shard gs://bucket/none/tiny-train.* is missing"):
        remote(f"{bucket}/none", made, tmp_path / "other").open(0)
    opener.close()
