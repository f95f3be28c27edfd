"""What happened to requests in; Prometheus' text format out."""

from __future__ import annotations

from collections.abc import Iterable

import prometheus_client

from trainer.serving import drift

# Two cores predict in 20 to 60 ms; the limit is 10 s.
_LATENCY_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Measures:
    """A registry of its own, so that a process may hold several servers."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)
        name = "shardline_serving_{}".format
        self._requests = prometheus_client.Counter(
            name("requests"), "Answers, by route and status.", ("route", "status"), registry=self._registry
        )
        self._refused = prometheus_client.Counter(
            name("refusals"), "Requests without a prediction, by reason.", ("reason",), registry=self._registry
        )
        self._latency = prometheus_client.Histogram(
            name("latency_seconds"), "From the headers to the answer.", ("route",), registry=self._registry,
            buckets=_LATENCY_S,
        )  # fmt: skip
        self._stage = prometheus_client.Histogram(
            name("stage_seconds"), "Of one request: prepare, predict.", ("stage",), registry=self._registry,
            buckets=_LATENCY_S,
        )  # fmt: skip
        self._batch = prometheus_client.Histogram(
            name("batch_images"), "Images that the model ran at once.", registry=self._registry, buckets=_SIZES
        )
        self._waiting = prometheus_client.Gauge(
            name("waiting_images"), "Images by where they are.", ("stage",), registry=self._registry
        )
        self._version = prometheus_client.Gauge(
            name("model_version"), "The export that answers; 0: none yet.", registry=self._registry
        )
        self._swaps = prometheus_client.Counter(
            name("model_loads"), "Exports that were loaded, by outcome.", ("outcome",), registry=self._registry
        )
        self._alarm = prometheus_client.Gauge(
            name("drift_alarm"), "1: the last images are not as the reference.", ("feature",), registry=self._registry
        )
        self._effect = prometheus_client.Gauge(
            name("drift_effect"),
            "How much more often than half a new value is above the reference's; of a class its share's change.",
            ("feature",),
            registry=self._registry,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def took(self, stage: str, seconds: float) -> None:
        self._stage.labels(stage).observe(seconds)

    def ran(self, images: int) -> None:
        self._batch.observe(images)

    def waits(self, stage: str, images: int) -> None:
        self._waiting.labels(stage).set(images)

    def loaded(self, version: int) -> None:
        self._version.set(version)
        self._alarm.clear()  # it has classes and a reference of its own
        self._effect.clear()
        self._swaps.labels("loaded").inc()

    def skipped(self) -> None:
        self._swaps.labels("skipped").inc()

    def looked(self, findings: Iterable[drift.Finding]) -> None:
        for finding in findings:
            self._alarm.labels(finding.feature).set(finding.alarm)
            self._effect.labels(finding.feature).set(finding.effect)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)
