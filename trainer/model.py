"""An experiment's model settings in, a Keras model from uint8 images to float32 logits out; and which of it trains."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence

import keras

from pipeline import storage
from pipeline.errors import InputError
from trainer import backbones, checkpoints, heads
from trainer import dropout as dropout_lib
from trainer import run as run_lib


def build(
    *,
    backbone: str,
    num_classes: int,
    image_size: int,
    width: float | None,
    weights: str,
    head: str,
    dropout: float | None,
    drop_path: float | None,
    batch_norm_momentum: float | None,
    sync_batch_norm: bool,
    classes: Sequence[str] = (),
    load_weights: bool = True,
) -> keras.Model:
    """Builds scaling -> backbone -> average pool -> head.

    Args:
      backbone: one of `backbones.NAMES`.
      weights: `none`, `imagenet`, the path of a .h5 file without its top, or the working directory of an earlier run
        with the same backbone and width; its image size and its classes may be others.
      head: one of `heads.NAMES`.
      width, dropout, drop_path, batch_norm_momentum, sync_batch_norm: see `configs.schema.Model`.
      classes: their names. Where an earlier run has the same ones and the same head, its head is taken over too.
      load_weights: False leaves `weights` unread, for a model whose checkpoint will overwrite them.

    Returns:
      A model of uint8 [batch, image_size, image_size, 3] -> float32 [batch, num_classes], with the layers `backbone`,
      `pool` (float [batch, features]) and, last, `head`; the first and the last are models. All of it is trainable.

    Raises:
      InputError: for settings that don't apply to the backbone, or weights that are missing or don't fit.
    """
    features = backbones.build(backbone, image_size=image_size, width=width)
    backbones.set_drop_path(features, drop_path)
    images = keras.Input([image_size, image_size, 3], dtype="uint8", name="images")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features(backbones.scale(backbone, images)))
    classifier = heads.build(head, features=pooled.shape[-1], num_classes=num_classes, dropout=dropout)
    net = keras.Model(images, classifier(pooled))
    _set_batch_norm(net, batch_norm_momentum, sync_batch_norm)
    dropout_lib.place(net)

    # Where the weights come from: the first of these that there is.
    # 1. Resume: the newest checkpoint in the run's own working directory. The caller restores it, and asks for no more.
    # 2. An earlier run: its best checkpoint's backbone, and its head where classes and head are the same.
    # 3. Pretrained: ImageNet's published weights, or a file of them, for the backbone.
    # 4. Scratch: the random weights that were just drawn.
    if load_weights and weights != "none":
        if storage.exists(storage.join(weights, run_lib.FILE)):
            _load_earlier_run(net, weights, backbone=backbone, width=width, head=head, classes=classes)
        elif weights != "imagenet" and storage.is_directory(weights):
            raise InputError(f"model.weights={weights!r}: a folder without {run_lib.FILE} is no run's --workdir")
        else:
            backbones.load_published(features, backbone, image_size=image_size, width=width, weights=weights)
    return net


def set_trainable(net: keras.Model, *, trainable: str, freeze_batch_norm: bool) -> None:
    """Chooses what the next phase trains; the head always does.

    What is frozen acts as at evaluation: batch norm normalises with its moving statistics and leaves them alone, and
    stochastic depth is off.

    Args:
      trainable: `all`; `head`; `last:N`, from the backbone's Nth last layer with weights to its end, where a batch norm
        goes with the layer in front of it and does not count; `from:LAYER`, from a layer or block to the end. The order
        is that of `net.get_layer("backbone").layers`.
      freeze_batch_norm: also freezes the backbone's other batch norm layers. The head's hold nothing pretrained.

    Raises:
      InputError: for an unknown layer, more layers than there are, or what would change nothing.
    """
    features = net.get_layer("backbone")
    first = _first_trainable(features, trainable, freeze_batch_norm)
    for index, layer in enumerate(features.layers):
        layer.trainable = index >= first and not (freeze_batch_norm and _is_batch_norm(layer))
        backbones.switch_drop_path(layer, on=index >= first)


def check_trainable(net: keras.Model, *, trainable: str, freeze_batch_norm: bool) -> None:
    """Raises InputError where `set_trainable` would, and changes nothing."""
    _first_trainable(net.get_layer("backbone"), trainable, freeze_batch_norm)


def blocks(net: keras.Model) -> list[list[keras.Variable]]:
    """The trainable variables by depth: the backbone's stem, each of its blocks, what follows them, the head.

    A block that is frozen now is an empty list, so that depth does not depend on the phase.
    """
    features = net.get_layer("backbone")
    groups: dict[str, list[keras.Variable]] = {}
    for layer, name in zip(features.layers, backbones.block_names(features), strict=True):
        if layer.weights:
            groups.setdefault(name, []).extend(layer.trainable_variables)
    in_backbone = {id(variable) for variable in features.variables}
    return [*groups.values(), [variable for variable in net.trainable_variables if id(variable) not in in_backbone]]


def batch_norms(net: keras.Model) -> list[keras.layers.BatchNormalization]:
    """All batch norm layers, the backbone's and the head's."""
    return [layer for layer in backbones.leaves(net) if _is_batch_norm(layer)]


def _set_batch_norm(net: keras.Model, momentum: float | None, synchronized: bool) -> None:
    norms = batch_norms(net)
    if not norms and (momentum is not None or synchronized):
        raise InputError(
            f"model.batch_norm_momentum={momentum}, model.sync_batch_norm={synchronized}: this backbone and head have "
            "no batch norm; leave them None and False"
        )
    for layer in norms:
        layer.synchronized = synchronized
        if momentum is not None:
            layer.momentum = momentum


def _load_earlier_run(
    net: keras.Model, workdir: str, *, backbone: str, width: float | None, head: str, classes: Sequence[str]
) -> None:
    run = run_lib.load(workdir)
    earlier = run.config["model"]
    if not backbones.same(backbone, width, earlier["backbone"], earlier["width"]):
        raise InputError(
            f"model.weights={workdir!r} is a run of {earlier['backbone']} with width={earlier['width']}, this one is "
            f"{backbone} with width={width}: make backbone and width the same, or choose other weights"
        )
    donor = build(num_classes=len(run.classes), image_size=net.input_shape[1], load_weights=False, **earlier)
    step, _ = checkpoints.load_weights(workdir, donor)
    taken = ["backbone"]
    if tuple(classes) == run.classes and head == earlier["head"]:
        taken.append("head")
    for name in taken:
        net.get_layer(name).set_weights(donor.get_layer(name).get_weights())
    backbones.refresh(net)
    logging.info("model: %s of %s, step %d", " and ".join(taken), workdir, step)


def _first_trainable(features: keras.Model, trainable: str, freeze_batch_norm: bool) -> int:
    """The index in the backbone's layers from which on they train; their number where none does."""
    layers = features.layers
    kind, _, value = trainable.partition(":")
    if trainable == "all":
        first = 0
    elif trainable == "head":
        first = len(layers)
    elif kind == "last" and value.isdecimal() and int(value) > 0:
        counted = [index for index, layer in enumerate(layers) if _has_weights_to_train(layer)]
        if int(value) > len(counted):
            raise InputError(f"trainable={trainable!r}: the backbone has {len(counted)} layers with weights; use all")
        first = counted[-int(value)]
    elif kind == "from" and value:
        first = _position(features, value)
    else:
        raise InputError(f"trainable={trainable!r}: expected all, head, last:N or from:LAYER")
    behind = layers[first:]
    frees_norms = not freeze_batch_norm and any(map(_is_batch_norm, behind))
    if behind and not frees_norms and not any(map(_has_weights_to_train, behind)):
        raise InputError(f"trainable={trainable!r}: the backbone has no weights to train from there on; use head")
    if freeze_batch_norm and not any(map(_is_batch_norm, behind)):
        raise InputError(
            f"freeze_batch_norm=True: trainable={trainable!r} trains no batch norm of the backbone; leave it False"
        )
    return first


def _position(features: keras.Model, name: str) -> int:
    """Where the layer or block `name` begins."""
    names, in_blocks = [layer.name for layer in features.layers], backbones.block_names(features)
    for known in (names, in_blocks):
        if name in known:
            return known.index(name)
    near = difflib.get_close_matches(name, [*names, *dict.fromkeys(in_blocks)])
    hint = f"did you mean {' or '.join(near)}?" if near else f"its blocks are {', '.join(dict.fromkeys(in_blocks))}"
    raise InputError(f"trainable='from:{name}': the backbone has no such layer or block; {hint}")


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _has_weights_to_train(layer: keras.layers.Layer) -> bool:
    """Apart from batch norm, and from EfficientNet's input statistics, which nothing trains."""
    return bool(layer.weights) and not isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Normalization))
