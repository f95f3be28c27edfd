"""`trainer explain`: a run and images in; pictures of where the model sees a class, and a line for each, out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer import image_sources
from trainer import run as run_lib
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "checkpoint")
    methods = ("grad_cam", "occlusion")
    flags.DEFINE_enum("method", "grad_cam", methods, "By gradients, or by covering parts.", flag_values=values)
    flags.DEFINE_string("class", None, "To explain; without it each image's likeliest.", flag_values=values)
    flags.DEFINE_string("layer", None, "Of grad_cam; without it the last convolution.", flag_values=values)
    flags.DEFINE_string("out", None, "For the pictures; without it WORKDIR/explanations.", flag_values=values)
    paths: list[str] = []
    if command_flags.parse(values, argv, paths):
        return 0
    command_flags.require(values, "workdir")
    run_lib.load(values.workdir)
    sources = image_sources.expand(paths, sys.stdin.buffer)

    startup.import_tensorflow()
    from trainer.explanation import explain

    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names need not be UTF-8
    failed = False
    for explained in explain.explain(
        workdir=values.workdir,
        sources=sources,
        method=values.method,
        label=values["class"].value,
        layer=values.layer,
        out=values.out,
        checkpoint=values.checkpoint,
    ):
        print(explain.as_line(explained), flush=True)
        failed = failed or explained.error is not None
    return 1 if failed else 0
