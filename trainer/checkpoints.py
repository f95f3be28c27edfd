"""Everything that training goes on from in; the newest or the best sound checkpoint of a working directory out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainer import backbones
from trainer import checkpoint_files as files
from trainer import ema as ema_lib
from trainer import run as run_lib


class Checkpoints:
    """Saves and restores one run. Only the chief saves; all workers restore, at the same time and with nobody saving.

    A checkpoint appears when it is complete, with its own mark of being the best so far: there is no second file that
    a kill could leave behind or ahead.
    """

    def __init__(self, workdir: str, *, content: Mapping[str, Any], about: Mapping[str, Any], keep: int) -> None:
        """Builds nothing in `workdir` yet.

        Args:
          content: what `tf.train.Checkpoint` tracks: `model`, `optimizer`, `random` (the states of dropout's seed
            generators, which a Keras model leaves out of what it tracks) and, where weights are averaged, `ema`.
          about: JSON that every checkpoint carries, `classes` among it; see `run.Run.about`.
          keep: how many of the newest stay; beside them the ones that were the best when each of these was saved.
        """
        self._workdir = workdir
        self._content = dict(content)
        self._checkpoint = tf.train.Checkpoint(**self._content)
        self._about = dict(about)
        self._keep = keep
        self._damaged: set[files.Name] = set()
        self._last_good_step: int | None = None

    def restore(self) -> dict[str, Any] | None:
        """Loads the newest sound checkpoint, after deleting what killed saves left behind.

        Returns:
          The state that was saved with it, None where there is no checkpoint.

        Raises:
          InputError: where there are checkpoints and none is sound, or they are of other classes or another model.
        """
        files.tidy(self._workdir)
        return self._restore(best=False)

    def restore_best(self) -> dict[str, Any]:
        """The same with the best sound checkpoint; with the newest where none was ever called the best.

        Raises:
          InputError: as `restore`, and where there is no checkpoint.
        """
        state = self._restore(best=True)
        if state is None:
            raise InputError(f"{self._workdir} has no checkpoint to restore the best weights from: train longer")
        return state

    def _restore(self, *, best: bool) -> dict[str, Any] | None:
        def load(prefix: str, about: Mapping[str, Any]) -> None:
            run_lib.check_class_names(about["classes"], self._about["classes"], "the dataset")
            self._checkpoint.read(prefix).assert_consumed()

        about = _load_sound(self._workdir, load, best=best, damaged=self._damaged)
        if about is None:
            return None
        backbones.refresh(self._content["model"])
        self._last_good_step = int(about["step"])
        return dict(about["state"])

    def save(self, state: Mapping[str, Any], *, best: bool) -> None:
        """Writes a checkpoint, then deletes those that it makes superfluous.

        Args:
          state: JSON that `restore` gives back; `step` is the number of global steps taken.
          best: whether no evaluation so far was better than that of these weights.

        Raises:
          OSError: where it can't be written; those before it are untouched.
        """
        step = int(state["step"])
        revisions = [name.revision for name in files.names(self._workdir) if name.step == step]
        name = files.Name(step, max(revisions, default=0) + 1)
        about = {**self._about, "state": dict(state), "best": best, "content": sorted(self._content)}
        try:
            files.publish(self._workdir, name, self._checkpoint.write, about)
        except tf.errors.OpError as error:  # a full disk, among others
            raise OSError(f"{files.folder(self._workdir, name)} can't be written: {error.message}") from error
        self._last_good_step = step
        try:
            files.rotate(self._workdir, name, keep=self._keep, damaged=self._damaged)
        except OSError as error:  # the next save tries again
            logging.warning("older checkpoints in %s can't be deleted now (%s)", self._workdir, error)

    def last_good_step(self) -> int | None:
        """Of the checkpoint that was saved or restored last by this process."""
        return self._last_good_step


def exist(workdir: str) -> bool:
    return bool(files.names(workdir))


def load_weights(workdir: str, model: keras.Model, *, which: str = "best") -> tuple[int, str]:
    """Loads a sound checkpoint's weights alone, for evaluation and prediction; averaged ones where the run keeps any.

    Args:
      model: built as the run's was, under the strategy that it will compute with.
      which: `best` is the newest one where none was ever called the best; `newest`.

    Returns:
      Its global step and its fingerprint (see `run.Run.fingerprint`).

    Raises:
      InputError: where there is no checkpoint yet, none is sound, or they are of another model.
    """
    if which not in ("best", "newest"):
        raise InputError(f"checkpoint {which!r}: expected best or newest")
    averages = None

    def load(prefix: str, about: Mapping[str, Any]) -> None:
        nonlocal averages
        averages = ema_lib.Ema(model, about["config"]["optimizer"]["ema"]) if "ema" in about["content"] else None
        content = {"model": model} if averages is None else {"model": model, "ema": averages}
        # The optimizer's slots and the random state stay behind.
        tf.train.Checkpoint(**content).read(prefix).expect_partial().assert_existing_objects_matched()

    about = _load_sound(workdir, load, best=which == "best", damaged=set())
    if about is None:
        raise InputError(f"{workdir} has no checkpoint yet: let `python -m trainer train` reach its first one")
    if averages is not None:
        averages.swap()
    backbones.refresh(model)
    return int(about["step"]), str(about["fingerprint"])


def _load_sound(
    workdir: str, load: Callable[[str, Mapping[str, Any]], None], *, best: bool, damaged: set[files.Name]
) -> dict[str, Any] | None:
    """Calls `load` with the prefix and the content of about.json of the first checkpoint that is what was written.

    Args:
      best: those that were called the best come first; else the newest.
      damaged: takes the names of those that were tried in vain.

    Returns:
      Its about.json, None where there is no checkpoint.

    Raises:
      ConnectionError: where a bucket can't be reached.
    """
    tried: dict[files.Name, str] = {}
    # Looked up anew each time: a running training deletes checkpoints, and has made newer ones then.
    while waiting := [name for name in files.names(workdir) if name not in tried]:
        name = next((name for name in reversed(waiting) if best and _may_be_best(workdir, name)), waiting[-1])
        path = files.folder(workdir, name)
        try:
            about = files.read_about(workdir, name)
            with files.verified(workdir, name, about) as prefix:
                _load(load, prefix, about, path)
        except ConnectionError:  # says nothing about the checkpoint
            raise
        except (files.DamageError, OSError) as error:
            tried[name] = str(error)
            if name in files.names(workdir):
                logging.warning("checkpoint %s is damaged (%s); trying another", path, error)
                damaged.add(name)
        else:
            return about
    if damaged:
        reasons = "; ".join(f"{name}: {tried[name]}" for name in sorted(tried))
        raise InputError(f"none of the checkpoints in {workdir} is sound ({reasons}): train again in another --workdir")
    return None


def _may_be_best(workdir: str, name: files.Name) -> bool:
    """One that can't say is tried as well, so that its damage is named."""
    try:
        return bool(files.read_about(workdir, name)["best"])
    except (files.DamageError, OSError):
        return True


def _load(load: Callable[[str, Mapping[str, Any]], None], prefix: str, about: Mapping[str, Any], path: str) -> None:
    """Tells what was deleted meanwhile (FileNotFoundError) from what is sound and can't be loaded (InputError)."""
    try:
        load(prefix, about)
    except InputError:
        raise
    except Exception as error:  # TensorFlow says in many types that names or shapes differ
        if not os.path.exists(f"{prefix}.index"):
            raise FileNotFoundError(f"{path} was deleted while it was read") from error
        raise InputError(
            f"checkpoint {path} is sound and does not fit this model and optimizer ({files.first_line(error)}): it was "
            f"written by code {about['code']}; go on with that version, or train in another --workdir"
        ) from error
