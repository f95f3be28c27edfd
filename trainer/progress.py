"""Losses and evaluations in; a progress bar, TensorBoard scalars and `history.jsonl` out. Only the chief shows any."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
import tqdm

from pipeline import storage

HISTORY_FILE = "history.jsonl"
_LOG_FILE_PERIOD_S = 30.0  # a bar that redraws itself would fill a log file


class Progress:
    """Follows the loop from `first_step` to `last_step`; use as a context manager, so that logs are closed."""

    def __init__(
        self, workdir: str, *, first_step: int, last_step: int, global_batch: int, log_every_steps: int, show: bool
    ) -> None:
        self._workdir = workdir
        self._global_batch = global_batch
        self._log_every_steps = log_every_steps
        self._show = show
        self._losses: list[tf.Tensor] = []
        self._wait_s = 0.0
        self._since = time.perf_counter()
        self._train_loss = float("nan")
        # What a killed process logged after its last checkpoint will be logged again.
        self._history = [row for row in read_history(workdir) if row["step"] <= first_step]
        self._bar = tqdm.tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            disable=not show,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else _LOG_FILE_PERIOD_S,
        )
        self._writer = (
            tf.summary.create_file_writer(storage.join(workdir, "tensorboard"))
            if show
            else tf.summary.create_noop_writer()
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        self._writer.close()

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Counts what the host waits; of a GPU, which works behind the host's back, that is an upper bound."""
        start = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - start

    def stepped(self, step: int, loss: tf.Tensor, learning_rate: float) -> None:
        """Takes the loss of the step that led to global step `step`; waits for the device only where it is logged.

        Raises:
          FloatingPointError: at the next logged step after a loss that is not finite.
        """
        self._losses.append(loss)
        self._bar.update(1)
        if step % self._log_every_steps == 0:
            self.log(step, learning_rate)

    def log(self, step: int, learning_rate: float) -> None:
        """Writes the means since the last log."""
        steps = len(self._losses)
        if not steps:
            return
        self._train_loss = float(tf.add_n(self._losses)) / steps
        self._losses.clear()
        if not math.isfinite(self._train_loss):
            raise FloatingPointError(
                f"the loss became {self._train_loss} between steps {step - steps} and {step}: lower optimizer.peak_lr "
                "or lengthen the warmup, and start again with another --workdir"
            )
        elapsed_s = time.perf_counter() - self._since
        scalars = {
            "train/loss": self._train_loss,
            "train/learning_rate": learning_rate,
            "speed/examples_per_s": steps * self._global_batch / elapsed_s,
            "speed/input_wait_share": self._wait_s / elapsed_s,
        }
        self._write(step, scalars)
        self._bar.set_postfix_str(
            f"loss {self._train_loss:.3f}, {scalars['speed/examples_per_s']:.0f} examples/s, "
            f"input wait {scalars['speed/input_wait_share']:.0%}",
            refresh=False,
        )
        self._restart_clock()

    def evaluated(self, step: int, epoch: float, learning_rate: float, metrics: Mapping[str, Any]) -> None:
        """Takes `loss` and `accuracy` of an evaluation after global step `step`."""
        row = {
            "step": step,
            "epoch": round(epoch, 3),
            "train_loss": self._train_loss if math.isfinite(self._train_loss) else None,
            "learning_rate": learning_rate,
            "validation_loss": metrics["loss"],
            "validation_accuracy": metrics["accuracy"],
        }
        self._history.append(row)
        self._write(step, {"validation/loss": metrics["loss"], "validation/accuracy": metrics["accuracy"]})
        if self._show:
            text = "".join(json.dumps(row) + "\n" for row in self._history)
            storage.write_text(storage.join(self._workdir, HISTORY_FILE), text)
            self._bar.write(
                f"epoch {epoch:.1f}, step {step}: validation accuracy {metrics['accuracy']:.2%}, "
                f"loss {metrics['loss']:.3f} on {metrics['examples']:,} examples",
                file=sys.stderr,
            )
        self._restart_clock()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        with self._writer.as_default(step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def _restart_clock(self) -> None:
        """Evaluations and checkpoints are not training speed."""
        self._since, self._wait_s = time.perf_counter(), 0.0


def read_history(workdir: str) -> list[dict[str, Any]]:
    path = storage.join(workdir, HISTORY_FILE)
    if not storage.exists(path):
        return []
    return [json.loads(line) for line in storage.read_bytes(path).decode().splitlines()]
