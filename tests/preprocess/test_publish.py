"""Publishing as a runner, a kill and a second job may do it: interrupted at every step, and repeated."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import manifest, records, storage, versions
from pipeline.errors import InputError
from preprocess import commit, places, shards
from preprocess.settings import Settings
from tests.preprocess.folders import make_folders
from tests.preprocess.publisher import new_settings, staged

# Everything that changes a file outside a folder of the job's own, or removes one.
STEPS = [
    (storage, "whole_file"),
    (storage, "copy"),
    (storage, "remove_tree"),
    (versions, "replace"),
    (versions, "remove"),
    (versions, "copy_new"),
    (os, "rename"),
    (os, "unlink"),
]


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("in")
    return [str(make_folders(root / str(index), {"ant": 2, "bee": 2}, first=100 * index)) for index in range(2)]


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def contents(folder: str) -> dict[str, bytes]:
    if not storage.exists(folder):
        return {}
    return {name: storage.read_bytes(storage.join(folder, name)) for name in storage.files_under(folder)}


def run(settings: Settings, *, overwrite: bool = False) -> dict[str, bytes]:
    with places.prepare(settings, overwrite=overwrite) as ready:
        staged(ready.settings).publish()
    return contents(settings.directory)


def assert_whole(directory: str) -> None:
    """Nothing counts as a dataset that is not one: wherever a manifest stands, all it names is there, to the byte."""
    found = manifest.load(directory)
    for split in found.splits.values():
        for shard in split.shards:
            data = storage.read_bytes(storage.join(directory, shard.file))
            assert hashlib.sha256(data).hexdigest() == shard.sha256
            assert sum(1 for _ in records.read_framed(io.BytesIO(data))) == shard.examples
    assert storage.exists(storage.join(directory, "dataset_info.json"))


@contextlib.contextmanager
def killed_at(number: int, last: str = "") -> Iterator[list[str]]:
    """Ends the process, as far as an exception can, at the `number`th step or the first `last`; yields the steps."""
    done: list[str] = []

    def wrapped(real: Any, name: str) -> Any:
        def step(*given: Any, **more: Any) -> Any:
            if done and (done[-1] == last or len(done) == number + 1 > 0):
                raise Killed  # dead already: handlers that still run change nothing
            done.append(name)
            if name == last or len(done) == number + 1:
                raise Killed
            return real(*given, **more)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for module, name in STEPS:
            patch.setattr(module, name, wrapped(getattr(module, name), name))
        yield done


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("again", ["step", "job"])
def test_killed_at_any_step_and_repeated_it_ends_as_if_undisturbed(
    inputs: list[str], output: str, replacing: bool, again: str
) -> None:
    expected = run(new_settings(inputs[0], f"{output}/undisturbed", "u"))
    old = run(new_settings(inputs[1], f"{output}/old", "o"))
    steps: list[str] = []
    for number in range(100):
        here = f"{output}/{number}"
        directory = new_settings(inputs[0], here, "").directory
        if replacing:
            run(new_settings(inputs[1], here, "o"))
        with contextlib.ExitStack() as dies:
            ready = dies.enter_context(places.prepare(new_settings(inputs[0], here, "a"), overwrite=replacing))
            given = staged(ready.settings)
            with killed_at(number) as steps, contextlib.suppress(Killed):
                given.publish()
            if storage.exists(storage.join(directory, manifest.FILE)):
                assert_whole(directory)
                assert contents(directory) in ([old, expected] if replacing else [expected])
            elif storage.is_local(here):
                assert not storage.exists(directory)
            if again == "step":
                given.publish()
                given.publish()  # after the end, too
        if again == "job":
            finished = storage.exists(storage.join(directory, manifest.FILE))
            run(new_settings(inputs[0], here, "b"), overwrite=finished or replacing)
            if not storage.is_local(here):
                places.discard(ready.settings)  # what the user was told to delete
        assert contents(directory) == expected
        assert [name for name, _ in storage.children(os.path.dirname(directory))] == ["1.0.0"]
        if len(steps) <= number:
            break
    assert number > 5


def test_a_job_that_began_earlier_does_not_replace_what_it_has_not_seen(inputs: list[str], output: str) -> None:
    for overwrite in (False, True):
        here = f"{output}/{overwrite}"
        if overwrite:
            run(new_settings(inputs[0], here, "z"))
        with places.prepare(new_settings(inputs[0], here, "a"), overwrite=overwrite) as slow:
            given = staged(slow.settings)
            fast = run(new_settings(inputs[1], here, "b"), overwrite=overwrite)
            with pytest.raises(InputError, match=r"^another job published .* \(fingerprint [0-9a-f]{12}\) while"):
                given.publish()
        assert contents(slow.settings.directory) == fast


def test_two_jobs_of_equal_content_both_succeed(inputs: list[str], output: str) -> None:
    with places.prepare(new_settings(inputs[0], output, "a"), overwrite=False) as slow:
        given = staged(slow.settings)
        fast = run(new_settings(inputs[0], output, "b"))
        given.publish()
    assert contents(slow.settings.directory) == fast


def late(real: Any, patch: pytest.MonkeyPatch, quick: Settings) -> Any:
    """A step that happens only after another job did all of its own."""

    def step(*given: Any) -> None:
        patch.undo()
        run(quick, overwrite=True)
        real(*given)

    return step


def test_a_displaced_job_changes_nothing_any_more(inputs: list[str]) -> None:
    """The claim's holder stands still while another job claims; whatever it goes on with fails."""
    output = f"memory://{uuid.uuid4().hex}"
    for stop in ("remove", "copy", "copy_new"):
        here = f"{output}/{stop}"
        run(new_settings(inputs[0], here, "z"))
        quick = new_settings(inputs[1], here, "b")
        module = storage if stop == "copy" else versions
        with places.prepare(new_settings(inputs[0], here, "a"), overwrite=True) as slow:
            given = staged(slow.settings)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, stop, late(getattr(module, stop), patch, quick))
                with pytest.raises(InputError, match="another job published"):
                    given.publish()
        assert_whole(quick.directory)
        assert contents(quick.directory) == run(new_settings(inputs[1], f"{here}/x", "c"))
        assert [name for name, _ in storage.children(f"{here}/tiny")] == ["1.0.0"]


def test_the_claim_of_a_dead_job_stops_nobody(inputs: list[str]) -> None:
    output = f"memory://{uuid.uuid4().hex}"
    dead = new_settings(inputs[0], output, "a")
    with places.prepare(dead, overwrite=False) as ready:
        given = staged(ready.settings)
        with killed_at(-1, last="copy_new") as steps, contextlib.suppress(Killed):
            given.publish()
    assert steps[-1] == "copy_new"
    assert storage.exists(f"{dead.directory}.claim")
    assert storage.exists(f"{dead.directory}/tiny-train.tfrecord-00001-of-00002")
    assert run(new_settings(inputs[1], output, "b")) == run(new_settings(inputs[1], f"{output}/x", "c"))
    with pytest.raises(InputError, match="another job published"):
        given.publish()
    assert [name for name, _ in storage.children(f"{output}/tiny")] == ["1.0.0"]


def test_leftovers_are_cleared_but_live_jobs_and_finished_datasets_are_not(
    inputs: list[str], tmp_path: pathlib.Path
) -> None:
    before = run(new_settings(inputs[0], str(tmp_path), "z"))
    dead, alive, elsewhere = (new_settings(inputs[0], str(tmp_path), job) for job in ("dead", "alive", "elsewhere"))
    with places.prepare(alive, overwrite=True) as first:
        with places.prepare(dead, overwrite=True):
            pass
        pathlib.Path(elsewhere.staging).mkdir(parents=True)
        pathlib.Path(elsewhere.place, "LOCK").write_text("other-host 0000")
        (tmp_path / "tiny/1.0.0.discarded-1/dataset").mkdir(parents=True)
        with places.prepare(new_settings(inputs[0], str(tmp_path), "new"), overwrite=True) as second:
            assert second.cleared == (dead.place,)
            assert second.left == (
                f"{alive.place} belongs to a running job for the same dataset; whichever ends first will publish",
                f"{elsewhere.place} is of a job on other-host, which can't be seen from here: "
                "delete it if that job is dead",
            )
        assert not storage.exists(storage.join(str(tmp_path), "tiny/1.0.0.discarded-1"))
        staged(first.settings).publish()
    assert contents(alive.directory) == before
    (tmp_path / "tiny/1.0.0/manifest.json").unlink()
    with (
        pytest.raises(InputError, match=r"is no dataset of ours, having no manifest\.json"),
        places.prepare(new_settings(inputs[0], str(tmp_path), "last"), overwrite=True),
    ):
        pass


def test_without_locks_nothing_is_cleared(
    inputs: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with places.prepare(new_settings(inputs[0], str(tmp_path), "a"), overwrite=False) as ready:
        pass

    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with places.prepare(new_settings(inputs[0], str(tmp_path), "b"), overwrite=False) as second:
        assert second.cleared == ()
        assert second.left == (
            f"{ready.settings.place} cannot be locked (No locks available): "
            "delete it if no job for this dataset is running",
        )
        staged(second.settings).publish()
    assert_whole(second.settings.directory)


def test_contradictions_are_never_published(inputs: list[str], output: str) -> None:
    with places.prepare(new_settings(inputs[0], output, "a"), overwrite=False) as ready:
        settings = ready.settings
        given = staged(settings)
        with pytest.raises(RuntimeError, match="does not balance"):
            given.manifest(seen={"ant": 2, "bee": 3})
        with pytest.raises(RuntimeError, match="was planned as"):
            given.manifest(written=given.written[:1])
        path = storage.join(settings.staging, "tiny-train.tfrecord-00001-of-00002")
        data = storage.read_bytes(path)
        storage.write_bytes(path, data[:-1])
        with pytest.raises(RuntimeError, match="and was written with"):
            given.publish()
        storage.remove_tree(path)
        with pytest.raises(InputError, match="was deleted while it was being published"):
            given.publish()
    assert not storage.exists(settings.directory)


@pytest.mark.parametrize("damage", ["cut off a frame", "cut", "flip", "swap", "gone"])
def test_a_shard_that_reads_back_differently_ends_the_job(inputs: list[str], output: str, damage: str) -> None:
    with places.prepare(new_settings(inputs[0], output, "a"), overwrite=False) as ready:
        written = staged(ready.settings).written[0]
        path = storage.join(ready.settings.staging, written.shard.file)
        data = storage.read_bytes(path)
        first, second = records.read_framed(io.BytesIO(data))
        assert shards.verify_written(written, ready.settings) == written
        frames = io.BytesIO()
        for one in {"cut off a frame": [first], "swap": [second, first]}.get(damage, [first, second]):
            records.write_framed(frames, one)
        changed = bytearray(frames.getvalue())
        if damage == "flip":
            changed[40] ^= 1
        storage.write_bytes(path, bytes(changed[:-1] if damage == "cut" else changed))
        if damage == "gone":
            storage.remove_tree(path)
        with pytest.raises(InputError, match=r"read back|reads back"):
            shards.verify_written(written, ready.settings)


def test_stray_files_of_other_attempts_are_not_published(inputs: list[str], output: str) -> None:
    with places.prepare(new_settings(inputs[0], output, "a"), overwrite=False) as ready:
        given = staged(ready.settings)
        storage.write_text(storage.join(ready.settings.staging, "tiny-train.tfrecord-00007-of-00099"), "")
        given.publish()
    assert len(contents(ready.settings.directory)) == 2 + 1 + 3 + 1 + 1


def test_killed_between_the_two_renames_the_old_dataset_comes_back(inputs: list[str], tmp_path: pathlib.Path) -> None:
    old = run(new_settings(inputs[1], str(tmp_path), "o"))
    with places.prepare(new_settings(inputs[0], str(tmp_path), "a"), overwrite=True) as ready:
        given = staged(ready.settings)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "rename", dies_at(os.rename, ready.settings.staging))
            given.publish()
    assert not storage.exists(ready.settings.directory)
    with pytest.raises(InputError, match="already holds"), places.prepare(ready.settings, overwrite=False):
        pass
    assert contents(ready.settings.directory) == old
    assert [name for name, _ in storage.children(str(tmp_path / "tiny"))] == ["1.0.0"]


def dies_at(real: Any, path: str) -> Any:
    def step(source: str, *more: Any) -> None:
        if source == path:
            raise Killed
        real(source, *more)

    return step


def test_what_is_half_deleted_has_no_manifest(inputs: list[str], tmp_path: pathlib.Path) -> None:
    run(new_settings(inputs[1], str(tmp_path), "o"))
    with places.prepare(new_settings(inputs[0], str(tmp_path), "a"), overwrite=True) as ready:
        given = staged(ready.settings)
        with killed_at(-1, last="remove_tree") as steps, contextlib.suppress(Killed):
            given.publish()
    assert steps[-1] == "remove_tree"
    assert (tmp_path / "tiny/1.0.0.discarded-a/replaced/tiny-train.tfrecord-00000-of-00002").exists()
    assert list(tmp_path.rglob(manifest.FILE)) == [tmp_path / "tiny/1.0.0" / manifest.FILE]


def test_files_of_other_layouts_do_not_stay_in_a_bucket(inputs: list[str]) -> None:
    output = f"memory://{uuid.uuid4().hex}"
    directory = new_settings(inputs[0], output, "").directory
    stray = storage.join(directory, "tiny-train.tfrecord-00007-of-00099")
    storage.write_text(stray, "of a job with other settings, killed while it copied")
    with pytest.raises(InputError, match=r"is no dataset of ours, having no manifest\.json"):
        run(new_settings(inputs[0], output, "a"))
    storage.write_json(f"{directory}.claim", {"jobs": ["dead"], "fingerprint": "another"})
    assert run(new_settings(inputs[0], output, "a")) == run(new_settings(inputs[0], f"{output}/x", "b"))


def test_a_second_attempt_of_a_displaced_job_displaces_nobody(inputs: list[str]) -> None:
    output = f"memory://{uuid.uuid4().hex}"
    first, second = new_settings(inputs[0], output, "a"), new_settings(inputs[1], output, "b")
    given = {}
    for settings in (first, second):
        with places.prepare(settings, overwrite=False):
            given[settings.job] = staged(settings)
            with killed_at(-1, last="copy_new"), contextlib.suppress(Killed):
                given[settings.job].publish()
    files = [one.shard.file for one in given["a"].written]
    with pytest.raises(InputError, match=r"^job b publishes .* and displaced this one"):
        commit.publish(first, "fingerprint of a", files)
    given["b"].publish()
    assert contents(second.directory) == run(new_settings(inputs[1], f"{output}/x", "c"))
