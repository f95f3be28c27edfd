"""What the loop does in; a progress bar, and what the chief writes while training (see `trainer.history`) out."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from pipeline import page, storage
from trainer.history import History
from trainer.mlflow_log import MlflowLog
from trainer.preemption import Preempted
from trainer.profiling import Profile
from trainer.speed import Speed

_LOG_FILE_PERIOD_S = 30.0  # a bar that redraws itself would fill a log file
_LOSS, _LEARNING_RATE = "train/loss", "train/learning_rate"


class Sink(Protocol):
    """Where scalars go, by their TensorBoard tags."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def go_back(self, step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class Progress:
    """Follows the loop from `first_step` to `last_step`; use as a context manager, so that logs are closed.

    Only the chief shows and writes anything. Once training runs, no log that can't be written ends it: each warns once.
    """

    def __init__(
        self,
        workdir: str,
        *,
        first_step: int,
        last_step: int,
        global_batch: int,
        examples: int,
        steps_per_call: int,
        classes: Sequence[str],
        show: bool,
        every_steps: int,
        tensorboard: bool,
        sample_images: int,
        profile_steps: Sequence[int],
        mlflow: str | None,
        peak_flops_per_s: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the logs, and goes on with those of an earlier start.

        Args:
          examples: of the training split, for epochs.
          show: whether this process is the chief.
          every_steps, tensorboard, sample_images, profile_steps, mlflow: see `configs.schema.Logs`.
          peak_flops_per_s: of all replicas together, `speed.peak_flops_per_s` times their number.
          settings: what the run is, nested, for TensorBoard's and MLflow's pages.

        Raises:
          InputError: where history or MLflow of an earlier start don't fit, or MLflow can't be had.
        """
        self._global_batch = global_batch
        self._steps_per_epoch = examples / global_batch
        self._classes = classes
        self._every_steps = every_steps
        self._sample_images = sample_images
        self._show = show
        self._step = first_step
        self._losses: list[tf.Tensor] = []
        self._speed = Speed(global_batch=global_batch, peak_flops_per_s=peak_flops_per_s)
        self._warned: set[str] = set()
        self._bar = tqdm.tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            disable=not show,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else _LOG_FILE_PERIOD_S,
            smoothing=0,  # the time left by the rate since the start, evaluations and checkpoints included
        )
        self._sinks: list[Sink] = []
        self._board: Any = None
        self._profile: Profile | None = None
        if not show:
            return
        flat = dict(page.flatten(settings or {}))
        self._sinks.append(History(workdir, first_step=first_step, steps_per_epoch=self._steps_per_epoch))
        if mlflow:
            self._sinks.append(MlflowLog(workdir, mlflow, settings=flat))
        if tensorboard:
            with self._survives("TensorBoard"):
                self._open_tensorboard(workdir, first_step, flat)
        if tensorboard and profile_steps:
            first, last = profile_steps
            folder = storage.join(workdir, "tensorboard")
            self._profile = Profile(folder, first=first, last=last, steps_per_call=steps_per_call)

    def _open_tensorboard(self, workdir: str, first_step: int, settings: Mapping[str, Any]) -> None:
        from trainer.tensorboard import (
            FOLDER,
            TensorBoard,
        )  # half a second of imports that logs.tensorboard=False saves

        self._board = TensorBoard(storage.join(workdir, FOLDER), first_step=first_step)
        self._sinks.append(self._board)
        if settings:
            self._board.table(first_step, "settings", settings)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._bar.close()
        if self._profile is not None:
            with self._survives("the profile"):
                self._profile.close()
        failed = kind is not None and kind is not Preempted
        self._each(lambda sink: sink.close(failed=failed))

    def enter_phase(self, flops_per_example: float | None = None) -> None:
        """Other layers train from here on.

        Args:
          flops_per_example: `speed.training_flops` of what trains now; only read where the device's peak is known.
        """
        self._speed.enter_phase(flops_per_example)

    def waiting_for_input(self) -> contextlib.AbstractContextManager[None]:
        """Around asking for a call's batches; see `speed.Speed.waiting`."""
        if self._profile is not None:
            with self._survives("the profile"):
                self._profile.before_call(self._step)
        return self._speed.waiting()

    def stepped(self, step: int, losses: tf.Tensor, learning_rate: float) -> list[tuple[int, float]]:
        """Takes the call that led to global step `step`; waits for the device only where a log is due.

        Args:
          losses: float32 [steps of this call], one after the other.
          learning_rate: of the last of them.

        Returns:
          What `log` does, where a log was due; else nothing.
        """
        due = step // self._every_steps > self._step // self._every_steps
        self._losses.append(losses)
        self._speed.stepped(step - self._step)
        self._bar.update(step - self._step)
        self._step = step
        if self._profile is not None:
            with self._survives("the profile"):
                self._profile.after_call(step, losses)
        return self._log(step, learning_rate) if due else []

    def log(self, step: int, learning_rate: float) -> list[tuple[int, float]]:
        """Writes the means since the last log, and brings all logs to where they last: to be called before each save.

        Returns:
          (global step, loss) of each step since the last log, finite or not.
        """
        losses = self._log(step, learning_rate)
        self._each(lambda sink: sink.flush())
        return losses

    def _log(self, step: int, learning_rate: float) -> list[tuple[int, float]]:
        if not self._losses:
            return []
        losses = tf.concat(self._losses, 0).numpy()  # waits for the device, so the clock is read after it
        self._losses.clear()
        rates = self._speed.take()
        mean = float(np.mean(losses, dtype=np.float64))
        self._each(lambda sink: sink.scalars(step, {_LOSS: mean, _LEARNING_RATE: learning_rate, **rates}))
        if rates:
            self._bar.set_postfix_str(_summary(mean, rates), refresh=False)
        return list(zip(range(step - len(losses) + 1, step + 1), losses.tolist(), strict=True))

    def evaluated(self, step: int, metrics: Mapping[str, Any], confusion: npt.NDArray[np.int64] | None = None) -> None:
        """Takes an evaluation after global step `step`, whose losses have been logged.

        Args:
          metrics: `examples`, `loss`, `accuracy` and any other of `configs.schema.METRICS`; what is no number is left.
          confusion: int64 [classes, classes] with truth in rows.
        """
        scalars = {
            f"validation/{name}": float(value)
            for name, value in metrics.items()
            if name != "examples" and isinstance(value, int | float)
        }
        self._each(lambda sink: sink.scalars(step, scalars))
        if self._board is not None and confusion is not None:
            with self._survives("TensorBoard"):
                from trainer import pictures

                title = f"step {step:,}: per cent of each true class, {metrics['examples']:,} validation examples"
                picture = pictures.confusion(confusion, self._classes, title=title)
                self._board.picture(step, "validation/confusion", picture)
        self._each(lambda sink: sink.flush())
        if self._show:
            loss = "not finite" if metrics["loss"] is None else f"{metrics['loss']:.3f}"
            self._bar.write(
                f"epoch {step / self._steps_per_epoch:.1f}, step {step}: validation accuracy "
                f"{metrics['accuracy']:.2%}, loss {loss} on {metrics['examples']:,} examples",
                file=sys.stderr,
            )

    def samples(self, step: int, images: tf.Tensor, labels: tf.Tensor) -> None:
        """Shows the first of a batch as the model gets it after global step `step`.

        Args:
          images: uint8 [n, size, size, 3], after all augmentation, also that of the step.
          labels: int64 [n] or float32 [n, classes].
        """
        if self._board is None or not self._sample_images:
            return
        with self._survives("TensorBoard"):
            from trainer import pictures

            pixels, targets = (np.asarray(value[: self._sample_images]) for value in (images, labels))
            self._board.picture(step, "train/samples", pictures.samples(pixels, targets, self._classes))

    def go_back(self, step: int) -> None:
        """Forgets what came after global step `step`, which is taken again: training was rolled back."""
        self._losses.clear()
        self._speed.restart()
        self._step = step
        self._bar.n = step
        self._each(lambda sink: sink.go_back(step))

    def _each(self, do: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            with self._survives(type(sink).__name__):
                do(sink)

    @contextlib.contextmanager
    def _survives(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  # a full disk, a server that is gone: each its own type
            if name not in self._warned:
                self._warned.add(name)
                reason = str(error).strip().splitlines()
                logging.warning("%s can't be written (%s); training goes on", name, reason[0] if reason else error)


def _summary(loss: float, rates: Mapping[str, float]) -> str:
    busy = (
        f"MFU {rates['speed/mfu']:.1%}"
        if "speed/mfu" in rates
        else f"{rates['speed/share_of_ceiling']:.0%} of the step's ceiling"
    )
    shown = f"{loss:.3f}" if math.isfinite(loss) else "not finite"
    rate = f"{rates['speed/examples_per_s']:,.0f} examples/s"
    return f"loss {shown}, {rate}, input wait {rates['speed/input_wait_share']:.0%}, {busy}"
