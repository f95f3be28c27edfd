"""Banana leaves in, two tables of what is learned from them out: over five splits and seeds, and over rare classes.

Every row is real runs of `python -m trainer train` and `evaluate` with configs/leaves_mobilenetv2.py and a few fields
changed, so that what is measured is what a user gets.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Sequence

from pipeline import manifest as manifest_lib
from tests.bench import data, measure
from trainer import run

# What a set with rare classes may do about them. Smoothing stays as the config has it; no row weighs classes otherwise.
BALANCING = {
    "plain": ("loss.class_weights=none",),
    "class weights": ("loss.class_weights=balanced",),
    "balanced sampling": ("loss.class_weights=none", "input.sampling=uniform"),
    "focal": ("loss.class_weights=none", "loss.kind=focal"),
    "logit-adjusted": ("loss.class_weights=none", "loss.kind=logit_adjusted"),
}
_CONFIG = "configs/leaves_mobilenetv2.py"
_COMMON = "sigatoka"
_KEPT_COMMON, _KEPT_RARE = 300, 20


def leaves(archives: pathlib.Path, seeds: Sequence[int]) -> str:
    """Test accuracy over as many splits, each of them by whole groups, and training seeds.

    Raises:
      FileNotFoundError: without banana-leaf, or the weights in the folder `weights` beside `archives`.
    """
    weights, folder = _weights(archives), data.unpacked("banana-leaf", archives)
    rows = [["seed", "test images", "accuracy", "macro-F1", "minutes"]]
    found = []
    for seed in seeds:
        dataset = _prepared(f"leaves_{seed}", f"--input={folder}", f"--seed={seed}")
        metrics, minutes = _train(dataset, weights, seed, ())
        found.append(metrics)
        rows.append([str(seed), *_shown(metrics), f"{minutes:.1f}"])
    rows.append(["mean ± deviation", "", *(_spread(found, name) for name in ("accuracy", "macro_f1")), ""])
    return f"### Banana leaves, {len(seeds)} splits\n\n{measure.table(rows)}"


def rare_classes(archives: pathlib.Path, seeds: Sequence[int], ways: Sequence[str]) -> str:
    """Macro-F1 of `ways` (of `BALANCING`), trained on 300 of the commonest class and 20 of each other one.

    What is not trained on and not validated with is tested on, so that the rare classes have more than a few images.

    Raises:
      FileNotFoundError: as `leaves`.
    """
    weights, folder = _weights(archives), data.unpacked("banana-leaf", archives)
    thinned = _prepared("leaves_thinned", f"--input={_thinned(folder)}", "--near_duplicates=ignore")
    rows = [["", "macro-F1", "accuracy", *(f"seed {seed}" for seed in seeds)]]
    for way in ways:
        changes = ("monitor.metric=macro_f1", *BALANCING[way])
        found = [_train(thinned, weights, seed, changes)[0] for seed in seeds]
        each = [f"{metrics['macro_f1']:.1%}" for metrics in found]
        rows.append([way, _spread(found, "macro_f1"), _spread(found, "accuracy"), *each])
    manifest = manifest_lib.load(str(thinned))
    trained = "/".join(map(str, sorted(manifest.class_counts("train"), reverse=True)))
    tested = manifest.split("test").examples
    return f"### Rare classes: {trained} to train on, {tested} to test, best by macro-F1\n\n{measure.table(rows)}"


def _weights(archives: pathlib.Path) -> pathlib.Path:
    path = archives.parent / "weights/mobilenet_v2_1.0_no_top.weights.h5"
    if not path.exists():
        raise FileNotFoundError(f"no {path}")
    return path


def _prepared(name: str, *arguments: str) -> pathlib.Path:
    output = data.FOLDER / "prepared"
    if not (output / name / "1.0.0/manifest.json").exists():
        measure.run([sys.executable, "-m", "preprocess", f"--output={output}", f"--name={name}", *arguments])
    return output / name / "1.0.0"


def _thinned(folder: pathlib.Path) -> pathlib.Path:
    """A listing of all images that were written, with the training split thinned and the rest of it tested on.

    Whole groups, in the order of their hash, so that no image is tested on whose like was trained on.
    """
    full = _prepared("leaves_42", f"--input={folder}", "--seed=42")
    ledger = "".join(path.read_text() for path in sorted(full.glob("ledger-*")))
    written = [row for row in map(json.loads, ledger.splitlines()) if row["status"] == "written"]
    written.sort(key=lambda row: (hashlib.sha256(row["group"].encode()).digest(), row["file"]))
    sizes = collections.Counter(row["group"] for row in written)
    kept: dict[str, int] = {}
    splits: dict[str, str] = {}
    for row in written:
        if row["split"] != "train":
            continue
        most = _KEPT_COMMON if row["class"] == _COMMON else _KEPT_RARE
        count = kept.get(row["class"], 0)
        if row["group"] not in splits:
            fits = count + sizes[row["group"]] <= most
            splits[row["group"]] = "train" if fits else "test"
        kept[row["class"]] = count + (splits[row["group"]] == "train")
    listing = data.FOLDER / "leaves-thinned.csv"
    with listing.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for row in written:
            split = splits.get(row["group"], row["split"])
            writer.writerow([folder / row["file"], row["class"], split])
    return listing


def _train(
    dataset: pathlib.Path, weights: pathlib.Path, seed: int, changes: Sequence[str]
) -> tuple[dict[str, float], float]:
    """(metrics.json, minutes) of one run; one that the same code and config made before is read again."""
    content = [str(dataset), seed, *changes, (measure.REPOSITORY / _CONFIG).read_text(), run.code_version()]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    workdir = data.FOLDER / "runs" / key
    minutes = workdir / "minutes"
    if not minutes.exists():
        shutil.rmtree(workdir, ignore_errors=True)  # of a run that was broken off, whose time would be a part of it
        overrides = [f"--config.{change}" for change in (f"seed={seed}", f"model.weights={weights}", *changes)]
        trainer = [sys.executable, "-m", "trainer"]
        cost = measure.run(
            [*trainer, "train", f"--config={_CONFIG}", f"--data={dataset}", f"--workdir={workdir}", *overrides]
        )
        measure.run([*trainer, "evaluate", f"--workdir={workdir}", "--split=test"])
        minutes.write_text(str(cost.wall_s / 60))
    metrics = json.loads((workdir / "report/metrics.json").read_text())
    print(f"  {dataset.parent.name} {seed} {' '.join(changes)}: {_shown(metrics)}", file=sys.stderr, flush=True)
    return metrics, float(minutes.read_text())


def _shown(metrics: dict[str, float]) -> list[str]:
    return [str(metrics["examples"]), f"{metrics['accuracy']:.2%}", f"{metrics['macro_f1']:.2%}"]


def _spread(found: Sequence[dict[str, float]], name: str) -> str:
    values = [metrics[name] for metrics in found]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1%} ± {deviation:.1%}"
