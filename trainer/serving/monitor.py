"""What the model was asked, batch by batch, in; after every so many images a comparison with the reference out."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.serving import drift, model


class _Seen(NamedTuple):
    digest: int
    values: dict[str, float]
    predicted: int


class Monitor:
    """The last `drift.WINDOW` different images: one that is sent again is no new evidence."""

    def __init__(self, reference: Mapping[str, Any], classes: Sequence[str]) -> None:
        self._reference = reference
        self._classes = classes
        self._window: collections.deque[_Seen] = collections.deque(maxlen=drift.WINDOW)
        self._new = 0  # since the last look
        self.findings: list[drift.Finding] = []

    def add(
        self, images: npt.NDArray[np.uint8], rows: Sequence[model.Row], sizes: Sequence[tuple[int, int] | None]
    ) -> list[drift.Finding] | None:
        """Returns what a look found where these images made one due.

        Args:
          sizes: of the sources, None for what came without one.
        """
        probabilities = np.stack([row.probabilities for row in rows])
        embeddings = np.stack([row.embedding for row in rows])
        known = np.array([size or (np.nan, np.nan) for size in sizes])
        values = drift.measure(self._reference, images, probabilities, embeddings, known)
        digests = {seen.digest for seen in self._window}
        looked = None
        for index, predicted in enumerate(probabilities.argmax(axis=1).tolist()):
            digest = hash(images[index].tobytes())
            if digest in digests:
                continue
            digests.add(digest)
            self._window.append(_Seen(digest, {name: float(v[index]) for name, v in values.items()}, predicted))
            self._new += 1
            if self._new == drift.EVERY:
                looked = self._look()
        return looked

    def _look(self) -> list[drift.Finding]:
        self._new = 0
        values = {name: np.array([seen.values[name] for seen in self._window]) for name in self._window[0].values}
        predicted = np.array([seen.predicted for seen in self._window])
        before = {finding.feature for finding in self.findings if finding.alarm}
        self.findings = drift.compare(self._reference, values, predicted)
        for finding in self.findings:
            if finding.alarm != (finding.feature in before):
                logging.warning(
                    "drift: %s of the last %d images %s (effect %+.2f, p %.1g)",
                    self._name(finding.feature),
                    len(self._window),
                    "is not the reference's" if finding.alarm else "is as the reference's again",
                    finding.effect,
                    finding.p_value,
                )
        return self.findings

    def _name(self, feature: str) -> str:
        kind, _, index = feature.partition(" ")
        return f"the share of class {self._classes[int(index)]!r}" if kind == "class" else feature
