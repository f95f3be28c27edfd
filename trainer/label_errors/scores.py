"""How examples stood out in training in; how suspicious each label is, and what it might be instead, out.

Measured on CIFAR-10's first 10,000 training images with 5 % wrong labels (`make bench BENCH=label_errors`): how many of
those were among the first 5 % of the ranking, in equal classes and where the rarest is a tenth of the commonest:

    mean loss above the class's mean     80.9 %    80.0 %
    mean loss                            80.0 %    78.9 %
    mean margin (AUM)                    80.0 %    78.9 %
    mean loss in deviations of the class 81.8 %    70.8 %
    forgetting events, then loss         79.8 %    79.5 %
    forgetting events alone              54.6 %    51.4 %
    out of fold, from the features       80.9 %    81.6 %    (by the first score, see `out_of_fold`)

There were 445 and 185 of them, so that one to two points are chance; 26 points or nine are not. The first judges each
class by its own measure, so that a hard one doesn't fill the ranking with right labels. To divide by the class's
deviation as well gives every class the same share of the ranking, however many of its labels are wrong; and wrong
labels fall on rare classes most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.label_errors.dynamics import Dynamics


class Suggestions(NamedTuple):
    """What n examples might be instead of what their labels say.

    Attributes:
      classes: int32 [n].
      probabilities: float64 [n], how sure the model was of that class, 0..1: the mean over all looks, where those at
        which another class was the likeliest one count nothing.
    """

    classes: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float64]


def suspicion(found: Dynamics) -> npt.NDArray[np.float64]:
    """float64 [n]: how much an example's mean loss is above the mean of its class's examples, in nats."""
    losses = mean_losses(found)
    sums, counts = np.bincount(found.labels, losses), np.bincount(found.labels)
    return losses - (sums / np.maximum(counts, 1))[found.labels]


def mean_losses(found: Dynamics) -> npt.NDArray[np.float64]:
    """float64 [n]: an example's loss, the mean over all looks."""
    return found.losses.mean(axis=0, dtype=np.float64)


def mean_margins(found: Dynamics) -> npt.NDArray[np.float64]:
    """float64 [n]: the area under the margin, small where the label is wrong.

    https://arxiv.org/abs/2001.10528, section 3: the label's logit minus the largest other one, the mean over training.
    """
    return found.margins.mean(axis=0, dtype=np.float64)


def forgetting_events(found: Dynamics) -> npt.NDArray[np.int64]:
    """int64 [n]: how often the model agreed with a label at one look and no longer at the next.

    https://arxiv.org/abs/1812.05159, section 3.1. A label that it never agreed with counts as forgotten at every look,
    which is more than any other can be; in the paper, without end.
    """
    learned = found.margins > 0
    events: npt.NDArray[np.int64] = (learned[:-1] & ~learned[1:]).sum(axis=0, dtype=np.int64)
    events[~learned.any(axis=0)] = len(learned)
    return events


def suggestions(found: Dynamics) -> Suggestions:
    """The class besides the label that the model was surest of over all looks."""
    # The label has the probability exp(-loss), and one whose logit is smaller by the margin exp(-loss - margin).
    probabilities = np.exp(-found.losses.astype(np.float64) - found.margins)
    classes, largest = found.others[0].copy(), np.zeros(found.others.shape[1])
    for others in found.others:
        sums = np.where(found.others == others, probabilities, 0).sum(axis=0)
        classes = np.where(sums > largest, others, classes)
        largest = np.maximum(sums, largest)
    return Suggestions(classes, largest / len(found.others))
