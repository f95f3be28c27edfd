"""Every kind of backbone and two workers, again and again: in deterministic mode the last bit stays where it was."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.trainer.commands import REPOSITORY, command, end, start_two_workers, weights

pytestmark = pytest.mark.soak
# Two steps from the same weights, eight times, with as many operations at once as can be: without deterministic mode
# EfficientNet gave six different results in eight.
REPEAT = """
import hashlib
import sys
import keras
import numpy as np
import tensorflow as tf
from trainer import determinism, loss, model, optimizer, step, strategies

backbone, freeze_batch_norm = sys.argv[1], sys.argv[2] == "True"
tf.config.threading.set_inter_op_parallelism_threads(8)
determinism.set_up(deterministic=True)
strategy = strategies.connect("one").strategy
keras.utils.set_random_seed(1)
with strategy.scope():
    net = model.build(
        num_classes=10, image_size=96, load_weights=False, backbone=backbone, weights="none", head="mlp",
        width=0.35 if backbone == "mobilenetv2" else None, dropout=0.0, drop_path=None, batch_norm_momentum=None,
        sync_batch_norm=False,
    )
    opt = optimizer.build(net, name="sgd", momentum=None, weight_decay=1e-4, layer_decay=None, precision="float32")
model.set_trainable(net, trainable="all", freeze_batch_norm=freeze_batch_norm)
train_step = step.make_train_step(
    strategy, net, opt, loss.cross_entropy, global_batch=16, clip_norm=1.0, deterministic=True
)
draws = np.random.default_rng(0)
batch = [tf.constant(draws.integers(0, 256, [16, 96, 96, 3], np.uint8)), tf.constant(draws.integers(0, 10, 16)),
         tf.range(16, dtype=tf.int64)]
variables = [*net.variables, *opt.variables]
before, found = [variable.numpy() for variable in variables], set()
for _ in range(8):
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    for _ in range(2):
        train_step([batch], [0.01])
    found.add(hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in net.variables)).hexdigest())
print(len(found))
"""
CONFIG = """
from configs.schema import Config, Input, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        deterministic=True,
        input=Input(image_size=64, crop_area=(0.8, 1.0), flip=False),
        model=Model(backbone="efficientnet_b0", head="mlp"),
        optimizer=Optimizer(name="sgd", peak_lr=0.01),
        phases=(Phase(steps=12),),
        validation_split="none",
    )
"""


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
@pytest.mark.parametrize("backbone", ["mobilenetv2", "efficientnet_b0", "efficientnetv2_b0", "resnet50"])
def test_eight_times_the_same_steps(backbone: str, freeze_batch_norm: bool) -> None:
    arguments = [sys.executable, "-c", REPEAT, backbone, str(freeze_batch_norm)]
    result = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 1


def test_two_workers_end_with_the_same_weights_each_time(digits: str, tmp_path: pathlib.Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    found = set()
    for turn in range(3):
        arguments = command(
            "train", f"--config={config}", f"--data={digits}", f"--workdir={tmp_path / str(turn)}",
            "--strategy=multi_worker",
        )  # fmt: skip
        found |= {weights(output) for output, _ in end(start_two_workers(arguments), status=0)}
    assert len(found) == 1
