"""A made-up population and a classifier whose accuracy on it is known; how often intervals from samples hold that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.evaluation import intervals


class Kind(NamedTuple):
    classes: int
    imbalance: float  # how many times larger the largest class is than the smallest
    spread: (
        float  # of the classes' recalls: 1 puts the best at almost no mistakes, and the worst as far on the other side
    )
    examples: int
    group: int  # mean size; geometrically distributed
    correlation: float  # of two answers in one group


class Sample(NamedTuple):
    labels: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    groups: list[str]


class Population:
    def __init__(self, kind: Kind, accuracy: float) -> None:
        """`accuracy` is the mean recall."""
        rng = np.random.default_rng(1)
        places = np.linspace(0, 1, kind.classes)
        self.kind = kind
        self.prior = kind.imbalance**-places / np.sum(kind.imbalance**-places)
        self.recall = accuracy + 0.98 * kind.spread * (1 - accuracy) * (2 * places - 1)
        wrong = rng.dirichlet(np.full(kind.classes, 0.5), size=kind.classes)
        np.fill_diagonal(wrong, 0)
        self.wrong = wrong / wrong.sum(axis=1, keepdims=True)  # what is answered instead

    def truth(self) -> tuple[float, float, float]:
        """Accuracy, balanced accuracy and macro F1 on all of it, by their definitions."""
        joint = self.prior[:, None] * (1 - self.recall)[:, None] * self.wrong + np.diag(self.prior * self.recall)
        hits = joint.diagonal()
        f1 = 2 * hits / (joint.sum(axis=1) + joint.sum(axis=0))
        return float(hits.sum()), float(self.recall.mean()), float(f1.mean())

    def sample(self, rng: np.random.Generator) -> Sample:
        kind = self.kind
        sizes = rng.geometric(1 / kind.group, size=kind.examples)
        sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), kind.examples)) + 1]
        of_group = np.repeat(np.arange(len(sizes)), sizes)
        of_class = rng.choice(kind.classes, size=len(sizes), p=self.prior)
        chance = self.recall[of_class]
        if kind.correlation:  # beta-binomial: its correlation is 1 / (a + b + 1)
            both = (1 - kind.correlation) / kind.correlation
            chance = rng.beta(chance * both, (1 - chance) * both)
        labels = of_class[of_group]
        right = rng.random(len(labels)) < chance[of_group]
        draws = rng.random(len(labels))[:, None]
        wrong = np.minimum((self.wrong.cumsum(axis=1)[labels] < draws).sum(axis=1), kind.classes - 1)
        return Sample(labels, np.where(right, labels, wrong), [str(number) for number in of_group])


def coverage(
    kind: Kind, accuracies: tuple[float, float], *, samples: int, seed: int, resamples: int = 400
) -> list[float]:
    """How many of the samples' intervals held the truth: of accuracy, balanced accuracy and macro F1.

    Args:
      accuracies: between which each sample's population has its own. At a single one coverage also tells how the few
        possible numbers of mistakes happen to lie around it (https://doi.org/10.1214/ss/1009213286), so it is averaged
        over many, as by Newcombe (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E).
    """
    rng, held = np.random.default_rng(seed), np.zeros(3)
    for _ in range(samples):
        population = Population(kind, rng.uniform(*accuracies))
        truth = population.truth()
        labels, answers, groups = population.sample(rng)
        found = intervals.bootstrap(
            labels,
            answers,
            answers == labels,
            groups,
            num_classes=kind.classes,
            resamples=resamples,
            seed=int(rng.integers(2**31)),
        )
        of_three = (found.accuracy, found.balanced_accuracy, found.macro_f1)
        held += [low <= value <= high for value, (low, high) in zip(truth, of_three, strict=True)]
    return (held / samples).tolist()


def coverage_of_difference(
    kind: Kind, accuracy: float, *, better: float, agreeing: float, samples: int, seed: int
) -> float:
    """The same for the difference of two models on one sample.

    Args:
      better: the other's accuracy beyond the one's.
      agreeing: the share of examples to which it gives the one's answer whatever that is; elsewhere it is right with
        the chance that makes up the difference, and as much correlated in groups as the one.
    """
    population, rng = Population(kind, accuracy), np.random.default_rng(seed)
    mean = population.truth()[0] + better / (1 - agreeing)
    held = 0
    for _ in range(samples):
        labels, answers, groups = population.sample(rng)
        one = answers == labels
        of_group = np.unique(groups, return_inverse=True)[1]
        chance = np.full(of_group.max() + 1, mean)
        if kind.correlation:
            both = (1 - kind.correlation) / kind.correlation
            chance = rng.beta(chance * both, (1 - chance) * both)
        other = np.where(rng.random(len(one)) < agreeing, one, rng.random(len(one)) < chance[of_group])
        low, high = intervals.of_difference(one, other, groups, resamples=300, seed=int(rng.integers(2**31)))
        held += low <= better <= high
    return held / samples
