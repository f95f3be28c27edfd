"""A model, images and a class for each in; where in each image the evidence for its class is, by Grad-CAM, out.

Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (https://arxiv.org/abs/1610.02391).
"""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainer import backbones
from trainer.explanation import alignment, relevance

# The gradient of early layers in float16 would else be lost below its smallest number, 6e-8; float32 and bfloat16 don't
# care, and the heatmap's maximum divides it out. At the last layer gradients are about 1e-2, far below the largest.
_SCORE_SCALE = 1024.0
_SUGGESTIONS = 3
_ONE_AT_A_TIME = threading.Lock()  # of those that watch a layer, which is changed meanwhile


def grad_cam(net: keras.Model, images: tf.Tensor, class_index: tf.Tensor, layer: str | None = None) -> tf.Tensor:
    """Weights a layer's feature maps by the class score's mean gradient, and adds them up: section 3, equations 1, 2.

    The score is the logit, before the softmax, as in the paper: it says what speaks for this class, where a probability
    also rises by what speaks against the others. Everything is as at evaluation: batch norm uses its moving statistics
    and dropout is off, so that no example has a part in another's map. May be called inside of a tf.function.

    Args:
      net: images to logits [n, classes], its backbone inside it as a model or not.
      images: uint8 [n, size, size, 3].
      class_index: integer [n], the class to explain for each image.
      layer: the name of any layer with a feature map, see `find_layer`.

    Returns:
      float32 [n, h, w] in 0..1, laid over the image by `alignment.over_image`, so that enlarging it shows every place
      where it is. See `relevance.heatmap`, also for maps that are all 0.

    Raises:
      InputError: for a layer that does not exist or has no feature map.
    """
    target = find_layer(net, layer)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        with _watched(target, tape) as seen:
            logits = net(images, training=False)
        scores = _SCORE_SCALE * tf.gather(tf.cast(logits, tf.float32), class_index, batch_dims=1)
    (features,) = seen
    # Of the sum over all examples: none has a part in another's score.
    gradients = tf.cast(tape.gradient(scores, features), tf.float32)
    weights = tf.reduce_mean(gradients, axis=[1, 2])
    evidence = tf.einsum("nhwc,nc->nhw", tf.cast(features, tf.float32), weights)
    aligned = alignment.over_image(tf.nn.relu(evidence), target, image_size=images.shape[1])
    return relevance.heatmap(aligned)


def find_layer(net: keras.Model, name: str | None) -> keras.layers.Layer:
    """The layer of that name in `net` or in a model inside it, or the one to explain by.

    By default that is the last one with a feature map that neither pools nor pads: out_relu of MobileNetV2,
    top_activation of EfficientNet, conv5_block3_out of ResNet50 and block5_conv3 of VGG16. Section 3: the last
    convolution's maps are the best compromise between what they mean and where it is. Images below 64 pixels leave
    those one place, which says nothing; there it is the last layer with more.

    Raises:
      InputError: where there is none of that name, or it has no feature map [n, h, w, channels] larger than 1x1.
    """
    mapped = [layer for layer in backbones.leaves(net) if _has_map(layer)]
    if name is None:
        fitting = [layer for layer in mapped if not re.search("Pooling|Padding", type(layer).__name__)]
        if not fitting:
            raise InputError("the model has no layer with a feature map to explain by")
        return fitting[-1]
    for layer in mapped:
        if layer.name == name:
            return layer
    names = [layer.name for layer in mapped]
    near = difflib.get_close_matches(name, names, _SUGGESTIONS) or names[-_SUGGESTIONS:]
    raise InputError(f"layer {name!r}: no layer with a feature map has that name; the nearest: {', '.join(near)}")


def _has_map(layer: keras.layers.Layer) -> bool:
    shape = getattr(layer.output, "shape", ())
    return len(shape) == 4 and shape[1:3] != (1, 1) and not isinstance(layer, keras.layers.InputLayer)


@contextlib.contextmanager
def _watched(layer: keras.layers.Layer, tape: tf.GradientTape) -> Iterator[list[tf.Tensor]]:
    """While the block runs, what `layer` gives is watched by `tape` and put on the list.

    Any layer can be watched so, wherever it is nested, and around which connections go: a model cut in two at it would
    have to be a chain there.
    """
    seen: list[tf.Tensor] = []
    call = layer.call

    def watched(*args: object, **kwargs: object) -> tf.Tensor:
        features = call(*args, **kwargs)
        tape.watch(features)
        seen.append(features)
        return features

    with _ONE_AT_A_TIME:
        layer.call = watched
        try:
            yield seen
        finally:
            del layer.call
