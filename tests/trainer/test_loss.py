"""The loss against NumPy and Keras, and class weights against scikit-learn, eagerly and inside `Dataset.map`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from pipeline.errors import InputError
from trainer import loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 4, [32, 5]).astype(np.float32)
LABELS = RNG.integers(0, 5, 32)
SOFT_LABELS = RNG.dirichlet(np.ones(5), 32).astype(np.float32)
WEIGHTS = [1.0, 2.0, 0.5, 4.0, 3.0]
OFFSETS = np.log([0.4, 0.3, 0.2, 0.05, 0.05]).tolist()
COUNTS, CLASSES = [40, 30, 20, 5, 5], list("abcde")
NOTHING_SET = {
    "kind": "cross_entropy",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "given_weights": (),
    "effective_beta": None,
    "focal_gamma": None,
    "logit_tau": None,
    "counts": COUNTS,
    "classes": CLASSES,
}


def _make(**settings: Any) -> loss.LossFn:
    return loss.make(**{**NOTHING_SET, **settings})


def _numpy(label: int, logits: np.ndarray, *, smoothing: float, weights: Any, gamma: float, offsets: Any) -> float:
    """One example's loss from its definition, in float64, class by class."""
    shifted = logits.astype(np.float64) + (0 if offsets is None else np.array(offsets))
    exponentials = np.exp(shifted - shifted.max())
    probabilities = exponentials / exponentials.sum()
    total = 0.0
    for one, probability in enumerate(probabilities):
        target = (1 - smoothing) * (one == label) + smoothing / len(probabilities)
        total -= target * (1 - probability) ** gamma * np.log(probability)
    return total * (1.0 if weights is None else weights[label])


@pytest.mark.parametrize("offsets", [None, OFFSETS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_kind_is_its_definition(smoothing: float, weights: Any, gamma: float, offsets: Any) -> None:
    settings = {"label_smoothing": smoothing, "class_weights": weights, "focal_gamma": gamma, "logit_offsets": offsets}
    given_by = {"smoothing": smoothing, "weights": weights, "gamma": gamma, "offsets": offsets}
    expected = [[_numpy(label, logits, **given_by) for label in range(5)] for logits in LOGITS]
    found = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), **settings)
    np.testing.assert_allclose(found, np.take_along_axis(np.array(expected), LABELS[:, None], 1)[:, 0], rtol=2e-5)
    # What MixUp makes of several labels costs what they cost, mixed: each part by its own class's weight.
    mixed = loss.cross_entropy(tf.constant(SOFT_LABELS), tf.constant(LOGITS), **settings)
    np.testing.assert_allclose(mixed, np.sum(expected * SOFT_LABELS, axis=1), rtol=2e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_keras_also_inside_a_dataset(smoothing: float) -> None:
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    loss_fn = _make(label_smoothing=smoothing)
    for labels, distribution in ((LABELS, tf.one_hot(LABELS, 5)), (SOFT_LABELS, SOFT_LABELS)):
        expected = reference(distribution, LOGITS).numpy()
        np.testing.assert_allclose(loss_fn(tf.constant(labels), tf.constant(LOGITS)), expected, rtol=1e-5)
        dataset = tf.data.Dataset.from_tensors((labels, LOGITS)).map(loss_fn)
        np.testing.assert_allclose(next(iter(dataset)), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("gamma", "given_gamma"), [(2.0, None), (0.5, 0.5), (5.0, 5.0)])
def test_the_focal_loss_is_keras(smoothing: float, gamma: float, given_gamma: float | None) -> None:
    reference = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    loss_fn = _make(kind="focal", focal_gamma=given_gamma, label_smoothing=smoothing)
    logits = LOGITS / 4  # Keras cuts probabilities off at 1e-7
    for labels, distribution in ((LABELS, tf.one_hot(LABELS, 5)), (SOFT_LABELS, SOFT_LABELS)):
        expected = reference(distribution, logits)
        np.testing.assert_allclose(loss_fn(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_gradient_is_a_number_where_float32_calls_an_example_certain(gamma: float) -> None:
    logits = tf.constant([[60.0, 0.0, -60.0], [0.0, 300.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = loss.cross_entropy(tf.constant([0, 0]), logits, label_smoothing=0.1, focal_gamma=gamma)
    assert np.isfinite(tape.gradient(losses, logits)).all()
    assert float(losses[1]) > 200


@pytest.mark.parametrize(("tau", "given_tau"), [(1.0, None), (0.5, 0.5)])
def test_logit_adjustment_adds_the_log_of_the_training_shares(tau: float, given_tau: float | None) -> None:
    """Equation 10: log(1 + sum over the others y' of (prior_y' / prior_y)^tau * exp(f_y' - f_y))."""
    prior = np.array(COUNTS) / sum(COUNTS)
    expected = []
    for label, logits in zip(LABELS, LOGITS.astype(np.float64), strict=True):
        others = [(prior[k] / prior[label]) ** tau * np.exp(logits[k] - logits[label]) for k in range(5) if k != label]
        expected.append(np.log1p(sum(others)))
    loss_fn = _make(kind="logit_adjusted", logit_tau=given_tau)
    np.testing.assert_allclose(loss_fn(tf.constant(LABELS), tf.constant(LOGITS)), expected, rtol=1e-4, atol=1e-6)


@given(
    share=st.floats(0, 1, width=32),
    pair=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    logits=st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5),
    smoothing=st.sampled_from([0.0, 0.1]),
    gamma=st.sampled_from([0.0, 2.0]),
    offsets=st.sampled_from([None, OFFSETS]),
)
def test_two_mixed_examples_cost_what_they_cost_apart(
    share: float, pair: tuple[int, int], logits: list[float], smoothing: float, gamma: float, offsets: Any
) -> None:
    settings = {"label_smoothing": smoothing, "class_weights": WEIGHTS, "focal_gamma": gamma, "logit_offsets": offsets}
    first, second = loss.cross_entropy(tf.constant(pair), tf.constant([logits, logits]), **settings).numpy()
    label = share * np.eye(5, dtype=np.float32)[pair[0]] + (1 - share) * np.eye(5, dtype=np.float32)[pair[1]]
    [mixed] = loss.cross_entropy(tf.constant(label[None], tf.float32), tf.constant([logits]), **settings).numpy()
    assert mixed == pytest.approx(share * first + (1 - share) * second, rel=1e-4, abs=1e-5)


def test_balanced_weights_are_scikit_learns() -> None:
    counts = np.bincount(LABELS, minlength=5).tolist()
    expected = compute_class_weight("balanced", classes=np.arange(5), y=LABELS)
    assert loss.weights_of_classes("balanced", counts, CLASSES) == pytest.approx(expected)
    assert loss.weights_of_classes("none", counts, CLASSES) is None


def test_effective_weights_by_hand() -> None:
    # Effective numbers of 1, 2 and 3 examples with beta 0.5: 1, 1.5 and 1.75. Inverses 1, 2/3 and 4/7; their mean over
    # the six examples is (1 + 2 * 2/3 + 3 * 4/7) / 6 = 85/126.
    expected = [126 / 85, 84 / 85, 72 / 85]
    found = loss.weights_of_classes("effective", [1, 2, 3], list("abc"), beta=0.5)
    assert found == pytest.approx(expected)
    assert loss.weights_of_classes("effective", COUNTS, CLASSES, beta=0.0) == pytest.approx([1.0] * 5)
    nearly = loss.weights_of_classes("effective", COUNTS, CLASSES, beta=1 - 1e-9)
    assert nearly == pytest.approx(loss.weights_of_classes("balanced", COUNTS, CLASSES), rel=1e-5)
    by_default = loss.weights_of_classes("effective", COUNTS, CLASSES)
    assert by_default == loss.weights_of_classes("effective", COUNTS, CLASSES, beta=0.999)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"class_weights": "balanced"}, [0.5, 2 / 3, 1.0, 4.0, 4.0]),
        ({"class_weights": "given", "given_weights": WEIGHTS}, WEIGHTS),
        ({"class_weights": "effective", "effective_beta": 0.0}, [1.0] * 5),
    ],
)
def test_the_weights_arrive_in_the_loss(settings: dict[str, Any], weights: list[float]) -> None:
    plain = _make(label_smoothing=0.1)(tf.constant(LABELS), tf.constant(LOGITS)).numpy()
    found = _make(label_smoothing=0.1, **settings)(tf.constant(LABELS), tf.constant(LOGITS))
    np.testing.assert_allclose(found, plain * np.array(weights)[LABELS], rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"class_weights": "balanced"}, {"kind": "logit_adjusted"}])
def test_a_class_without_examples_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no training examples of b, d: "):
        _make(counts=[3, 0, 1, 0, 2], **settings)
    many = [f"class{number}" for number in range(100)]
    with pytest.raises(InputError, match=r"class0, .*, class19 and 79 more: ") as caught:
        _make(counts=[0] * 99 + [1], classes=many, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"class_weights": "given", "given_weights": (1.0, 2.0)},
            r"2 values, and there are 5 classes.* a, b, c, d, e,",
        ),
        ({"class_weights": "given", "given_weights": (0.0,) * 5}, r"one at least positive"),
        ({"class_weights": "given", "given_weights": (1.0, 1.0, 1.0, 1.0, -1.0)}, r"none negative"),
        ({"given_weights": (1.0,) * 5}, r"given_weights=.*class_weights='none' has none"),
        ({"effective_beta": 0.9}, r"effective_beta=0\.9: class_weights='none' has none"),
        ({"focal_gamma": 2.0}, r"focal_gamma=2\.0: kind='cross_entropy' has none"),
        ({"kind": "focal", "logit_tau": 1.0}, r"logit_tau=1\.0: kind='focal' has none"),
        ({"kind": "hinge"}, r"kind='hinge': expected one of cross_entropy, focal, logit_adjusted"),
        ({"class_weights": "inverse"}, r"'inverse': expected one of none, balanced, effective, given"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _make(**settings)
