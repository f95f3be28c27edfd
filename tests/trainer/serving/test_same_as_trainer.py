"""What is served is what the trainer says, whatever format a photo comes in."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline import images
from tests.pipeline import pictures
from tests.trainer.export import tiny
from tests.trainer.serving.conftest import Client
from tests.trainer.serving.test_server import b64
from trainer.export import about, publish, saved_model


def test_served_probabilities_are_the_trainer_s(tmp_path: pathlib.Path, serve: Callable[..., Client]) -> None:
    trained = tiny.classifier()
    described = about.describe(trained, "tiny")
    with publish.scratch(str(tmp_path)) as folder:
        saved_model.write(folder, trained, described)
        publish.publish(folder, str(tmp_path), described.to_json())
    client = serve(tmp_path)
    files = [pictures.photo(), pictures.photo("flower")]
    for file in pictures.kinds().values():
        with contextlib.suppress(images.ImageError):  # there are some that nobody reads
            images.inspect(file)
            files.append(file)
    assert len(files) > 30
    expected = trained.probabilities(tf.stack([trained.prepare(file) for file in files]))
    assert np.ptp(expected, axis=0).max() > 0.1  # these weights see a difference
    found = []
    for start in range(0, len(files), 7):
        body = {"instances": [b64(file) for file in files[start : start + 7]]}
        status, answer = client.json("POST", "/v1/models/tiny:predict", body)
        assert status == 200, answer
        found += [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
