"""CIFAR-10's images with wrong labels planted among them in; what share of those each ranking has at its top, out.

Every row is of the same real run of `python -m trainer train` and what `python -m trainer label_errors` ranks by.
"""

from __future__ import annotations

import csv
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import evaluation
from pipeline import manifest as manifest_lib
from tests.bench import data, measure
from trainer import run
from trainer.label_errors import dynamics, scores
from trainer.label_errors.dynamics import Dynamics

WRONG = 0.05  # of all labels: drawn evenly from all images, and then from the other nine classes
_RECIPE = "tests/bench/label_errors_recipe.py"
# Images of the rarest class for each of the commonest one, what lies between falling by one factor from class to class;
# and the seed of what is wrong.
_SETS = {"equal classes": (1.0, 0), "rarest a tenth": (0.1, 1)}
_RANKINGS: Mapping[str, Callable[[Dynamics], npt.NDArray[np.float64]]] = {
    "mean loss above the class's mean": scores.suspicion,
    "mean loss": scores.mean_losses,
    "mean margin (AUM)": lambda found: -scores.mean_margins(found),
    "mean loss in deviations of the class": lambda found: _standardized(found),
    "forgetting events, then loss": lambda found: scores.forgetting_events(found) + _below_one(found),
    "forgetting events alone": lambda found: scores.forgetting_events(found).astype(np.float64),
    "loss at the last look": lambda found: found.losses[-1].astype(np.float64),
}


class Found(NamedTuple):
    """Of a training split."""

    shares: Mapping[str, float]  # of the planted errors, by ranking
    wrong: int
    examples: int
    minutes: str


def label_errors(archives: pathlib.Path) -> str:
    """The share of the planted errors among the first 5 % of each ranking.

    Raises:
      FileNotFoundError: without cifar10-10k-train, or the weights in the folder `weights` beside `archives`.
    """
    found = {name: _of_set(archives, *given) for name, given in _SETS.items()}
    rankings = next(iter(found.values())).shares
    rows = [
        ["", *(f"{name}: {one.wrong} of {one.examples:,}" for name, one in found.items())],
        *([ranking, *(f"{one.shares[ranking]:.1%}" for one in found.values())] for ranking in rankings),
        ["minutes of CPU to train", *(one.minutes for one in found.values())],
    ]
    return f"### Wrong labels in the first {WRONG:.0%} of the ranking\n\n{measure.table(rows)}"


def _of_set(archives: pathlib.Path, rarest: float, seed: int) -> Found:
    name = f"wrong_labels_{round(10 * rarest)}"
    listing = _planted(data.unpacked("cifar10-10k-train", archives), data.FOLDER / f"{name}.csv", rarest, seed)
    dataset = data.FOLDER / "prepared" / name / "1.0.0"
    if not (dataset / "manifest.json").exists():
        arguments = [f"--output={data.FOLDER}/prepared", f"--name={name}", "--splits=train=0.9,validation=0.1"]
        command = [sys.executable, "-m", "preprocess", f"--input={listing}", "--near_duplicates=ignore", *arguments]
        measure.run(command)
    workdir, minutes = _trained(dataset, archives)
    manifest = manifest_lib.load(str(dataset))
    examples = manifest.split("train").examples
    looks = dynamics.read(str(workdir), fingerprint=manifest.fingerprint, examples=examples)
    files = evaluation.identities(str(dataset), manifest, split="train").files
    truth = np.array([manifest.classes.index(file.split("/")[-2]) for file in files])
    wrong = looks.labels != truth
    shares = {ranking: share_at_top(rank(looks), wrong) for ranking, rank in _RANKINGS.items()}
    shares["out of fold, from the trained features"] = share_at_top(_by_features(workdir, files), wrong)
    return Found(shares, int(wrong.sum()), examples, minutes)


def share_at_top(suspicion: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_]) -> float:
    """The share of wrong labels that stand in the first 5 % of the ranking, the most suspicious first."""
    first = np.argsort(-suspicion, kind="stable")[: round(WRONG * len(wrong))]
    return float(wrong[first].sum() / wrong.sum())


def _standardized(found: Dynamics) -> npt.NDArray[np.float64]:
    above, labels = scores.suspicion(found), found.labels
    counts = np.maximum(np.bincount(labels), 1)
    return above / np.sqrt(np.bincount(labels, above**2) / counts)[labels]


def _below_one(found: Dynamics) -> npt.NDArray[np.float64]:
    losses = scores.mean_losses(found)
    return losses / (losses.max() + 1)


def _planted(folder: pathlib.Path, listing: pathlib.Path, rarest: float, seed: int) -> pathlib.Path:
    """A listing of the images, thinned class by class, some with a wrong label; their folders say the right one."""
    classes = sorted(path.name for path in folder.iterdir())
    files = []
    for place, name in enumerate(classes):
        members = sorted((folder / name).iterdir())
        files += members[: round(len(members) * rarest ** (place / (len(classes) - 1)))]
    draws = np.random.default_rng(seed)
    labels = np.array([classes.index(path.parent.name) for path in files])
    wrong = draws.choice(len(files), round(WRONG * len(files)), replace=False)
    labels[wrong] = (labels[wrong] + draws.integers(1, len(classes), len(wrong))) % len(classes)
    with listing.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows([path.resolve(), classes[label]] for path, label in zip(files, labels, strict=True))
    return listing


def _trained(dataset: pathlib.Path, archives: pathlib.Path) -> tuple[pathlib.Path, str]:
    """(working directory, minutes of CPU) of a run; one that the same code made before is taken again."""
    weights = archives.parent / "weights/mobilenet_v2_1.0_no_top.weights.h5"
    if not weights.exists():
        raise FileNotFoundError(f"no {weights}")
    workdir = data.FOLDER / "runs" / f"{dataset.parent.name}-{run.code_version()}"
    minutes = workdir / "minutes"
    if not minutes.exists():
        flags = [
            f"--config={_RECIPE}",
            f"--data={dataset}",
            f"--workdir={workdir}",
            f"--config.model.weights={weights}",
        ]
        cost = measure.run([sys.executable, "-m", "trainer", "train", *flags])
        minutes.write_text(f"{cost.cpu_s / 60:.1f}")
    return workdir, minutes.read_text()


def _by_features(workdir: pathlib.Path, files: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """The score that the command gives each of `files` where the run had recorded no dynamics."""
    out = workdir / "by_features"
    arguments = [f"--workdir={workdir}", f"--out={out}", "--evidence=features", "--limit=1"]
    measure.run([sys.executable, "-m", "trainer", "label_errors", *arguments])
    with (out / "label_errors.csv").open(newline="") as stream:
        given = {row["file"]: float(row["score"]) for row in csv.DictReader(stream)}
    return np.array([given[file] for file in files])
