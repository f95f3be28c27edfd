"""A classifier in; a TFLite file of one kind, and what it says of images, out."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from ai_edge_litert import interpreter as litert  # type: ignore[import-untyped]
from ai_edge_litert import schema_py_generated as schema

from trainer import classifier
from trainer.export import about as about_lib
from trainer.export import networks
from trainer.export.about import About
from trainer.export.parity import Observed

# The kinds that compute without floats, and their kernels.
INTEGER = {
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}
_WATCHED = 8  # images whose scaling is looked at: that takes an interpreter without its fast kernels
_IDENTIFIER = b"TFL3"
_BETWEEN = ("PAD", "QUANTIZE", "DEQUANTIZE")  # what may stand between scaling and the first convolution


class Source(NamedTuple):
    """What the converter reads: a SavedModel with the signatures `pixels`, of uint8, and `levels`, of float32."""

    folder: str
    about: About


@contextlib.contextmanager
def source(model: classifier.Classifier, about: About) -> Iterator[Source]:
    """For all kinds. By way of a SavedModel, since the converter loses the variables of a Keras 3 model's function."""
    size = model.net.input_shape[1]
    nets = {"pixels": model.net, "levels": networks.of_floats(model.net, model.run.config["model"]["backbone"])}
    module = tf.Module()
    module.weights = [variable.value for variable in model.net.variables]
    signatures = {
        name: tf.function(
            lambda images, net=net: networks.answers(net(images, training=False), about.temperature),
            # Of one image, as phones use it: with any number some accelerators decline.
            input_signature=[tf.TensorSpec([1, size, size, 3], net.input.dtype, name="images")],
            autograph=False,
        )
        for name, net in nets.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        yield Source(folder, about)


def convert(source: Source, kind: str, calibration: npt.NDArray[np.uint8] | None = None) -> bytes:
    """A file's content, with a model of one image and one signature.

    It is of `images` uint8 [1, image_size, image_size, 3] -> `logits`, `probabilities`, float32 [1, classes].

    Args:
      source: for kinds in `INTEGER` of a model in `bias_correction.corrected`, or rounding costs more than it need.
      kind: `float32`; `float16`, weights of 16 bits; `dynamic`, weights of 8 bits, and activations where a kernel has
        a use for that; `int8`, all of 8 bits; `int16`, weights of 8 bits and activations of 16, where `images` are
        float32 levels, 0 to 255, since no kernel takes uint8.
      calibration: uint8 [n, image_size, image_size, 3], whose activations give the ranges for the last two.
    """
    integer = kind in INTEGER
    converter = tf.lite.TFLiteConverter.from_saved_model(
        source.folder, signature_keys=["levels" if integer else "pixels"]
    )
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if integer:
        assert calibration is not None
        levels = calibration
        converter.representative_dataset = lambda: ({"images": image[None].astype(np.float32)} for image in levels)
        converter.target_spec.supported_ops = [INTEGER[kind]]
    if kind == "int8":
        converter.inference_input_type = tf.uint8
    with _without_notes():
        return _with_about(converter.convert(), source.about)


def answers(content: bytes, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """`logits` and `probabilities`, float32 [n, classes], of uint8 [n, image_size, image_size, 3]."""
    with _without_notes():
        runner = litert.Interpreter(model_content=content, num_threads=_threads()).get_signature_runner()
    (given,) = runner.get_input_details().values()
    found = [runner(images=image[None].astype(given["dtype"])) for image in images]
    return {name: np.concatenate([each[name] for each in found]) for name in ("logits", "probabilities")}


def observe(content: bytes, images: npt.NDArray[np.uint8]) -> Observed:
    """What the file says of images; of their scaling only the first few."""
    found: dict[str, npt.NDArray[Any]] = dict(answers(content, images))
    found["scaling"] = _scaled(content, images[:_WATCHED])
    return Observed({stage: [values] for stage, values in found.items()}, order=read_about(content)["classes"])


def read_about(content: bytes) -> dict[str, Any]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = [entry for entry in model.metadata if entry.name == about_lib.KEY.encode()]
    found: dict[str, Any] = json.loads(bytes(model.buffers[entry.buffer].data))
    return found


def _with_about(content: bytes, about: About) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = about_lib.KEY, len(model.buffers)
    buffer.data = np.frombuffer(json.dumps(about.to_json(), sort_keys=True).encode(), np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + len(buffer.data))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _scaled(content: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What the first convolution takes, before any padding: float32 [n, image_size, image_size, 3]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of the memory that keeping all tensors takes
        watched = litert.Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    runner, index = watched.get_signature_runner(), _entry(content)
    (given,) = runner.get_input_details().values()
    found = []
    for image in images:
        runner(images=image[None].astype(given["dtype"]))
        scale, zero = watched._get_tensor_details(index, 0)["quantization"]
        value = watched.get_tensor(index)[0].astype(np.float32)
        found.append((value - zero) * scale if scale else value)
    return np.stack(found)


def _entry(content: bytes) -> int:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    (graph, *_) = model.subgraphs
    kinds = [names[_code(model.operatorCodes[operator.opcodeIndex])] for operator in graph.operators]
    made_by = {
        output: (kind, operator)
        for kind, operator in zip(kinds, graph.operators, strict=True)
        for output in operator.outputs
    }
    first = next(operator for kind, operator in zip(kinds, graph.operators, strict=True) if kind in _CONVOLUTIONS)
    index = int(first.inputs[0])
    while index in made_by and made_by[index][0] in _BETWEEN:
        index = int(made_by[index][1].inputs[0])
    return index


def _code(code: Any) -> int:
    """Operators of before 2020 stand in a byte of their own; newer ones have 127 there."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Converter and interpreter tell the descriptor what they do; what fails is raised."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
