"""Heads: the reference head by hand, what it adds to the loss, dropout."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from pipeline.errors import InputError
from trainer import heads

RNG = np.random.default_rng(0)


def _mlp() -> keras.Model:
    keras.utils.set_random_seed(0)
    head = heads.build("mlp", features=8, num_classes=3, dropout=None)
    for variable in head.weights:  # nothing at its start value, where a missing layer would not show
        variable.assign(RNG.uniform(0.1, 1, variable.shape) * RNG.choice([1, -1] if "dense" in variable.path else [1]))
    return head


def test_mlp_is_the_reference_head() -> None:
    """Batch norm, 512 and 256 ReLU units, batch norm, a linear layer: in NumPy."""
    head = _mlp()
    weights = {variable.path: variable.numpy().astype(np.float64) for variable in head.weights}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(weights[f"{name}/moving_variance"] + 1e-3)
        return (x - weights[f"{name}/moving_mean"]) / deviation * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    features = RNG.normal(size=[4, 8])
    x = norm(features, "norm_1")
    for name in ("dense_512", "dense_256"):
        x = np.maximum(dense(x, name), 0)
    expected = dense(norm(x, "norm_2"), "logits")
    assert weights["dense_512/kernel"].shape == (8, 512)
    assert weights["dense_256/kernel"].shape == (512, 256)
    np.testing.assert_allclose(head(features.astype(np.float32), training=False), expected, rtol=1e-3)


def test_mlp_adds_a_thousandth_of_the_squares_to_the_loss() -> None:
    head = _mlp()
    kernels = [head.get_layer(name).kernel.numpy().astype(np.float64) for name in ("dense_512", "dense_256")]
    expected = 0.001 * sum(float(np.square(kernel).sum()) for kernel in kernels)
    assert sum(float(loss) for loss in head.losses) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "given", "rate"), [("linear", None, 0.2), ("mlp", None, 0.3), ("linear", 0.7, 0.7)])
def test_dropout_sets_its_share_of_inputs_to_zero(name: str, given: float | None, rate: float) -> None:
    keras.utils.set_random_seed(0)
    head = heads.build(name, features=1000, num_classes=2, dropout=given)
    layer = head.get_layer("dropout")
    dropped = np.mean(np.asarray(layer(np.ones([100, 1000], np.float32), training=True)) == 0)
    assert dropped == pytest.approx(rate, abs=0.01)
    last = head.get_layer("logits")
    np.testing.assert_array_equal(last.bias, 0)
    if name == "linear":
        features = RNG.normal(size=[1, 1000]).astype(np.float32)
        trained, evaluated = (np.asarray(head(features, training=training)) for training in (True, False))
        assert not np.allclose(trained, evaluated)
        np.testing.assert_allclose(evaluated, features @ last.kernel.numpy(), rtol=1e-3, atol=1e-5)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(InputError, match="'deep': expected one of linear, mlp"):
        heads.build("deep", features=8, num_classes=3, dropout=None)
