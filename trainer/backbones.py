"""A backbone's name in; its scaling, its Keras model without a top, its published weights and its blocks out.

All come from keras.applications. KerasCV's EfficientNetLite has no published weights, and KerasCV no further releases.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

import keras
import numpy as np

from pipeline import storage
from pipeline.errors import InputError
from trainer import batch_norm, safe_loading

_IMAGENET_STD = (0.229, 0.224, 0.225)  # of RGB pixels in [0, 1]
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)  # of pixels in [0, 255]
_PUBLISHED_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # of MobileNetV2
_PUBLISHED_SIZES = (96, 128, 160, 192, 224)  # of MobileNetV2; Keras takes 224's file for any other, with a warning
# MobileNetV2's block_3_expand and expanded_conv_project, EfficientNet's block2b_bn, VGG16's block4_conv1, ResNet50's
# conv3_block2_1_conv.
_BLOCK = re.compile(r"(block_\d+|expanded_conv|block\d+[a-z]?|conv\d+_block\d+)_")


# Scaling is float32 under every policy: bfloat16 holds 123.68, the mean that is subtracted, as 124.
def _between_minus_one_and_one(images: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="scale")(images)


def _centred_bgr(images: keras.KerasTensor) -> keras.KerasTensor:
    offset = [-mean for mean in _CAFFE_MEAN_BGR]
    return keras.layers.Rescaling(1.0, offset=offset, dtype="float32", name="scale")(keras.ops.flip(images, axis=-1))


def _as_they_are(images: keras.KerasTensor) -> keras.KerasTensor:
    """For networks whose own first layers scale."""
    return keras.layers.Rescaling(1.0, dtype="float32", name="scale")(images)


@dataclasses.dataclass(frozen=True)
class _Backbone:
    constructor: str  # in keras.applications
    scale: Callable[[keras.KerasTensor], keras.KerasTensor]  # 0..255 to the range of the published weights


_BACKBONES = {
    "mobilenetv2": _Backbone("MobileNetV2", _between_minus_one_and_one),  # https://arxiv.org/abs/1801.04381
    # https://arxiv.org/abs/1905.11946
    **{f"efficientnet_b{size}": _Backbone(f"EfficientNetB{size}", _as_they_are) for size in range(8)},
    **{  # https://arxiv.org/abs/2104.00298
        f"efficientnetv2_{size}": _Backbone(f"EfficientNetV2{size.upper()}", _as_they_are)
        for size in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    "resnet50": _Backbone("ResNet50", _centred_bgr),  # https://arxiv.org/abs/1512.03385
    "vgg16": _Backbone("VGG16", _centred_bgr),  # https://arxiv.org/abs/1409.1556
}
NAMES = tuple(_BACKBONES)


def build(backbone: str, *, image_size: int, width: float | None) -> keras.Model:
    """Builds the network without its top and with random weights.

    Args:
      backbone: one of `NAMES`.
      width: MobileNetV2's alpha; None is the backbone's own.

    Returns:
      A model named `backbone` of what `scale` gives, float [batch, image_size, image_size, 3], to a feature map.

    Raises:
      InputError: for an unknown backbone, or a width where it has none.
    """
    features = _construct(backbone, image_size, width, weights=None)
    batch_norm.fuse(features)
    return features


def scale(backbone: str, images: keras.KerasTensor) -> keras.KerasTensor:
    """Brings uint8 pixels into the range that the backbone was (or will be) trained in, by a layer named `scale`."""
    return _BACKBONES[backbone].scale(images)


def same(backbone: str, width: float | None, other: str, other_width: float | None) -> bool:
    """Whether the weights of one are the weights of the other."""
    return (backbone, 1.0 if width is None else width) == (other, 1.0 if other_width is None else other_width)


def load_published(features: keras.Model, backbone: str, *, image_size: int, width: float | None, weights: str) -> None:
    """Loads weights from outside into `build`'s model.

    Args:
      weights: `imagenet` (keras.applications downloads them once, into $KERAS_HOME), or the path or address of a .h5
        file of keras.applications' model without its top.

    Raises:
      InputError: where they are missing, don't fit, or are more than weights, see `safe_loading.h5_weights`.
    """
    if weights == "imagenet" and backbone == "mobilenetv2" and width not in (None, *_PUBLISHED_WIDTHS):
        raise InputError(
            f"model.width={width}: no ImageNet weights were published for it; expected one of "
            f"{', '.join(map(str, _PUBLISHED_WIDTHS))}, or model.weights=none"
        )
    if weights != "imagenet" and not storage.exists(weights):
        raise InputError(
            f"model.weights={weights!r}: no such file; expected none, imagenet, the path of a .h5 file or an earlier "
            "run's --workdir"
        )
    try:
        if weights == "imagenet":
            if backbone == "mobilenetv2" and image_size not in _PUBLISHED_SIZES:
                image_size = 224
            published = _construct(backbone, image_size, width, weights="imagenet")
        else:
            published = _construct(backbone, image_size, width, weights=None)
            with safe_loading.h5_weights(weights) as path:
                published.load_weights(path)
        # By way of a second model: EfficientNet's has one layer more when it is asked for these weights by name, and
        # a .weights.h5 file knows layers by the names of Keras' own classes.
        features.set_weights(published.get_weights())
    except InputError:
        raise
    except Exception as error:  # no network, no such width, other layers: each its own type in Keras
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.weights={weights!r} can't be loaded into {backbone} without its top ({first_line}): "
            "give the path of a .h5 file that fits, or none"
        ) from error
    _correct_published_variance(features)
    refresh(features)


def refresh(net: keras.Model) -> None:
    """To be called after weights were restored into `net`; until then it may normalise with older statistics.

    EfficientNet's Normalization computes with copies of its variables, which only this brings up to date.
    """
    for layer in leaves(net):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def set_drop_path(features: keras.Model, last_rate: float | None) -> None:
    """Sets the rates of stochastic depth (https://arxiv.org/abs/1603.09382), for those that `drop_paths` switches.

    Args:
      last_rate: the probability that the last block's branch is left out. The others' rise to it linearly from 0 at the
        first block, which Keras builds without such a layer. None keeps Keras' rates.

    Raises:
      InputError: for a rate where the backbone has no such layers.
    """
    names = block_names(features)
    order = [name for name in dict.fromkeys(names) if name not in ("stem", "top")]
    drops = [(layer, name) for layer, name in zip(features.layers, names, strict=True) if _is_drop(layer)]
    if last_rate is not None and not drops:
        raise InputError(f"model.drop_path={last_rate}: only the EfficientNets have such layers; leave it None")
    for layer, name in drops:
        if last_rate is not None:
            layer.rate = last_rate * order.index(name) / (len(order) - 1)
        layer.rate_in_training = layer.rate


def switch_drop_path(layer: keras.layers.Layer, *, on: bool) -> None:
    """A frozen block is there as at evaluation. Keras' dropout has no such notion; any other layer is left alone."""
    if _is_drop(layer):
        layer.rate = layer.rate_in_training if on else 0.0


def block_names(features: keras.Model) -> list[str]:
    """For each of the backbone's layers in their order: `stem`, its block's name, or `top` behind the last block.

    The order is Keras', by distance from the output, in which no block begins before the one in front has ended.
    """
    names: list[str] = []
    for layer in features.layers:
        match = _BLOCK.match(layer.name)
        outside = "stem" if not names or names[-1] == "stem" else "top"
        names.append(match[1] if match else outside)
    return names


def leaves(net: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers in their order, those of models inside it in their place."""
    for layer in net.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def _construct(backbone: str, image_size: int, width: float | None, *, weights: str | None) -> keras.Model:
    if backbone not in _BACKBONES:
        raise InputError(f"model.backbone={backbone!r}: expected one of {', '.join(NAMES)}")
    if width is not None and backbone != "mobilenetv2":
        raise InputError(f"model.width={width}: {backbone} has one width; leave it None")
    options = {} if width is None else {"alpha": width}
    constructor = getattr(keras.applications, _BACKBONES[backbone].constructor)
    features = constructor(include_top=False, input_shape=(image_size, image_size, 3), weights=weights, **options)
    # Not by the constructor: EfficientNets choose their weights' file, EfficientNetV2 its blocks and scaling, by name.
    features.name = "backbone"
    return features


def _correct_published_variance(features: keras.Model) -> None:
    """Makes EfficientNet's own Normalization compute (x - mean) / std, as its weights were trained.

    The published files hold the deviation where the layer wants the variance, so that it divides by sqrt(std); asked
    for "imagenet" by name, and only then, keras.applications adds a layer that divides by sqrt(std) once more
    (https://github.com/tensorflow/tensorflow/issues/49930). The variance itself does the same for files, and travels
    with checkpoints. Files with other statistics were trained with those and keep them.
    """
    for layer in features.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            variance = keras.ops.convert_to_numpy(layer.adapt_variance)
            if np.allclose(variance, _IMAGENET_STD, rtol=1e-3):
                layer.adapt_variance.assign(variance * np.asarray(_IMAGENET_STD, variance.dtype))


def _is_drop(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Dropout) and layer.name.endswith("_drop")
