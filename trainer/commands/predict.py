"""`trainer predict`: a run and images in; their likeliest classes on stdout, or in a file."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from absl import flags

from pipeline import startup, storage
from pipeline.errors import InputError
from trainer import image_sources, prediction_output
from trainer import run as run_lib
from trainer.commands import flags as command_flags
from trainer.prediction_output import Prediction

_TOP = 3
_BATCH = 32  # enough to fill a core's vector units; more only adds memory
_PATHS = """\
PATH: a file, a folder, gs://…, a quoted pattern ('photos/**/*.jpg'), or - for stdin: one image, or names, one a line.
Exit status: 0; 1 where some could not be read, each named with its reason; 2 for what has to be mended first."""


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "checkpoint", "out")
    values["out"].help = "A file, local or gs://, in place of stdout; it appears when it is complete."
    flags.DEFINE_enum(
        "format",
        "table",
        prediction_output.FORMATS,
        "Of the output; jsonl: an object a line.",
        flag_values=values,
    )
    flags.DEFINE_integer("top", _TOP, "Classes to name, the likeliest first.", 1, flag_values=values)
    flags.DEFINE_integer("batch", _BATCH, "Images at once; results don't depend on it.", 1, flag_values=values)
    paths: list[str] = []
    if command_flags.parse(values, argv, paths):
        print(_PATHS)
        return 0
    command_flags.require(values, "workdir")
    if values.out and storage.is_directory(values.out):
        raise InputError(f"--out={values.out} is a folder: name a file")

    run_lib.load(values.workdir)
    sources = image_sources.expand(paths, sys.stdin.buffer)

    startup.import_tensorflow()
    import tqdm

    from trainer import classifier, predict

    model = classifier.load(values.workdir, checkpoint=values.checkpoint)
    count = _Count()
    with _output(values.out) as stream:
        # On a terminal that also shows the results, a bar would run through them.
        hidden = not sys.stderr.isatty() or (sys.stdout.isatty() and not values.out)
        made = predict.predict(model, sources, top=values.top, batch=values.batch)
        found = count.of(tqdm.tqdm(made, unit="image", disable=hidden))
        for line in prediction_output.lines(found, format=values.format, classes=model.run.classes, top=values.top):
            try:
                stream.write(line)
                stream.flush()
            except BrokenPipeError:  # who reads has seen enough, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 128 + signal.SIGPIPE
    if values.out:
        print(f"{count.images:,} images, {count.errors:,} of them not readable; {values.out}")
    return 1 if count.errors else 0


class _Count:
    """Of what passes."""

    images = errors = 0

    def of(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            self.images += 1
            self.errors += prediction.error is not None
            yield prediction


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    # Names need not be UTF-8; what comes is safe for a terminal where it is a table, and else the bytes on disk.
    if not path:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield sys.stdout
        return
    with storage.whole_file(path) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="\n")
        yield stream
        stream.flush()
        stream.detach()
