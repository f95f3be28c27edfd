"""Evaluation input: every example exactly once, whatever the workers and the batch, in equally many steps."""

from __future__ import annotations

import collections

import pytest

from pipeline import evaluation
from pipeline import manifest as manifest_lib


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [7, 64])
def test_every_example_once(digits: str, num_workers: int, batch: int) -> None:
    manifest = manifest_lib.load(digits)
    labels: collections.Counter[int] = collections.Counter()
    pictures = set()
    steps = []
    for worker in range(num_workers):
        batches = list(
            evaluation.batches(
                digits,
                manifest,
                split="test",
                batch=batch,
                image_size=32,
                crop_fraction=1.0,
                worker=worker,
                num_workers=num_workers,
            )
        )
        steps.append(len(batches))
        for images, batch_labels, mask in batches:
            assert images.shape == (batch, 32, 32, 3)
            labels.update(batch_labels[mask].numpy().tolist())
            pictures.update(image.numpy().tobytes() for image in images[mask])
            assert not images[~mask].numpy().any()
    assert labels == dict(enumerate(manifest.class_counts("test")))
    assert len(pictures) == manifest.split("test").examples
    assert len(set(steps)) == 1
