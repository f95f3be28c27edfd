"""A run and the dataset that is evaluated in; the split to fit a temperature on, and what a split was used for, out."""

from __future__ import annotations

import logging

from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from pipeline.manifest import Manifest
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


def used_for(run: Run, manifest: Manifest, split: str) -> str:
    """What part the split had in making the model: `training`, `validation`, or none, which is empty."""
    parts = {run.config["validation_split"]: "validation", run.config["train_split"]: "training"}
    return parts.get(split, "") if manifest.fingerprint == run.dataset_fingerprint else ""
