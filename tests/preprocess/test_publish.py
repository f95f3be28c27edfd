"""Publishing as a runner may do it: interrupted anywhere, and repeated."""

from __future__ import annotations

import pathlib
from fractions import Fraction
from typing import Any

import pytest

from pipeline import manifest, storage
from preprocess import inspection, ledger, publish, shards
from preprocess.layout import Layout, SplitLayout
from preprocess.settings import Settings
from preprocess.sources import Source
from preprocess.splits import Placed
from tests.preprocess.folders import contents, make_folders


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    root = make_folders(tmp_path / "in", {"ant": 2, "bee": 2})
    return Settings(str(root), str(tmp_path / "out"), "tiny", "1.0.0", {"train": Fraction(1)}, 42, 2**20, 2)


def staged(settings: Settings) -> dict[str, Any]:
    """What `publish` is given after everything before it has run: two shards of an ant and a bee each."""
    layout = Layout(
        ("ant", "bee"), {"train": SplitLayout(2, 400, {"ant": 2, "bee": 2})}, {("train", "ant"): 0, ("train", "bee"): 2}
    )
    written, rows = [], []
    for index in range(2):
        found = [inspection.inspect(Source(name, f"{name}/{index}.png"), settings.input) for name in layout.classes]
        placed = [Placed(facts, "train", index) for facts in found if isinstance(facts, inspection.Facts)]
        for result in shards.write_shard(("train", index), placed, settings, layout):
            (rows if isinstance(result, ledger.Row) else written).append(result)
    parts = [ledger.write_part(0, 1, rows, settings.staging)]
    return {"layout": layout, "shards": written, "parts": parts, "seen": {"ant": 2, "bee": 2}}


def test_places_are_cleared_but_a_finished_dataset_is_not(settings: Settings) -> None:
    directory, staging = pathlib.Path(settings.directory), pathlib.Path(settings.staging)
    publish.publish(settings, **staged(settings))
    before = contents(directory)
    staging.mkdir()
    (staging / "tiny-train.tfrecord-00007-of-00009").write_text("old")
    assert publish.prepare_places(settings, overwrite=True) == [settings.staging]
    assert [path.name for path in staging.iterdir()] == ["STARTED"]
    assert contents(directory) == before
    (directory / manifest.FILE).unlink()
    assert publish.prepare_places(settings, overwrite=False) == [settings.directory, settings.staging]
    assert not directory.exists()


@pytest.mark.parametrize("step", ["move", "write_json", "remove_tree"])
@pytest.mark.parametrize("replacing", [False, True])
def test_interrupted_and_repeated_it_ends_as_if_undisturbed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str, replacing: bool
) -> None:
    directory = pathlib.Path(settings.directory)
    publish.publish(settings, **staged(settings))
    expected = contents(directory)
    if replacing:  # an older dataset with a shard too many
        (directory / manifest.FILE).write_text(
            (directory / manifest.FILE).read_text().replace('"seed": 42', '"seed": 1')
        )
        (directory / "tiny-train.tfrecord-00002-of-00003").write_text("old")
    else:
        storage.remove_tree(settings.directory)
    given = staged(settings)
    calls = []
    real = getattr(storage, step)

    def fails_the_second_time(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (1 if step == "write_json" else 2):
            raise OSError("the machine is gone")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(storage, step, fails_the_second_time)
        try:
            publish.publish(settings, **given)
        except OSError:
            assert not (directory / manifest.FILE).exists() or step == "remove_tree"
    publish.publish(settings, **given)
    assert contents(directory) == expected
    publish.publish(settings, **given)  # after the end, too
    assert contents(directory) == expected
    assert not pathlib.Path(settings.staging).exists()


def test_contradictions_are_never_published(settings: Settings) -> None:
    given = staged(settings)
    with pytest.raises(RuntimeError, match="does not balance"):
        publish.publish(settings, **{**given, "seen": {"ant": 2, "bee": 3}})
    with pytest.raises(RuntimeError, match="was planned as"):
        publish.publish(settings, **{**given, "shards": given["shards"][:1]})
    shard = pathlib.Path(settings.staging) / "tiny-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="and was written with"):
        publish.publish(settings, **given)
    assert not storage.exists(storage.join(settings.directory, manifest.FILE))
