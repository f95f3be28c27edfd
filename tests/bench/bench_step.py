"""A network, an image size and a batch in; tables out: what a training step costs, ours beside `keras.Model.fit`.

Both train the same network from the same weights on the same batch, which stays in memory, with the same loss and rule.
Ours has its batch norm fused, as `trainer.model` builds it.
They live in one process and take turns of equally many steps, so that what slows the machine for a while falls on both;
medians of CPU seconds and of images per second are shown. Compilation is not in them.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from configs import loading
from tests.bench import measure

if TYPE_CHECKING:
    import keras

NETWORKS = (("MobileNetV2", 160), ("MobileNetV2", 224), ("EfficientNetB0", 224))
_BATCH = 32
_CLASSES = 10
_RATE = 0.01
_STEPS = 8  # in one turn
_WARM_STEPS, _LOOP_STEPS = 50, 60  # an epoch is 45 steps, after which all is decoded


class Turn(NamedTuple):
    """What one step cost, the mean of a turn."""

    cpu_s: float
    wall_s: float


def step(networks: Sequence[tuple[str, int]], repeats: int) -> str:
    """One row for each of `networks`; a ratio above 1 says that fit costs more.

    Args:
      networks: (name in keras.applications, side of its images in pixels).
      repeats: turns of each.
    """
    rows = [["network", "ours images/s", "fit images/s", "ours CPU-s per step", "fit CPU-s per step", "fit / ours"]]
    for name, side in networks:
        ours, fit = _alternate({"ours": _our_turn(name, side), "fit": _fit_turn(name, side)}, repeats)
        rows.append(
            [
                f"{name} at {side}",
                f"{_BATCH / ours.wall_s:.1f}",
                f"{_BATCH / fit.wall_s:.1f}",
                f"{ours.cpu_s:.3f}",
                f"{fit.cpu_s:.3f}",
                f"{fit.cpu_s / ours.cpu_s:.3f}",
            ]
        )
    return f"### Step: forward, backward and update, batch {_BATCH}, float32\n\n{measure.table(rows)}"


def loop(repeats: int) -> str:
    """What `trainer.train` costs around its compiled step, and how long it waits, over MobileNetV2 at 160.

    Both take the same batches of the same dataset, decoded once, with the same step; one as the command does, with its
    progress, logs and TensorBoard, the other by calling the step in a bare Python loop.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(pathlib.Path(folder))
        costs: dict[str, list[Turn]] = {"loop": [], "bare": []}
        waits: list[float] = []
        for repeat in range(repeats):
            workdir = pathlib.Path(folder) / f"run{repeat}"
            costs["loop"].append(_through_loop(dataset, workdir))
            waits.append(_input_wait(workdir))
            costs["bare"].append(_in_bare_loop(dataset))
    loop_cost, bare = (Turn(*map(statistics.median, zip(*found, strict=True))) for found in costs.values())
    rows = [
        ["", "CPU-s per step", "seconds per step"],
        ["trainer.train", f"{loop_cost.cpu_s:.4f}", f"{loop_cost.wall_s:.4f}"],
        ["bare step", f"{bare.cpu_s:.4f}", f"{bare.wall_s:.4f}"],
        ["ratio", f"{loop_cost.cpu_s / bare.cpu_s:.4f}", f"{loop_cost.wall_s / bare.wall_s:.4f}"],
    ]
    wait = f"Waiting for input: {statistics.median(waits):.2%} of the loop's time."
    return f"### Loop: {_LOOP_STEPS} steps of MobileNetV2 at 160, batch {_BATCH}\n\n{measure.table(rows)}\n\n{wait}"


def digits(folder: pathlib.Path) -> str:
    """Handwritten digits as the demo prepares them."""
    measure.run([sys.executable, "infra/demo/write_digits.py", str(folder / "digits")])
    arguments = [f"--input={folder / 'digits'}", f"--output={folder}", "--name=digits"]
    measure.run([sys.executable, "-m", "preprocess", *arguments])
    return str(folder / "digits/1.0.0")


def _settings() -> dict[str, Any]:
    changed = (
        "input.image_size=160",
        "input.cache=decoded",
        "model.width=None",
        "validation_split=none",
        f"global_batch={_BATCH}",
        f"max_steps={_WARM_STEPS + _LOOP_STEPS}",
        "checkpoint_every_steps=100000",
    )
    config = loading.read("configs/digits_mobilenetv2.py", [f"--config.{change}" for change in changed])
    return dataclasses.asdict(config)


class _Timed:
    """A step that is timed from the end of its `_WARM_STEPS`th call, when all is compiled and cached, to its last."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step, self._calls = step, 0
        self.cost = Turn(0.0, 0.0)

    def __call__(self, *arguments: Any) -> Any:
        losses = self._step(*arguments)
        self._calls += 1
        if self._calls == _WARM_STEPS:
            losses.numpy()
            self._began = time.process_time(), time.monotonic()
        if self._calls == _WARM_STEPS + _LOOP_STEPS:
            losses.numpy()
            cpu, wall = self._began
            self.cost = Turn((time.process_time() - cpu) / _LOOP_STEPS, (time.monotonic() - wall) / _LOOP_STEPS)
        return losses


def _through_loop(dataset: str, workdir: pathlib.Path) -> Turn:
    from trainer import train

    compiled, timed = train._compile, []

    def compile_timed(*arguments: Any) -> Any:
        timed.append(_Timed(compiled(*arguments)))
        return timed[-1]

    train._compile = compile_timed
    try:
        train.train(data=dataset, workdir=str(workdir), strategy="one", input_service=(), **_settings())
    finally:
        train._compile = compiled
    return timed[0].cost


def _input_wait(workdir: pathlib.Path) -> float:
    """Of the logs after the first, in which all was read and decoded."""
    with (workdir / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return statistics.mean(float(row["input_wait_share"]) for row in rows[1:] if row["input_wait_share"])


def _in_bare_loop(dataset: str) -> Turn:
    from pipeline import manifest as manifest_lib
    from trainer import learner, schedule, strategies, train

    settings, manifest, cluster = _settings(), manifest_lib.load(dataset), strategies.connect("one")
    parts = learner.build(manifest=manifest, cluster=cluster, settings=settings, load_weights=True)
    examples = manifest.split("train").examples
    peak = settings["optimizer"]["peak_lr"]
    [phase] = schedule.plan(settings["phases"], examples=examples, global_batch=_BATCH, peak_lr=peak)
    timed = _Timed(train._compile(parts.net, settings, cluster, parts))
    batches = iter(learner.batches(dataset, manifest, settings, cluster))
    for step in range(_WARM_STEPS + _LOOP_STEPS):
        timed([next(batches)], [schedule.learning_rate(step, phase)])
    return timed.cost


def _alternate(turns: dict[str, Callable[[int], None]], repeats: int) -> list[Turn]:
    for turn in turns.values():
        turn(2)  # the first one compiles
    found: dict[str, list[Turn]] = {name: [] for name in turns}
    for repeat in range(repeats):
        for name, turn in turns.items():
            cpu, wall = time.process_time(), time.monotonic()
            turn(_STEPS)
            cost = Turn((time.process_time() - cpu) / _STEPS, (time.monotonic() - wall) / _STEPS)
            found[name].append(cost)
            print(f"  {repeat + 1}/{repeats} {name}: {cost.cpu_s:.3f} CPU-s a step", file=sys.stderr, flush=True)
    return [Turn(*map(statistics.median, zip(*costs, strict=True))) for costs in found.values()]


def _our_turn(name: str, side: int) -> Callable[[int], None]:
    from trainer import batch_norm, loss, optimizer, strategies
    from trainer import step as step_lib

    strategy = strategies.connect("one").strategy
    with strategy.scope():
        net = _network(name, side)
        batch_norm.fuse(net)
        rule = optimizer.build(net, name="sgd", momentum=0.9, weight_decay=0.0, layer_decay=None, precision="float32")
        train_step = step_lib.make_train_step(strategy, net, rule, loss.cross_entropy, global_batch=_BATCH)
    batch = _batch(side)

    def turn(steps: int) -> None:
        for _ in range(steps):
            losses = train_step([batch], [_RATE])
        losses.numpy()

    return turn


def _fit_turn(name: str, side: int) -> Callable[[int], None]:
    import keras
    import tensorflow as tf

    net = _network(name, side)
    net.compile(
        keras.optimizers.SGD(_RATE, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # Keras' own choice on CPU
    )
    batches = tf.data.Dataset.from_tensors(tuple(_batch(side))).repeat()

    def turn(steps: int) -> None:
        net.fit(batches, steps_per_epoch=steps, verbose=0)

    return turn


def _network(name: str, side: int) -> keras.Model:
    import keras

    keras.utils.set_random_seed(0)
    images = keras.Input([side, side, 3], dtype="uint8")
    features = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(side, side, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(features(keras.layers.Rescaling(1 / 127.5, offset=-1)(images)))
    return keras.Model(images, keras.layers.Dense(_CLASSES)(pooled))


def _batch(side: int) -> list[object]:
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [_BATCH, side, side, 3], dtype=np.uint8)
    return [tf.constant(images), tf.constant(rng.integers(0, _CLASSES, _BATCH))]
