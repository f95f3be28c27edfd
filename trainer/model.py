"""A backbone's name in, a Keras model from uint8 images to float32 logits out. Scaling lives in here, once."""

from __future__ import annotations

import keras

from pipeline import storage
from pipeline.errors import InputError

# torchvision's and keras.applications' ImageNet statistics, for pixels in [0, 1].
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def build(
    *,
    backbone: str,
    num_classes: int,
    image_size: int,
    width: float | None,
    weights: str,
    dropout: float,
    batch_norm_momentum: float | None,
    sync_batch_norm: bool,
    load_weights: bool = True,
) -> keras.Model:
    """Builds scaling -> backbone -> average pool -> dropout -> linear head.

    Args:
      backbone: `mobilenetv2` (https://arxiv.org/abs/1801.04381) or `efficientnet_b0` (https://arxiv.org/abs/1905.11946).
      weights: `none`, `imagenet` (keras.applications downloads them once), or the path of such a file without its top.
      width, dropout, batch_norm_momentum, sync_batch_norm: see `configs.schema.Model`.
      load_weights: False leaves `weights` unread, for a model whose checkpoint will overwrite them.

    Returns:
      A model of uint8 [batch, image_size, image_size, 3] -> float32 [batch, num_classes], whose layer `backbone`
      holds everything pretrained.

    Raises:
      InputError: for an unknown backbone, a width it doesn't have, or weights that are missing or don't fit.
    """
    images = keras.Input([image_size, image_size, 3], dtype="uint8", name="images")
    features = _backbone(backbone, image_size, width)
    if load_weights and weights != "none":
        _load_pretrained(features, backbone, image_size, width, weights)
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = sync_batch_norm
            if batch_norm_momentum is not None:
                layer.momentum = batch_norm_momentum
    scaled = _scaling(backbone, pretrained=weights != "none")(images)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features(scaled))
    # float32 whatever the policy: softmax over 16-bit logits loses the small probabilities.
    logits = keras.layers.Dense(num_classes, dtype="float32", name="head")(keras.layers.Dropout(dropout)(pooled))
    return keras.Model(images, logits)


def set_trainable(model: keras.Model, *, trainable: str, freeze_batch_norm: bool) -> None:
    """`head` freezes the backbone with its batch norm; `all` frees everything, batch norm only unless it is frozen."""
    features = model.get_layer("backbone")
    features.trainable = trainable == "all"
    for layer in features.layers:  # each by itself: a model that is trainable already doesn't tell its layers again
        frozen = freeze_batch_norm and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = trainable == "all" and not frozen


def refresh(model: keras.Model) -> None:
    """To be called after a checkpoint was restored into `model`; until then it may normalise with older statistics."""
    _finalize_normalization(model.get_layer("backbone"))


def _finalize_normalization(features: keras.Model) -> None:
    """EfficientNet's Normalization computes with copies of its variables, which only this brings up to date."""
    for layer in features.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _backbone(backbone: str, image_size: int, width: float | None, weights: str | None = None) -> keras.Model:
    options = {
        "include_top": False,
        "input_shape": (image_size, image_size, 3),
        "weights": weights,
        "name": "backbone",
    }
    if backbone == "mobilenetv2":
        return keras.applications.MobileNetV2(alpha=1.0 if width is None else width, **options)
    if backbone == "efficientnet_b0" and width is None:
        return keras.applications.EfficientNetB0(**options)
    raise InputError(
        f"model.backbone={backbone!r} with width={width}: expected mobilenetv2, or efficientnet_b0 without"
    )


def _load_pretrained(features: keras.Model, backbone: str, image_size: int, width: float | None, weights: str) -> None:
    if weights != "imagenet" and not storage.exists(weights):
        raise InputError(f"model.weights={weights!r}: no such file; expected none, imagenet or the path of a .h5 file")
    try:
        if weights == "imagenet":
            # By way of a second model: EfficientNet's has one layer more when it is asked for these weights by name.
            features.set_weights(_backbone(backbone, image_size, width, "imagenet").get_weights())
        else:
            features.load_weights(weights)
    except Exception as error:  # no network, no such width, other layers: each its own type in Keras
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.weights={weights!r} can't be loaded into {backbone} without its top ({first_line}): "
            "give the path of a .h5 file that fits, or none"
        ) from error
    _finalize_normalization(features)


def _scaling(backbone: str, *, pretrained: bool) -> keras.layers.Layer:
    """Brings pixels 0..255 into the range the backbone was (or will be) trained in."""
    if backbone == "mobilenetv2":
        return keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")
    if not pretrained:
        return keras.layers.Rescaling(1.0, name="scale")  # EfficientNet's own first layers do it
    # The published EfficientNet files hold the deviation where its Normalization layer wants the variance, so
    # keras.applications divides by sqrt(std) once more, but only for the literal "imagenet" (keras, efficientnet.py).
    # From outside, in units of 0..255, that is mean + (x - mean) / sqrt(std).
    scale = [std**-0.5 for std in _IMAGENET_STD]
    offset = [255 * mean * (1 - factor) for mean, factor in zip(_IMAGENET_MEAN, scale, strict=True)]
    return keras.layers.Rescaling(scale, offset=offset, name="scale")
