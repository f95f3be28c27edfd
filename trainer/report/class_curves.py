"""ROC and precision-recall curves of metrics.json in; a picture of each, with the weakest classes in colour, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from trainer.report import picture
from trainer.report.picture import Picture

_NAMED = len(picture.LINES)  # lines that can be told apart; the other classes are grey


def pictures(metrics: Mapping[str, Any]) -> list[Picture]:
    """ROC and precision-recall; none where the metrics have no curves.

    Args:
      metrics: with `curves`, and `roc_auc` and `average_precision` in `per_class`.
    """
    curves = metrics.get("curves")
    if not curves or not curves["classes"]:
        return []
    with picture.style():
        return [
            _drawn(metrics, "roc", ("fpr", "tpr"), "roc_auc", "AUC"),
            _drawn(metrics, "pr", ("recall", "precision"), "average_precision", "AP"),
        ]


def _drawn(metrics: Mapping[str, Any], kind: str, keys: tuple[str, str], area: str, short: str) -> Picture:
    curves, per_class = metrics["curves"], metrics["per_class"]
    weakest_first = sorted(curves["classes"], key=lambda name: per_class[name][area])
    named, others = weakest_first[:_NAMED], weakest_first[_NAMED:]
    figure, axes = picture.diagram(3.9)
    for name in others:
        axes.plot(*(curves[kind][name][key] for key in keys), color=picture.RULE, linewidth=0.8)
    if others:
        axes.plot([], [], color=picture.RULE, label=f"{len(others)} more classes")
    # The weakest is drawn last, on top.
    for name, (colour, pattern) in reversed(list(zip(named, picture.LINES, strict=False))):
        axes.plot(*(curves[kind][name][key] for key in keys), color=colour, linestyle=pattern, linewidth=1.4)
    for name, (colour, pattern) in zip(named, picture.LINES, strict=False):
        shown = f"{picture.label(name, most=18)}, {short} {per_class[name][area]:.3f}"
        # Matplotlib leaves labels that begin with _ out of a legend; browsers leave out the space.
        axes.plot([], [], color=colour, linestyle=pattern, label=f" {shown}" if shown.startswith("_") else shown)
    _finish(axes, kind)
    said = "; ".join(f"{name} {per_class[name][area]:.3f}" for name in named)
    title = "ROC" if kind == "roc" else "Precision-recall"
    alt = f"{title} curves of {len(curves['classes'])} classes. The smallest areas ({short}): {said}."
    return picture.svg(figure, alt)


def _finish(axes: Axes, kind: str) -> None:
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color=picture.QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_title("ROC", loc="left")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate, or recall")
    else:
        axes.set_title("Precision and recall", loc="left")
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
    picture.shares(axes.xaxis, axes.yaxis)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
