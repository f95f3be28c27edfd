"""Saving and restoring: everything comes back, from what is whole and from nothing else."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fsspec
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from trainer import checkpoint_files as files
from trainer import checkpoints
from trainer.ema import Ema

REPOSITORY = pathlib.Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1])
ABOUT = {
    "fingerprint": "abc",
    "classes": ["a", "b", "c"],
    "code": "1.0+0123",
    "config": {"optimizer": {"ema": 0.9}},
}


class Learner(NamedTuple):
    """All the kinds of state that a run has, in a model that takes milliseconds."""

    net: keras.Model
    optimizer: keras.optimizers.Optimizer
    ema: Ema

    @property
    def content(self) -> dict[str, Any]:
        states = [variable for variable in self.net.variables if variable.path.endswith("seed_generator_state")]
        assert states
        return {"model": self.net, "optimizer": self.optimizer, "random": states, "ema": self.ema}

    def train(self, steps: int) -> None:
        variables = self.net.trainable_variables
        for _ in range(steps):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, self.net(IMAGES, training=True))
                loss = self.optimizer.scale_loss(tf.reduce_mean(losses))
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            self.ema.update()

    def everything(self) -> list[np.ndarray]:
        variables = [*self.net.variables, *self.optimizer.variables, *self.ema.averages]
        return [variable.numpy() for variable in variables]

    def fill(self, value: float) -> None:
        """Makes the weights known by a number."""
        for variable in self.net.trainable_variables:
            variable.assign(np.full(variable.shape, value, np.float32))

    def value(self) -> float:
        return float(self.net.trainable_variables[0].numpy().flat[0])


def build(seed: int = 0, *, adapted: bool = False) -> Learner:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    features = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            layers.Normalization(mean=None, variance=None),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
        ],
        name="backbone",
    )
    images = keras.Input([8, 8, 3], dtype="uint8")
    pooled = layers.GlobalAveragePooling2D()(features(layers.Rescaling(1 / 255)(images)))
    net = keras.Model(images, layers.Dense(3, name="head")(layers.Dropout(0.5)(pooled)))
    if adapted:  # as pretrained weights would; the layer computes with copies of these
        normalization = features.layers[0]
        normalization.adapt_mean.assign([0.4, 0.5, 0.6])
        normalization.adapt_variance.assign([0.2, 0.3, 0.1])
        normalization.finalize_state()
    # Scale and counter of the loss scaling move within three steps.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01), dynamic_growth_steps=2)
    optimizer.build(net.trainable_variables)
    return Learner(net, optimizer, Ema(net, 0.9))


@pytest.fixture(scope="module")
def learner() -> Learner:
    return build()


def make(workdir: pathlib.Path | str, learner: Learner, keep: int = 2, **about: Any) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(str(workdir), content=learner.content, about={**ABOUT, **about}, keep=keep)


def save(saved: checkpoints.Checkpoints, learner: Learner, step: int, *, best: bool = False, **state: Any) -> None:
    learner.fill(step)
    saved.save({"step": step, **state}, best=best)


def steps(workdir: pathlib.Path | str) -> list[str]:
    return [str(name) for name in files.names(str(workdir))]


def test_what_goes_on_from_a_checkpoint_ends_where_the_uninterrupted_did(tmp_path: pathlib.Path) -> None:
    """Moments, step count, loss scale, averages, moving statistics and dropout's random state: to the last bit."""
    first = build(adapted=True)
    first.train(3)
    state = {"step": 3, "best": {"metric": 0.1 + 0.2}, "none": None}
    make(tmp_path, first).save(state, best=True)
    first.train(3)

    second = build(seed=1)
    second.train(1)
    assert make(tmp_path, second).restore() == state
    second.train(3)
    for mine, theirs in zip(second.everything(), first.everything(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(second.net(IMAGES), first.net(IMAGES))


def test_evaluation_takes_the_averaged_weights_of_the_best_checkpoint(tmp_path: pathlib.Path) -> None:
    trained = build(adapted=True)
    saved = make(tmp_path, trained)
    trained.train(4)
    saved.save({"step": 4}, best=True)
    trained.ema.swap()
    expected = trained.net(IMAGES).numpy()
    trained.ema.swap()
    assert not np.allclose(expected, trained.net(IMAGES))
    trained.train(1)
    saved.save({"step": 5}, best=False)

    other = build(seed=1)
    assert checkpoints.load_weights(str(tmp_path), other.net) == (4, "abc")
    np.testing.assert_array_equal(other.net(IMAGES), expected)
    assert checkpoints.load_weights(str(tmp_path), other.net, which="newest") == (5, "abc")
    assert saved.restore_best() == {"step": 4}
    with pytest.raises(InputError, match="'last': expected best or newest"):
        checkpoints.load_weights(str(tmp_path), other.net, which="last")


def test_weights_that_are_not_averaged_come_as_they_are(tmp_path: pathlib.Path, learner: Learner) -> None:
    content = {name: value for name, value in learner.content.items() if name != "ema"}
    learner.fill(7)
    checkpoints.Checkpoints(str(tmp_path), content=content, about=ABOUT, keep=1).save({"step": 1}, best=False)
    other = build(seed=1)
    checkpoints.load_weights(str(tmp_path), other.net)
    assert other.value() == 7


def test_replicas_save_and_restore_what_one_device_reads(tmp_path: pathlib.Path) -> None:
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    with strategy.scope():
        mirrored = build()
    make(tmp_path, mirrored).save({"step": 1}, best=False)
    expected = mirrored.net.get_weights()
    alone = build(seed=1)
    assert make(tmp_path, alone).restore() == {"step": 1}
    mirrored.fill(0)
    assert make(tmp_path, mirrored).restore() == {"step": 1}
    for one, two, three in zip(expected, alone.net.get_weights(), mirrored.net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_about_says_what_the_files_are_and_whose(tmp_path: pathlib.Path, learner: Learner) -> None:
    save(make(tmp_path, learner), learner, 12, best=True, seen=384)
    folder = tmp_path / "checkpoints" / "step-00000012"
    about = json.loads((folder / "about.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*about["files"], "about.json"}
    for name, facts in about["files"].items():
        data = (folder / name).read_bytes()
        assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert about["state"] == {"step": 12, "seen": 384}
    assert about["best"] is True
    assert {name: about[name] for name in ABOUT} == ABOUT


def test_the_newest_and_their_best_are_kept(tmp_path: pathlib.Path, learner: Learner) -> None:
    saved = make(tmp_path, learner)
    assert saved.restore() is None
    assert saved.last_good_step() is None
    for step in (5, 10, 15, 20):
        save(saved, learner, step, best=step in (5, 10))
    assert steps(tmp_path) == ["step-00000010", "step-00000015", "step-00000020"]
    # 25 is the best from now on; had it to be given up for 20, that one's best is still 10.
    save(saved, learner, 25, best=True)
    assert steps(tmp_path) == ["step-00000010", "step-00000020", "step-00000025"]
    save(saved, learner, 30)
    assert steps(tmp_path) == ["step-00000025", "step-00000030"]
    assert saved.last_good_step() == 30
    assert make(tmp_path, learner).restore() == {"step": 30}
    back = make(tmp_path, learner)
    assert back.restore_best() == {"step": 25}
    assert learner.value() == 25
    save(back, learner, 27)  # 30 belongs to a course that was given up
    assert steps(tmp_path) == ["step-00000025", "step-00000027"]


def test_a_step_saved_again_takes_the_place_of_the_first(tmp_path: pathlib.Path, learner: Learner) -> None:
    saved = make(tmp_path, learner)
    for step in (5, 10):
        save(saved, learner, step)
    save(saved, learner, 10, best=True, evaluated=True)
    assert steps(tmp_path) == ["step-00000005", "step-00000010-2"]
    assert make(tmp_path, learner).restore() == {"step": 10, "evaluated": True}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, learner: Learner) -> pathlib.Path:
    """A sound checkpoint at step 5 and a newer, better one, to be damaged."""
    workdir = tmp_path_factory.mktemp("pair")
    saved = make(workdir, learner)
    save(saved, learner, 5, best=True)
    save(saved, learner, 10, best=True)
    return workdir


def damages(folder: pathlib.Path) -> Iterator[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """(file, description, what to do with it): each file cut at 10 offsets, with a changed byte, gone, or of others."""
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for part in range(10):
            size = len(data) * part // 10
            yield path.name, f"cut at {size}", lambda path, data=data[:size]: path.write_bytes(data)
        for place in [0, len(data) // 2, *(chance.randrange(len(data)) for _ in range(6))]:
            flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
            yield path.name, f"changed at {place}", lambda path, data=flipped: path.write_bytes(data)
        yield path.name, "longer by a byte", lambda path, data=data: path.write_bytes(data + b"\n\0")
        yield path.name, "missing", lambda path: path.unlink()
    for garbage in (b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000, b'{"sha256": 1}'):
        yield "about.json", f"{garbage[:20]!r}", lambda path, data=garbage: path.write_bytes(data)


def test_whatever_damages_the_newest_is_named_and_the_one_before_it_used(
    pair: pathlib.Path, tmp_path: pathlib.Path, learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    sound = pair / "checkpoints" / "step-00000010"
    saved = make(tmp_path, learner)
    shutil.copytree(pair / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / sound.name
    cases = list(damages(sound))
    for file, description, damage in cases:
        damage(newest / file)
        caplog.clear()
        learner.fill(0)
        assert saved.restore() == {"step": 5}, (file, description)
        assert learner.value() == 5
        assert f"{newest} is damaged ({file}" in caplog.text, (file, description)
        shutil.copy(sound / file, newest / file)
    assert len(cases) == 3 * 20 + 6
    assert saved.restore() == {"step": 10}


@pytest.mark.parametrize("file", ["about.json", "content.index", "content.data-00000-of-00001"])
def test_evaluation_says_that_the_best_is_damaged(
    pair: pathlib.Path, tmp_path: pathlib.Path, learner: Learner, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    for name, expected in (("step-00000010", 5), ("step-00000005", None)):
        path = tmp_path / "checkpoints" / name / file
        path.write_bytes(path.read_bytes()[:-1])
        if expected:
            assert checkpoints.load_weights(str(tmp_path), learner.net) == (expected, "abc")
            assert f"{name} is damaged ({file}" in caplog.text
    for load in (make(tmp_path, learner).restore, lambda: checkpoints.load_weights(str(tmp_path), learner.net)):
        with pytest.raises(InputError, match=r"none of the checkpoints in .* is sound .*00005.*00010") as error:
            load()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("next_step", [8, 10, 12])
def test_a_damaged_one_does_not_come_back_nor_count(
    pair: pathlib.Path, tmp_path: pathlib.Path, learner: Learner, next_step: int
) -> None:
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    data = tmp_path / "checkpoints" / "step-00000010" / "content.index"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    saved = make(tmp_path, learner)
    assert saved.restore() == {"step": 5}
    data.write_bytes(content)  # a disk may read again what it could not
    save(saved, learner, next_step)
    assert [name.step for name in files.names(str(tmp_path))] == [5, next_step]
    assert make(tmp_path, learner).restore() == {"step": next_step}


def test_a_reader_goes_on_with_newer_ones_when_a_save_deletes_what_it_reads(
    pair: pathlib.Path,
    tmp_path: pathlib.Path,
    learner: Learner,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    saved, read_about = make(tmp_path, learner, keep=1), files.read_about

    def read_late(workdir: str, name: files.Name) -> dict[str, Any]:
        about = read_about(workdir, name)
        if name.step == 10 and steps(workdir)[-1] == "step-00000010":
            monkeypatch.undo()
            for step in (15, 20):
                save(saved, learner, step, best=True)
        return about

    monkeypatch.setattr(files, "read_about", read_late)
    assert make(tmp_path, learner).restore() == {"step": 20}
    assert learner.value() == 20
    assert not _warnings(caplog)


def test_other_classes_and_another_model_are_refused(tmp_path: pathlib.Path, learner: Learner) -> None:
    save(make(tmp_path, learner), learner, 1)
    with pytest.raises(InputError, match=r"knows the classes \['a', 'b', 'c'\], the dataset has \['b', 'a', 'c'\]"):
        make(tmp_path, learner, classes=["b", "a", "c"]).restore()
    smaller = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(2, 3)])
    with pytest.raises(InputError, match=r"step-00000001 is sound and does not fit this model .* code 1\.0\+0123"):
        checkpoints.load_weights(str(tmp_path), smaller)
    assert steps(tmp_path) == ["step-00000001"]


def test_no_checkpoint_yet_is_said(tmp_path: pathlib.Path, learner: Learner) -> None:
    assert not checkpoints.exist(str(tmp_path))
    with pytest.raises(InputError, match="has no checkpoint yet"):
        checkpoints.load_weights(str(tmp_path), learner.net)
    with pytest.raises(InputError, match="has no checkpoint to restore the best"):
        make(tmp_path, learner).restore_best()


def test_a_disk_that_takes_no_more_is_one_line_and_costs_nothing(tmp_path: pathlib.Path, learner: Learner) -> None:
    saved = make(tmp_path, learner)
    save(saved, learner, 1)
    folder = tmp_path / "checkpoints"
    before = sorted(folder.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(OSError, match="step-00000002 can't be written"):
            saved.save({"step": 2}, best=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(folder.rglob("*")) == before


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours: TensorFlow tells of objects of other tests when they are collected."""
    return [record.getMessage() for record in caplog.records if record.name != "tensorflow"]


def test_buckets_hold_the_same(learner: Learner, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path) -> None:
    """Through another driver of fsspec: what a killed upload left is no checkpoint, and goes."""
    workdir = "memory://checkpoints-test/run"
    memory = fsspec.filesystem("memory")
    saved = make(workdir, learner)
    assert saved.restore() is None
    for step in (5, 10, 15):
        save(saved, learner, step, best=step == 5)
    assert steps(workdir) == ["step-00000005", "step-00000010", "step-00000015"]
    memory.pipe("/checkpoints-test/run/checkpoints/step-00000020/content.index", b"half")
    assert steps(workdir)[-1] == "step-00000015"
    learner.fill(0)
    assert make(workdir, learner).restore() == {"step": 15}
    assert learner.value() == 15
    assert not memory.exists("/checkpoints-test/run/checkpoints/step-00000020")
    assert not _warnings(caplog)

    path = "/checkpoints-test/run/checkpoints/step-00000015/content.data-00000-of-00001"
    data = memory.cat(path)
    memory.pipe(path, data[:-1])
    assert checkpoints.load_weights(workdir, learner.net, which="newest")[0] == 10
    said = f"(content.data-00000-of-00001 has {len(data) - 1:,} bytes, {len(data):,} were written)"
    assert f"step-00000015 is damaged {said}" in caplog.text
    assert checkpoints.load_weights(workdir, learner.net)[0] == 5


def test_tidying_leaves_what_another_process_is_writing() -> None:
    workdir = f"memory://{uuid.uuid4().hex}/run"
    abandoned = tempfile.mkdtemp(prefix=files._temporary_prefix(workdir))

    def write(prefix: str) -> None:
        files.tidy(workdir)
        pathlib.Path(f"{prefix}.index").write_text("1")

    files.publish(workdir, files.Name(1), write, {})
    assert files.names(workdir) == [files.Name(1)]
    assert not os.path.exists(abandoned)
    assert not glob.glob(os.path.join(tempfile.gettempdir(), files._temporary_prefix(workdir) + "*"))


def test_a_kill_at_any_access_to_files_loses_nothing_that_was_saved(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tests.trainer.kill_points", str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    saved, left = {}, {}
    for line in result.stdout.splitlines():
        kill, what, *names = line.split()
        if what == "left":
            left[kill] = [int(name.split("-")[1]) for name in names]
        else:
            saved[kill] = int(what)  # the last one counts
    assert len(left) > 50
    assert all(max(left[kill]) >= step for kill, step in saved.items())
    assert any(max(standing, default=0) > saved.get(kill, 0) for kill, standing in left.items())
