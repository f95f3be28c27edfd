"""Which examples are worth looking at, by hand."""

from __future__ import annotations

import numpy as np

from trainer.explanation.choice import choose


def _probabilities(answers: list[tuple[int, float]], classes: int) -> np.ndarray:
    """Rows with this confidence in this class, the rest spread over the others."""
    rows = np.array([[(1 - share) / (classes - 1)] * classes for _, share in answers])
    for row, (label, share) in zip(rows, answers, strict=True):
        row[label] = share
    return rows


# Class 0 is always right and the surest, the others less so; 1 is taken for 2 four times, 2 for 0 twice, 2 for 1 once.
TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 1, 1, 1, 1, 2, 2, 2])
ANSWERS = [
    *[(0, 0.99), (0, 0.98), (0, 0.97), (0, 0.51), (1, 0.9), (1, 0.55), (2, 0.8)],  # right
    *[(2, 0.95), (2, 0.94), (2, 0.6), (2, 0.5), (0, 0.7), (0, 0.65), (1, 0.93)],
]
IDS = [f"{number:02d}" for number in range(14)]


def test_the_surest_come_from_many_classes_and_the_least_sure_last() -> None:
    chosen = choose(TRUTH, _probabilities(ANSWERS, 3), IDS, limit=6)
    assert chosen.correct == (0, 4, 1, 3, 5, 6)  # 4 before 1, which is surer, and of a class that is there already
    chosen = choose(TRUTH, _probabilities(ANSWERS, 3), IDS, limit=3)
    assert chosen.correct == (0, 4, 3)


def test_the_surest_errors_come_first_and_pairs_by_their_number() -> None:
    chosen = choose(TRUTH, _probabilities(ANSWERS, 3), IDS, limit=3)
    assert chosen.wrong == (7, 8, 13)
    assert chosen.confused == (9, 10, 11)  # the rest of (1, 2), then (2, 0); (2, 1) stands in `wrong`, and is no pair
    assert choose(TRUTH, _probabilities(ANSWERS, 3), IDS, limit=8).confused == ()  # all are shown


def test_three_of_a_pair_are_enough() -> None:
    truth = np.zeros(8, np.int64)
    answers = [(2, 0.99), (1, 0.9), (1, 0.8), (1, 0.7), (1, 0.6), (1, 0.5), (2, 0.48), (2, 0.47)]
    chosen = choose(truth, _probabilities(answers, 3), IDS[:8], limit=1)
    assert chosen.confused == (1,)
    assert choose(truth, _probabilities(answers, 3), IDS[:8], limit=2).confused == (2, 3)
    truth = np.r_[truth, np.ones(6, np.int64)]
    answers += [(0, 0.999)] * 6
    ids = [f"{number:02d}" for number in range(14)]
    # Six of (1, 0) are the surest errors; of (0, 1) five, and of (0, 2) three are left.
    assert choose(truth, _probabilities(answers, 3), ids, limit=6).confused == (1, 2, 3, 0, 6, 7)


def test_one_error_is_no_pair() -> None:
    truth, answers = np.array([0, 0, 1]), [(1, 0.9), (1, 0.8), (0, 0.7)]
    assert choose(truth, _probabilities(answers, 2), IDS[:3], limit=2).confused == ()
    truth, answers = np.r_[truth, 1], [*answers, (0, 0.6)]
    assert choose(truth, _probabilities(answers, 2), IDS[:4], limit=2).confused == (2, 3)


def test_the_order_of_storing_decides_nothing() -> None:
    """Also among equals."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 60)
    probabilities = _probabilities([(int(label), 0.25 + 0.1 * int(share)) for label, share in
                                    generator.integers([0, 1], [4, 7], [60, 2])], 4)  # fmt: skip
    ids = [f"{number:03d}" for number in generator.permutation(60)]
    expected = [[ids[i] for i in group] for group in choose(truth, probabilities, ids, limit=9)]
    order = generator.permutation(60)
    names = [ids[i] for i in order]
    again = choose(truth[order], probabilities[order], names, limit=9)
    assert [[names[i] for i in group] for group in again] == expected


def test_what_is_no_number_is_left_out() -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    assert choose(np.array([0, 0, 0]), probabilities, ["a", "b", "c"], limit=4) == ((0,), (2,), ())
