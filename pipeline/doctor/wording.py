"""An examination's findings in; a page of text for a person, or JSON for a program, out."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.doctor import costs as costs_lib
from pipeline.doctor.costs import Cost
from pipeline.doctor.findings import Findings

_WIDTH = 100
_NAMES = 36  # characters of the first column
_SHORT_OF_CORES = 0.85  # of the cores: below, the rate says more about the machine's other work than about the input


def as_json(findings: Findings) -> str:
    """One object: the findings' fields and what follows from them, in CPU seconds per 1,000 images and images/s."""
    derived: dict[str, Any] = {
        "predicted_images_per_s": costs_lib.rate(findings.cpu_s, findings.cores),
        "images_per_s_per_core": findings.rate(1),
    }
    if findings.asked_cores is not None:
        derived["asked_images_per_s"] = findings.rate(findings.asked_cores)
    return json.dumps({**dataclasses.asdict(findings), **derived}, indent=2)


def as_text(findings: Findings) -> str:
    """A table of the stages, what was tried beside the configured settings, and what follows in a few sentences."""
    cached = findings.cache != "none"
    lines = [*_wrapped(_subject(findings)), ""]
    lines += [_row("", "CPU-s per 1,000 images", "images/s", widths=(30, 14))]
    lines += [_row("First epoch, from storage" if cached else "Every epoch", "alone", "so far", "so far")]
    lines += _stages(findings.first_epoch, "" if cached else findings.bottleneck.name)
    if cached:
        lines += [f"Later epochs, from the {findings.cache} cache"]
        lines += _stages(findings.later_epochs, findings.bottleneck.name)
    measured = findings.end_to_end
    lines += [_row("training.batches itself", "", f"{measured.cpu_s:.3f}", f"{measured.images_per_s:,.0f}"), ""]
    if findings.alternatives:
        lines += [_row("With another setting", "", "all", "difference")]
        for tried in findings.alternatives:
            difference = f"{tried.cpu_s / findings.cpu_s - 1:+.0%}"
            setting, *others = tried.setting.split()
            lines += [_row(f"  {setting}", "", f"{tried.cpu_s:.3f}", difference), *(f"    {other}" for other in others)]
        lines += [""]
    for paragraph in (_bottleneck(findings), _hosts(findings), _advice(findings), _shuffle(findings)):
        lines += [*_wrapped(paragraph), ""]
    return "\n".join(line.rstrip() for line in lines[:-1])


def _row(name: str, *cells: str, widths: Sequence[int] = (14, 14, 14)) -> str:
    return f"{name:<{_NAMES}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))


def _stages(costs: Sequence[Cost], bottleneck: str) -> Iterator[str]:
    for cost in costs:
        own = "noise" if cost.noise else f"{cost.own_cpu_s:.3f}"
        mark = "  <- bottleneck" if cost.name == bottleneck else ""
        yield _row(f"  {cost.name}", own, f"{max(0.0, cost.cpu_s):.3f}", f"{cost.images_per_s:,.0f}") + mark


def _subject(findings: Findings) -> str:
    measured_on = "all of them" if findings.sample == findings.examples else f"{findings.sample:,} of them"
    return (
        f"{findings.name} {findings.version}, {findings.split}: {findings.examples:,} images of "
        f"{findings.pixels:,.0f} pixels and {_size(findings.image_bytes)} on average, {findings.shards:,} shards, to "
        f"batches of {findings.global_batch:,} at {findings.image_size}x{findings.image_size}. Measured on "
        f"{measured_on}, with {findings.cores:g} cores. cache={findings.cache_asked}"
        + (
            f" chose {findings.cache}: {findings.cache_reason}."
            if findings.cache_asked == "auto"
            else " was asked for."
        )
    )


def _bottleneck(findings: Findings) -> str:
    measured, cores = findings.end_to_end, findings.cores
    predicted = costs_lib.rate(findings.cpu_s, cores)
    if findings.bottleneck.name == costs_lib.STORAGE:
        assert findings.storage_images_per_s is not None
        cause = (
            f"The storage is the bottleneck: it gave {findings.storage_images_per_s:,.0f} images/s "
            f"({_size(findings.storage_images_per_s * findings.image_bytes)}/s) at the first reading, and the CPUs are "
            "faster."
        )
    else:
        cause = (
            f"The bottleneck is {findings.bottleneck.name!r}: {findings.bottleneck.share:.0%} of an image's CPU time."
        )
    difference = measured.cpu_s / findings.cpu_s - 1
    compared = f"{abs(difference):.0%} {'more' if difference >= 0 else 'less'} CPU than the stages together"
    text = (
        f"{cause} From the stages, {cores:g} free cores make {_about(predicted)} images/s; training.batches itself, "
        f"which also shuffles, made {measured.images_per_s:,.0f} and took {compared}."
    )
    if measured.cores < _SHORT_OF_CORES * cores:
        text += f" It had {measured.cores:.1f} of the {cores:g} cores on average"
        busy = measured.others is not None and measured.others > 0.1 * cores
        text += f", as other processes took {measured.others:.1f}." if busy else "; it waited the rest of the time."
    return text


def _hosts(findings: Findings) -> str:
    asked = findings.asked_cores
    subject = f"A host of {asked} cores" if asked is not None else "Another host"
    rate = f" feeds {_about(findings.rate(asked))} images/s" if asked is not None else ""
    serial = findings.serial_cpu_s
    text = (
        f"{subject}{rate or ' feeds'} {'at ' if rate else ''}{_about(findings.rate(1))} images/s for each core, if its "
        "cores are like these and do nothing else."
    )
    if asked is not None and serial and costs_lib.rate(findings.end_to_end.cpu_s, asked) > 1000 / serial:
        text += f" More than {_about(1000 / serial)} no number of cores gives: one thread puts the batches together."
    return text


def _advice(findings: Findings) -> str:
    advice = findings.advice
    if advice.setting is None:
        return f"Change nothing. {advice.reason}"
    text = f"Change one thing: {advice.setting}."
    if advice.cpu_s is not None and advice.images_per_s is not None:
        cores = findings.advised_cores
        text += (
            f" Expect {advice.cpu_s:.3f} instead of {findings.cpu_s:.3f} CPU-s per 1,000 images from the stages, and "
            f"{_about(advice.images_per_s)} instead of {_about(findings.rate(cores))} images/s from {cores:g} cores."
        )
    return f"{text} {advice.reason}"


def _shuffle(findings: Findings) -> str:
    shuffle = findings.shuffle
    if not shuffle.whole:
        return (
            f"The shuffle mixes {shuffle.examples:,} of {findings.examples:,} images at a time, which takes "
            f"{_size(shuffle.bytes)} of memory; the shards change places every epoch."
        )
    held = (
        "which the cache holds anyway" if findings.cache != "none" else f"which takes {_size(shuffle.bytes)} of memory"
    )
    return f"The shuffle draws from the whole split, {held}."


def _about(images_per_s: float) -> str:
    """Three digits, as no more of it would come out the next time."""
    return f"{float(f'{images_per_s:.3g}'):,.0f}"


def _size(size_bytes: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes:,.0f} bytes"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
