"""`trainer evaluate`: a run and a split in; its report, measures and temperature out."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "strategy", "cluster", "checkpoint")
    flags.DEFINE_string("split", "test", "Of the dataset.", flag_values=values)
    flags.DEFINE_string("data", None, "Another dataset with the same classes.", flag_values=values)
    flags.DEFINE_multi_string(
        "slice", [], "A column of the dataset's ledger, to show accuracy by its values; may repeat.", flag_values=values
    )
    flags.DEFINE_boolean(
        "robustness", False, "Also with blur, noise, JPEG and light, in 12 more passes.", flag_values=values
    )
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
        columns=values.slice,
        robustness=values.robustness,
        worker=worker,
        start_timeout_s=values.start_timeout_s,
        checkpoint=values.checkpoint,
    )
    low_high = metrics["intervals"]["accuracy"]
    interval = f" (95 % interval {low_high[0]:.2%} to {low_high[1]:.2%})" if low_high else ""
    print(
        f"{metrics['split']}: accuracy {metrics['accuracy']:.2%}{interval}, loss {metrics['loss']:.4f} "
        f"on {metrics['examples']:,} examples; report in {values.workdir}/report/index.html"
    )
    return 0
