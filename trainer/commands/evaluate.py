"""`trainer evaluate`: a run and a split in; its report and measures out."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "strategy", "cluster", "checkpoint")
    flags.DEFINE_string("split", "test", "Of the dataset.", flag_values=values)
    flags.DEFINE_string("data", None, "Another dataset with the same classes.", flag_values=values)
    if command_flags.parse(values, argv):
        return 0
    command_flags.require(values, "workdir")
    worker = command_flags.worker(values)

    startup.import_tensorflow()
    from trainer import evaluate

    metrics = evaluate.evaluate(
        workdir=values.workdir,
        split=values.split,
        data=values.data,
        strategy=values.strategy,
        worker=worker,
        start_timeout_s=values.start_timeout_s,
        checkpoint=values.checkpoint,
    )
    loss = "not finite" if metrics["loss"] is None else f"{metrics['loss']:.4f}"
    print(
        f"{metrics['split']}: accuracy {metrics['accuracy']:.2%}, loss {loss} "
        f"on {metrics['examples']:,} examples; report in {values.workdir}/report/index.html"
    )
    return 0
