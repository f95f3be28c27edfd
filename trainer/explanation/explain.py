"""A run and images in; a picture for each of where the model sees a class, and how sure it is of that class, out."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline import images, storage
from pipeline.errors import InputError
from trainer import classifier, prediction_output
from trainer import run as run_lib
from trainer.explanation import grad_cam, occlusion, overlay
from trainer.image_sources import Source

METHODS = ("grad_cam", "occlusion")
_BATCH = 16
_SUGGESTIONS = 3


class Explained(NamedTuple):
    file: str
    label: str  # the class that the picture is about
    confidence: float  # in that class
    picture: str  # the path of the overlay, a PNG of the model's size
    found: bool  # whether anything in the image speaks for the class; see `relevance.heatmap`
    error: str | None  # why there is none of this


def explain(
    *,
    workdir: str,
    sources: Iterable[Source],
    method: str = "grad_cam",
    label: str | None = None,
    layer: str | None = None,
    out: str | None = None,
    checkpoint: str = "best",
) -> Iterator[Explained]:
    """Explains a checkpoint in `workdir`, one result per file in the order given.

    Args:
      sources: see `image_sources.expand`.
      method: one of `METHODS`.
      label: the class to explain; None is the likeliest for each image.
      layer: of `grad_cam`, see `grad_cam.find_layer`.
      out: the folder for `NAME.METHOD.png`; None is `explanations` in `workdir`.
      checkpoint: see `checkpoints.load_weights`.

    Raises:
      InputError: where the run is missing, a class or layer unknown, or a layer is given where none applies.
    """
    if layer is not None and method != "grad_cam":
        raise InputError(f"--layer={layer}: --method={method} looks at no layer; leave it, or use --method=grad_cam")
    run = run_lib.load(workdir)
    index = None if label is None else _index(run.classes, label)
    model = classifier.load(workdir, checkpoint=checkpoint)
    grad_cam.find_layer(model.net, layer)
    heatmaps = _method(model, method, layer)
    folder = out or storage.join(workdir, "explanations")
    named = _named(sources)
    while group := list(itertools.islice(named, _BATCH)):
        pictures = [storage.join(folder, f"{name}.{method}.png") for name, _ in group]
        yield from _explain_batch(model, heatmaps, [source for _, source in group], pictures, index)


def as_line(explained: Explained) -> str:
    """For a terminal, names escaped; see `prediction_output.shown`."""
    file, label, picture = map(prediction_output.shown, (explained.file, explained.label, explained.picture))
    if explained.error:
        return f"{file}  ! {prediction_output.shown(explained.error)}"
    seen = picture if explained.found else f"{picture}  (nothing in it speaks for this class)"
    return f"{file}  {label} {explained.confidence:.1%}  {seen}"


def _index(classes: Sequence[str], name: str) -> int:
    if name in classes:
        return classes.index(name)
    near = difflib.get_close_matches(name, classes, _SUGGESTIONS) or list(classes[:_SUGGESTIONS])
    raise InputError(f"--class={name}: the model has no such class; the nearest: {', '.join(near)}")


def _named(sources: Iterable[Source]) -> Iterator[tuple[str, Source]]:
    """With their own names without folder and ending, and a number behind those that came before."""
    taken: set[str] = set()
    for source in sources:
        last = source.name.rsplit("/", 1)[-1]
        stem = last.rpartition(".")[0] or last
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
        taken.add(name)
        yield name, source


def _method(model: classifier.Classifier, method: str, layer: str | None) -> Callable[[tf.Tensor, Any], Any]:
    if method == "occlusion":
        return lambda pixels, indices: occlusion.occlusion(model.net, pixels, indices)
    return tf.function(
        lambda pixels, indices: grad_cam.grad_cam(model.net, pixels, indices, layer),
        autograph=False,
        reduce_retracing=True,
    )


def _explain_batch(
    model: classifier.Classifier,
    heatmaps: Callable[[tf.Tensor, Any], Any],
    sources: Sequence[Source],
    pictures: Sequence[str],
    index: int | None,
) -> Iterator[Explained]:
    prepared = [_prepare(model, source) for source in sources]
    sound = [pixels for pixels in prepared if not isinstance(pixels, str)]
    results: Iterator[tuple[Any, ...]] = iter(())
    if sound:
        pixels = tf.stack(sound)
        probabilities = model.probabilities(pixels)
        indices = probabilities.argmax(axis=-1) if index is None else np.full(len(sound), index)
        results = zip(sound, probabilities, indices, np.asarray(heatmaps(pixels, indices)), strict=True)
    for source, picture, outcome in zip(sources, pictures, prepared, strict=True):
        if isinstance(outcome, str):
            yield Explained(source.name, "", 0.0, "", False, outcome)
            continue
        shown, shares, about, heat = next(results)
        storage.write_bytes(picture, overlay.png(overlay.overlay(shown.numpy(), heat)))
        yield Explained(source.name, model.run.classes[about], float(shares[about]), picture, bool(heat.any()), None)


def _prepare(model: classifier.Classifier, source: Source) -> tf.Tensor | str:
    """The pixels, or why there are none."""
    if source.error is not None:
        return source.error
    try:
        return model.prepare(storage.read_bytes(source.name) if source.data is None else source.data)
    except (ConnectionError, InputError):  # of the bucket, and so of all that would follow
        raise
    except images.ImageError as error:
        return f"{error}. {images.REASONS[error.code]}"
    except tf.errors.InvalidArgumentError as error:
        return f"cannot_decode: {error.message}. {images.REASONS['cannot_decode']}"
    except (OSError, ValueError) as error:  # a name with a zero in it is the latter
        return f"unreadable: {error}"
