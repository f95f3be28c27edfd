"""Two runs' reports in; how their predictions on the same examples compare out."""

from __future__ import annotations

from pipeline import storage
from pipeline.errors import InputError
from trainer import evaluate, predictions, report
from trainer.evaluation import comparison, intervals
from trainer.evaluation.comparison import Comparison
from trainer.prediction_output import shown
from trainer.predictions import Predictions

_SHOWN = 20  # disagreements; JSON has all of them


def compare(one: str, other: str, *, split: str | None = None) -> Comparison:
    """Compares what `python -m trainer evaluate` kept of two runs.

    Args:
      one, other: a run's --workdir each, or the predictions.npz of its report.
      split: that both reports have to be about.

    Raises:
      InputError: where there are no predictions, or not on the same examples of the same split.
    """
    return comparison.compare(*(_read(path, split) for path in (one, other)))


def _read(path: str, split: str | None) -> Predictions:
    if path.endswith(".npz"):
        if split is not None:
            raise InputError(
                f"--split={split}: {path} doesn't say of which split it is; give a --workdir, or no --split"
            )
        return predictions.read(path)
    folder = storage.join(path, "report")
    found = predictions.read(storage.join(folder, evaluate.PREDICTIONS_FILE))
    reported = storage.read_json(storage.join(folder, report.METRICS_FILE))["split"]
    if split not in (None, reported):
        raise InputError(f"{folder} is about the split {reported!r}: run `evaluate --workdir={path} --split={split}`")
    return found


def as_text(found: Comparison, one: str, other: str) -> str:
    """The comparison for people, with the first disagreements; `one` and `other` are the runs' names.

    Names are escaped for a terminal, see `prediction_output.shown`. McNemar's test knows no groups and, where there
    are some, finds differences between equal models: that is said beside it, and where all is one group it is left out.
    """
    low_high = found.interval
    interval = f", {intervals.LEVEL:.0%} interval {low_high[0]:+.2%} to {low_high[1]:+.2%}" if low_high else ""
    chance = (
        f"McNemar's test p = {found.p_value:.2g}, if images are independent; where some belong together, trust the "
        "interval, which counts groups"
        if low_high
        else "all images belong to one group, so whether that is chance can't be said"
    )
    lines = [
        f"{found.accuracy[0]:.2%}  {shown(one)}",
        f"{found.accuracy[1]:.2%}  {shown(other)}",
        f"difference {found.difference:+.2%}{interval}, on {found.examples:,} examples",
        f"only the first is right on {found.only_one:,}, only the second on {found.only_other:,}: {chance}",
    ]
    if found.disagreements:
        some = f", the first {_SHOWN}" if len(found.disagreements) > _SHOWN else ""
        lines += ["", f"{len(found.disagreements):,} different answers{some}: file, truth, first, second"]
        lines += [
            "  ".join(map(shown, (each.file, each.truth, each.one, each.other)))
            for each in found.disagreements[:_SHOWN]
        ]
    return "\n".join(lines)
