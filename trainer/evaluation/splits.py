"""A run and the dataset that is evaluated in; the split to fit a temperature on, and what a split was used for, out."""

from __future__ import annotations

import logging
from collections.abc import Collection

from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from trainer.evaluation import ledger
from trainer.run import Run, check_classes


def validation(run: Run, data: str, manifest: Manifest) -> tuple[str, Manifest, str] | None:
    """(dataset, its manifest, split) that the run was validated on; None where it was on none.

    Args:
      data, manifest: the dataset that is evaluated; a copy of the run's own is as good as that.

    Raises:
      InputError: where a shard of it is missing. Where another dataset is evaluated, that is warned of, and None.
    """
    split = run.config["validation_split"]
    if split == "none":
        return None
    other = manifest.fingerprint != run.dataset_fingerprint and data != run.data
    try:
        if other:
            data, manifest = run.data, manifest_lib.load(run.data)
            check_classes(run, manifest.classes, data)
        manifest_lib.verify(data, manifest, [split])
    except (InputError, OSError) as error:
        if not other:
            raise
        logging.warning("no temperature is fitted, for want of the run's own split %s: %s", split, error)
        return None
    return (data, manifest, split) if manifest.split(split).examples else None


def used_for(run: Run, manifest: Manifest, split: str, ids: Collection[str]) -> str:
    """What part a split's images had in making the model: `training`, `validation`, or none, which is empty.

    A corrected or grown version has another fingerprint than the run's own dataset, and the same images. They are
    compared by id then, and one that was trained on is enough. Where the run's own dataset is gone, the split's name
    decides in a version that was made from it, as nothing moves there to another split; of any other dataset it is
    warned that nothing can be said.

    Args:
      manifest, split, ids: of the dataset that is evaluated; the ids of all its examples.
    """
    parts = {"training": run.config["train_split"], "validation": run.config["validation_split"]}
    by_name = next((part for part, name in parts.items() if name == split), "")
    if manifest.fingerprint == run.dataset_fingerprint:
        return by_name
    try:
        for part, name in parts.items():
            if name != "none" and (count := _shared(run, name, ids)):
                if count < len(ids):
                    logging.warning("%d of the %d images of %s were used for %s", count, len(ids), split, part)
                return part
    except (InputError, OSError) as error:
        if manifest.grown_from == run.dataset_fingerprint:
            return by_name
        logging.warning("whether the model has seen images of %s, nobody can tell any more: %s", split, error)
    return ""


def _shared(run: Run, split: str, ids: Collection[str]) -> int:
    """How many of `ids` are in a split of the run's own dataset, by its ledger.

    Raises:
      InputError: where that dataset is gone or another one by now, or its ledger is missing or damaged.
    """
    if manifest_lib.load(run.data).fingerprint != run.dataset_fingerprint:
        raise InputError(f"{run.data} is another dataset than the run's own by now")
    if not ledger.columns(run.data):
        raise InputError(f"{run.data} has no ledger")
    return len(ledger.read(run.data, split, ()).keys() & set(ids))
