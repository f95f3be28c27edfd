"""Images and folders in, class names with confidences out; what can't be read is named while the rest goes on."""

from __future__ import annotations

import concurrent.futures
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tqdm

from pipeline import images, storage
from pipeline.errors import InputError
from trainer import classifier
from trainer import run as run_lib

TOP = 3
_BATCH = 32  # enough to fill a core's vector units; more only adds memory


class Prediction(NamedTuple):
    file: str
    classes: tuple[tuple[str, float], ...]  # the likeliest first, with their probabilities
    error: str | None  # why there are none


def predict(*, workdir: str, paths: Sequence[str], checkpoint: str = "best") -> Iterator[Prediction]:
    """Predicts with a checkpoint in `workdir`, one result per file in the order given.

    Args:
      checkpoint: see `checkpoints.load_weights`.
      paths: images, or folders whose files (hidden ones left out) are taken in sorted order.

    Raises:
      InputError: where the run or a path is missing, or there is nothing to predict.
    """
    run_lib.load(workdir)  # what is missing is said before the model is built
    files = list(expand(paths))
    model = classifier.load(workdir, checkpoint=checkpoint)
    with tqdm.tqdm(total=len(files), unit="image", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(files), _BATCH):
            yield from _predict_batch(model, files[start : start + _BATCH])
            bar.update(min(_BATCH, len(files) - start))


def expand(paths: Iterable[str]) -> Iterator[str]:
    """Replaces folders by their files."""
    found = False
    for path in paths:
        if storage.is_directory(path):
            names = [name for name in storage.files_under(path) if not name.rsplit("/", 1)[-1].startswith(".")]
            files = [storage.join(path, name) for name in names]
        elif storage.exists(path):
            files = [path]
        else:
            raise InputError(f"{path}: no such file or folder")
        found = found or bool(files)
        yield from files
    if not found:
        raise InputError("nothing to predict: give the paths of images or of folders that hold some")


def _predict_batch(model: classifier.Classifier, files: Sequence[str]) -> list[Prediction]:
    pixels: list[tf.Tensor] = []
    errors: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(_BATCH) as pool:  # a bucket takes 50 ms for each
        sources = list(pool.map(_read, files))
    for file, source in zip(files, sources, strict=True):
        if isinstance(source, OSError):
            errors[file] = f"unreadable: {source}"
            continue
        try:
            pixels.append(model.prepare(source))
        except images.ImageError as error:
            errors[file] = f"{error}. {images.REASONS[error.code]}"
    probabilities = iter(model.probabilities(tf.stack(pixels)) if pixels else ())
    return [
        Prediction(file, (), errors[file]) if file in errors else _top(file, next(probabilities), model.run.classes)
        for file in files
    ]


def _read(file: str) -> bytes | OSError:
    try:
        return storage.read_bytes(file)
    except ConnectionError:  # of the bucket, and so of all that would follow
        raise
    except OSError as error:
        return error


def _top(file: str, probabilities: Any, classes: Sequence[str]) -> Prediction:
    best = probabilities.argsort()[::-1][:TOP]
    return Prediction(file, tuple((classes[index], float(probabilities[index])) for index in best), None)


def as_json(predictions: Iterable[Prediction]) -> str:
    rows = [
        {"file": p.file, "error": p.error}
        if p.error
        else {"file": p.file, "top": [{"class": name, "confidence": share} for name, share in p.classes]}
        for p in predictions
    ]
    return json.dumps(rows, indent=1)


def as_table(predictions: Iterable[Prediction]) -> str:
    rows = [
        [p.file, *([f"! {p.error}"] if p.error else [f"{name} {share:.1%}" for name, share in p.classes])]
        for p in predictions
    ]
    good = [row for row in rows if len(row) > 2]
    widths = [max((len(row[i]) for row in good if i < len(row)), default=0) for i in range(TOP + 1)]
    return "\n".join("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows)
