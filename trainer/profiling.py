"""Chosen global steps in; what TensorFlow's profiler saw of them out, for TensorBoard's profile page.

The page itself is a plugin of its own: `pip install tensorboard-plugin-profile`.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.log_folder import LogFolder


class Profile:
    """Records the calls that hold any of the global steps `first` to `last`, counted from 1.

    A call of several steps is recorded whole. A run that is resumed inside the range records what is left of it.
    """

    def __init__(self, folder: str, *, first: int, last: int, steps_per_call: int) -> None:
        self._folder = folder
        self._first = first
        self._last = last
        self._steps_per_call = steps_per_call
        self._local: LogFolder | None = None  # while it records
        self._step: tf.profiler.experimental.Trace | None = None

    def before_call(self, step: int) -> None:
        """To be called after global step `step`, before the next call's input is asked for."""
        if self._local is None and step < self._last and step + self._steps_per_call >= self._first:
            local = LogFolder(self._folder)
            tf.profiler.experimental.start(local.local)
            self._local = local
        if self._local is not None and self._step is None:  # it marks where a step begins and ends, its input included
            self._step = tf.profiler.experimental.Trace("train", step_num=step + 1, _r=1)
            self._step.__enter__()

    def after_call(self, step: int, losses: tf.Tensor) -> None:
        """To be called when the call that led to global step `step` has returned."""
        if self._local is None:
            return
        if step >= self._last:
            losses.numpy()  # until then the device may still be at it
        self._end_step()
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what was recorded; a run may end inside the range."""
        if self._local is not None:
            local, self._local = self._local, None
            self._end_step()
            tf.profiler.experimental.stop()
            local.close()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
