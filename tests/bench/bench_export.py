"""A run with an export in; each of its formats beside the trainer, in answers, bytes and time, as tables, out."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import manifest as manifest_lib
from pipeline import storage
from trainer.export import formats, publish

_WARM, _TIMED = 5, 50  # images, one at a time
_BATCH = 32

Answers = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]  # uint8 [n, s, s, 3] to probabilities [n, classes]


class _Opened(NamedTuple):
    name: str
    megabytes: float
    answer: Answers


def tables(workdir: str, data: str | None, split: str, images: int, raw: pathlib.Path | None) -> Iterator[str]:
    """Markdown.

    Args:
      workdir: of a run after `export --formats=` with all of them.
      data, split: of a dataset with the same classes, None for the run's; up to
        `images` of it, as many of each class, are taken.
      raw: the folder that the dataset was prepared from, for files as they came; None leaves them out.
    """
    from trainer import classifier
    from trainer.export import gate, golden

    model = classifier.load(workdir)
    data = data or model.run.data
    described = manifest_lib.load(data)
    chosen = golden.sample(data, described, split=split, count=images, by_class=True, seed=0)
    wanted = gate.expected(model, chosen)
    pixels, labels = gate.images(wanted), np.array([record.label for record in chosen])
    (expected,) = wanted.ways["probabilities"]
    right = np.argmax(expected, axis=1) == labels
    rows = [f"| trainer | | {right.mean():.2%} | | | | |"]
    card = publish.newest(workdir)
    assert card is not None
    folder = storage.join(workdir, publish.FOLDER, str(card["version"]))
    for opened in _formats(folder, card):
        found = opened.answer(pixels)
        same = np.argmax(found, axis=1) == np.argmax(expected, axis=1)
        accuracy = float(np.mean(np.argmax(found, axis=1) == labels))
        lost = 100 * (right.mean() - accuracy)
        apart = np.abs(found - expected).max()
        rows.append(
            f"| {opened.name} | {opened.megabytes:.2f} | {accuracy:.2%} | {lost:.2f} | {np.sum(~same)} | {apart:.1e} "
            f"| {_milliseconds(opened.answer, pixels):.2f} |"
        )
    yield "\n".join(
        [
            f"{workdir}, {len(pixels)} images of {described.name}'s {split} at {pixels.shape[1]} pixels",
            "",
            "| Format | MB | Accuracy | Points lost | Other top-1 | Probabilities differ by | ms an image |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
    if raw is not None:
        yield _raw(folder, raw, [(record.file, record.label) for record in chosen], np.asarray(expected), model)


def _formats(folder: str, card: dict[str, Any]) -> Iterator[_Opened]:
    def size(name: str) -> float:
        return float(card["files"][name]["bytes"]) / 1e6

    for name, report in card["parity"].items():
        path = storage.join(folder, report.get("file", ""))
        if name == "saved_model":
            import tensorflow as tf

            pixels = tf.saved_model.load(folder).signatures["pixels"]
            weights = sum(size(file) for file in card["files"] if file.startswith(("saved_model.pb", "variables/")))
            yield _Opened(
                name,
                weights,
                _batched(lambda batch, run=pixels: run(images=tf.constant(batch))["probabilities"].numpy()),
            )
        elif name == "keras":
            import keras

            loaded = keras.saving.load_model(path)
            yield _Opened(
                name,
                size(formats.FILES[name]),
                _batched(lambda batch, run=loaded: np.asarray(run(batch, training=False)["probabilities"])),
            )
        elif name == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            yield _Opened(
                name,
                size(formats.FILES[name]),
                _batched(lambda batch, run=session.run: run(["probabilities"], {"images": batch})[0]),
            )
        else:
            kind = report.get("kind")
            yield _Opened(f"{name} ({kind})" if kind else name, size(report["file"]), _tflite(path))


def _batched(run: Answers) -> Answers:
    return lambda images: np.concatenate(
        [run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )


def _tflite(path: str) -> Answers:
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(model_path=path, num_threads=2).get_signature_runner()
    (given,) = runner.get_input_details().values()
    return lambda images: np.concatenate(
        [runner(images=image[None].astype(given["dtype"]))["probabilities"] for image in images]
    )


def _milliseconds(answer: Answers, images: npt.NDArray[np.uint8]) -> float:
    times = []
    for number in range(_WARM + _TIMED):
        begin = time.perf_counter()
        answer(images[number % len(images)][None])
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[_WARM:])


def _raw(folder: str, raw: pathlib.Path, chosen: list[tuple[str, int]], expected: npt.NDArray[Any], model: Any) -> str:
    """Files as they came, through the graph and through preparation, beside the records of them."""
    import tensorflow as tf

    signatures = tf.saved_model.load(folder).signatures
    labels = np.array([label for _, label in chosen])
    files = [(raw / name).read_bytes() for name, _ in chosen]
    in_graph = np.concatenate(
        [signatures["serving_default"](image_bytes=tf.constant([file]))["probabilities"].numpy() for file in files]
    )
    prepared = np.stack([model.prepare(file).numpy() for file in files])
    exact = np.concatenate(
        [model.probabilities(prepared[start : start + _BATCH]) for start in range(0, len(prepared), _BATCH)]
    )
    lines = []
    for name, found in (("serving_default, in the graph", in_graph), ("classifier.prepare", exact)):
        apart = np.abs(found - expected).max(axis=1)
        lines.append(
            f"| {name} | {int(np.sum(found.argmax(1) != expected.argmax(1)))} | {np.median(apart):.1e} | "
            f"{np.quantile(apart, 0.99):.1e} | {apart.max():.1e} | {np.mean(found.argmax(1) == labels):.2%} |"
        )
    return "\n".join(
        [
            f"The {len(files)} original files beside the records made of them",
            "",
            "| Way | Other top-1 | Median difference | 99 % below | Largest | Accuracy |",
            "| --- | --- | --- | --- | --- | --- |",
            *lines,
        ]
    )
