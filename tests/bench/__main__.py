"""Runs benchmarks and prints Markdown tables; `make bench` runs all of them, in two hours or more.

    make bench BENCH="speed --images=500 --repeats=1"
    make bench BENCH="scale --sizes=1000,10000"
    make bench BENCH=step
    make bench-peers && make bench BENCH=input
    make bench BENCH="input --contenders=ours,plain --sections=photos --repeats=3"
    make bench BENCH="leaves rare_classes --seeds=3"
    make bench BENCH=label_errors
    make bench BENCH="export --workdir=runs/leaves --split=test --raw=photos"

Trashnet, CIFAR-10, banana leaves and ImageNet's weights are looked for in and beside --archives; what needs them is
left out without. Nothing is asserted, since times belong to a machine; leave it alone meanwhile.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable

from tests.bench import (
    baselines,
    bench_export,
    bench_input,
    bench_label_errors,
    bench_recipes,
    bench_scale,
    bench_speed,
    bench_step,
    bench_storing,
    bench_workers,
    contenders,
    data,
    measure,
)

PARTS = (
    *("speed", "writing", "workers", "scale", "storing", "input", "step", "loop", "workers_training"),
    *("leaves", "rare_classes", "label_errors"),
    "export",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; all of them")
    parser.add_argument("--images", type=int, default=5000, help="photos of 384x512, made of trashnet's (5000)")
    parser.add_argument("--tiny", default="cifar10-10k-train", help="archive of tiny images, empty for none")
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of images for scale")
    parser.add_argument("--modes", default="copy,check,resize", help=f"for speed, of {', '.join(baselines.MODES)}")
    parser.add_argument("--writing_modes", default="copy,hash,resize", help="for writing")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many is shown (3)")
    parser.add_argument("--scale_repeats", type=int, default=1, help="the same for scale (1)")
    parser.add_argument("--every", type=int, default=1, help="storing takes one of so many images (1)")
    parser.add_argument("--contenders", default="", help=f"for input, of {', '.join(contenders.INPUT)}; all of them")
    parser.add_argument("--sections", default=",".join(bench_input.SECTIONS), help="for input; all of them")
    parser.add_argument(
        "--seeds", type=int, default=5, help="for leaves and rare_classes, which takes three at most (5)"
    )
    parser.add_argument("--ways", default=",".join(bench_recipes.BALANCING), help="for rare_classes; all of them")
    parser.add_argument("--workdir", help="for export, after `export --formats=` with all of them")
    parser.add_argument("--data", help="for export, another dataset than the run's with the same classes")
    parser.add_argument("--split", default="validation", help="for export (validation)")
    parser.add_argument("--compared", type=int, default=500, help="images for export (500)")
    parser.add_argument("--raw", type=pathlib.Path, help="for export, the folder that the dataset was prepared from")
    parser.add_argument("--archives", type=pathlib.Path, default=measure.REPOSITORY.parent / "shared/data")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")

    sections, chosen = given.sections.split(","), [name for name in given.contenders.split(",") if name]
    names_known = tuple(dict.fromkeys([*contenders.INPUT, *contenders.RANDAUGMENT]))
    ways = given.ways.split(",")
    for names, known in (
        (ways, tuple(bench_recipes.BALANCING)),
        (sections, bench_input.SECTIONS),
        (chosen, names_known),
    ):
        if unknown := set(names) - set(known):
            parser.error(f"nothing is called {', '.join(sorted(unknown))}; choose from {', '.join(known)}")

    print(f"{measure.facts()}\n", flush=True)
    photos = {"photos": lambda: data.mosaics(given.images, given.archives)}
    both = dict(photos)
    if given.tiny:
        both[given.tiny] = lambda: data.unpacked(given.tiny, given.archives)
    if "speed" in given.parts:
        _each(both, lambda name, folder: bench_speed.speed(name, folder, given.modes.split(","), given.repeats))
    if "writing" in given.parts:
        modes = given.writing_modes.split(",")
        _each(both, lambda name, folder: bench_speed.writing(name, folder, modes, given.repeats))
    if "workers" in given.parts:
        _each(photos, lambda name, folder: bench_speed.workers(name, folder, "resize", given.repeats))
    if "scale" in given.parts:
        sizes = [int(size) for size in given.sizes.split(",")]
        print(bench_scale.scale(sizes, given.scale_repeats) + "\n", flush=True)
    if "storing" in given.parts:
        try:
            print(bench_storing.storing(given.archives, given.every), flush=True)
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)
    for part, tell in (
        ("label_errors", lambda: bench_label_errors.label_errors(given.archives)),
        ("leaves", lambda: bench_recipes.leaves(given.archives, range(given.seeds))),
        ("rare_classes", lambda: bench_recipes.rare_classes(given.archives, range(min(3, given.seeds)), ways)),
    ):
        if part in given.parts:
            try:
                print(tell() + "\n", flush=True)
            except FileNotFoundError as error:
                print(f"left out: {error}", file=sys.stderr)
    if "step" in given.parts:
        print(bench_step.step(bench_step.NETWORKS, given.repeats) + "\n", flush=True)
    if "loop" in given.parts:
        print(bench_step.loop(given.repeats) + "\n", flush=True)
    if "workers_training" in given.parts:
        print(bench_workers.workers_training(given.repeats) + "\n", flush=True)
    if "export" in given.parts and given.workdir:  # it has no run of its own to look at
        for found in bench_export.tables(given.workdir, given.data, given.split, given.compared, given.raw):
            print(found + "\n", flush=True)
    if "input" in given.parts:
        try:
            for found in bench_input.tables(sections, chosen, given.archives, given.repeats):
                print(found + "\n", flush=True)
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)


def _each(folders: dict[str, Callable[[], pathlib.Path]], bench: Callable[[str, pathlib.Path], str]) -> None:
    for name, folder in folders.items():
        try:
            found = folder()
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        print(bench(name, found) + "\n", flush=True)


if __name__ == "__main__":
    main()
