"""Metrics, settings, training history and a gallery in; `metrics.json` and one self-contained `index.html` out."""

from trainer.report.matrix import matrix_figure
from trainer.report.writing import FILE, METRICS_FILE, render, write_report

__all__ = ["FILE", "METRICS_FILE", "matrix_figure", "render", "write_report"]
