"""A classifier in; an ONNX file, and what it says of images, out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import tensorflow as tf

from pipeline import startup
from trainer import classifier
from trainer.export import about as about_lib
from trainer.export import networks
from trainer.export.about import About
from trainer.export.parity import Observed

OPSET = 18  # the newest that tf2onnx 1.17 writes
_BATCH = "batch"  # the name of the first dimension, which may be any number
_PADDING = ("Pad", "Transpose")  # what may stand between scaling and the first convolution


def write(path: str, model: classifier.Classifier, about: About) -> None:
    """Writes a model of `images` uint8 [batch, image_size, image_size, 3] -> `logits`, `probabilities`, float32."""
    net = model.net
    signature = [tf.TensorSpec([None, *net.input_shape[1:]], tf.uint8, name="images")]
    function = tf.function(
        lambda images: networks.answers(net(images, training=False), about.temperature),
        input_signature=signature,
        autograph=False,
    )
    logging.getLogger("tf2onnx").setLevel(logging.WARNING)  # it tells what it optimises
    with startup.keep_log_level():
        from tf2onnx import convert  # type: ignore[import-untyped]  # sets it to silence
    with networks.fixed(net):
        made, _ = convert.from_function(function, input_signature=signature, opset=OPSET)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    onnx.helper.set_model_props(made, {about_lib.KEY: json.dumps(about.to_json(), sort_keys=True)})
    onnx.checker.check_model(made)
    onnx.save(made, path)


def observe(path: str, images: npt.NDArray[np.uint8], batch: int) -> Observed:
    """What the file says of images, uint8 [n, image_size, image_size, 3]."""
    model = onnx.load(path)
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}[about_lib.KEY])
    answers = _run(onnxruntime.InferenceSession(path, providers=_CPU), ["logits", "probabilities"], images, batch)
    name = _entry(model)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    watched = onnxruntime.InferenceSession(model.SerializeToString(), providers=_CPU)
    (scaled,) = _run(watched, [name], images, batch)
    if scaled.shape[-1] != 3:  # channels first, as ONNX has its convolutions
        scaled = np.moveaxis(scaled, 1, -1)
    ways = {"scaling": [scaled], "logits": [answers[0]], "probabilities": [answers[1]]}
    return Observed(ways, order=about["classes"])


def _entry(model: onnx.ModelProto) -> str:
    """The tensor that the first convolution takes, before any padding."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    name = next(node.input[0] for node in model.graph.node if node.op_type == "Conv")
    while name in made_by and made_by[name].op_type in _PADDING:
        name = made_by[name].input[0]
    return str(name)


def _run(session: Any, names: Sequence[str], images: npt.NDArray[np.uint8], batch: int) -> list[npt.NDArray[Any]]:
    parts = [
        session.run(list(names), {"images": images[start : start + batch]}) for start in range(0, len(images), batch)
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


_CPU = ["CPUExecutionProvider"]
