"""Prepares a dataset: class folders of images in, sharded TFRecords that TFDS reads out.

    python -m preprocess --input=photos --output=data --name=leaves

reads photos/CLASS/**/FILE and writes data/leaves/1.0.0. Damaged files are left out by name, never the end of the job.
--plan shows what would be written and writes nothing. On Dataflow (infra/README.md), or with two worker processes here:

    --beam_args="--runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp"
    --beam_args="--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from pipeline.errors import InputError

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.runners.runner import PipelineResult

    from pipeline.manifest import Manifest
    from preprocess.job import Job
    from preprocess.settings import Settings
    from preprocess.summary import Summary

_INPUT = (
    "Folder with a sub-folder per class, or per split and class; a CSV, TSV or JSONL listing; a TFDS dataset. "
    "May be given several times."
)
# Storing: larger photos are scaled down, the rest is kept byte for byte. A 12-megapixel JPEG costs 46 ms of CPU per
# training example, 2.4 ms at 512 (81 KB instead of 1.9 MB) and 1.5 ms at 256; what is scaled away never comes back.
# On trashnet (384 px, 57 KB each, linear probe 79.6 %) encoding again at quality 90 with 4:2:0 cost 0.1 +- 0.3 points,
# at shorter side 256 0.1 +- 0.6 for 17 KB; quality 95 with 4:4:4 took 31 KB for no measurable gain, 75 lost 1.6 +- 0.8.
# Near-duplicates: on banana-leaf 11 groups of look-alikes would have stood in several splits, a model tested on what
# it was trained on; looking costs less than reading the files does.
_TEXTS = (
    ("output", "", "Folder or bucket address; the dataset goes to OUTPUT/NAME/VERSION."),
    ("name", "", "The dataset's name: lower-case letters, digits and _."),
    ("version", "1.0.0", "The dataset's version, three numbers."),
    (
        "splits",
        "",
        "Names and fractions (0.8 or 4/5) that sum to 1. Unset: the splits that the input itself has, where it has "
        "some, else train=0.8,validation=0.1,test=0.1.",
    ),
    (
        "group_by",
        "",
        r"Regular expression with one group, searched in CLASS/.../FILE: equal keys stay in one split. '/(pat\d+)_'",
    ),
    (
        "near_duplicates",
        "join",
        "join: images that look the same stand in one split; drop: keep one of them; ignore: do not look.",
    ),
    ("chroma", "4:2:0", "Colour resolution of JPEGs that are encoded anew: 4:4:4 or 4:2:0."),
    ("grow_from", "", "Folder of an earlier version, .../NAME/VERSION: its images keep their splits."),
    ("replay_quarantine", "", "The same, to try again what it left out and add it as new shards to a new version."),
    (
        "correct",
        "",
        "The same, to change labels or remove images as --corrections says; the others stay where they are.",
    ),
    ("corrections", "", "A CSV with the columns id or file, and label: a class's name, or remove."),
    ("beam_args", "", "Beam's own arguments; without them it runs here."),
)
_NUMBERS = (
    ("seed", 42, "Salt of the hashes that order images; another one gives other splits."),
    ("max_workers", 8, "Readers to feed: every split gets a multiple of so many shards."),
    ("shard_bytes", 0, "Bytes of images per shard, about; 0: 256 MiB, or less where --max_workers asks for more."),
    ("shorter_side", 512, "Scale larger images down until their shorter side has so many pixels; 0: never."),
    ("jpeg_quality", 90, "Quality of JPEGs that are encoded anew, 1 to 100."),
)
_SWITCHES = (
    ("lossless", "Scaled-down images that came lossless become PNG instead of JPEG."),
    ("plan", "Print classes, counts, shards and bytes; write nothing."),
    ("overwrite", "Replace a finished dataset, once the new one is."),
)
# With --correct the rest was decided when the version was prepared.
_OF_CORRECTING = ("output", "name", "version", "correct", "corrections", "beam_args", "plan", "overwrite")


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0, or with one line on stderr 2 for input that cannot be used, 130 when interrupted.

    And 1 where a bucket cannot be reached, which may be well again later.
    """
    values = _flags()
    try:
        rest = values(argv)[1:]
        if values.help:
            print(_help(values))
            return 0
        if rest:
            raise InputError(f"unexpected argument {rest[0]!r}: flags are written --name=value (see --help)")
        if values.correct or values.corrections:
            _correct(values)
        else:
            _prepare(values)
    except (InputError, flags.Error) as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except ConnectionError as error:
        print(f"error: {error}; run the same command again".replace("\n", " "), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command clears what is unfinished and starts again", file=sys.stderr)
        return 130
    return 0


def _flags() -> flags.FlagValues:
    """This command's own flags, apart from absl's global ones, so that no import can add to them."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string("input", [], _INPUT, flag_values=values)
    for name, text, description in _TEXTS:
        flags.DEFINE_string(name, text, description, flag_values=values)
    for name, number, description in _NUMBERS:
        flags.DEFINE_integer(name, number, description, flag_values=values)
    for name, description in _SWITCHES:
        flags.DEFINE_boolean(name, False, description, flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def _help(values: flags.FlagValues) -> str:
    texts = {"input": _INPUT, **{name: text for name, *_, text in (*_TEXTS, *_NUMBERS, *_SWITCHES)}}
    lines = []
    for name, text in texts.items():
        default = "" if name == "input" else values[name].default_as_str or ""
        lines += [f"  --{name}={default}", *textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join([__doc__ or "", "flags:", *lines])


def _import_beam() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("preprocess").setLevel(logging.INFO)
    logging.disable(logging.WARNING)  # importing Beam warns about Google libraries that only Dataflow needs
    from preprocess import runner  # noqa: F401

    logging.disable(logging.NOTSET)


def _settings(values: flags.FlagValues) -> Settings:
    from preprocess import settings

    others = ("beam_args", "corrections")
    names = ["input", "lossless", *(name for name, *_ in (*_TEXTS, *_NUMBERS) if name not in others)]
    return settings.parse(**{name: values[name].value for name in names}, job=uuid.uuid4().hex[:12])


def _prepare(values: flags.FlagValues) -> None:
    _import_beam()
    from preprocess import graph, job, summary

    opened = job.open_job(_settings(values))
    _print_left_out(opened.classes.left_out)
    _carry_out(
        values,
        opened,
        build=graph.build,
        planned=lambda found, result: _print(summary.Summary(**found), opened.splits, result),
        published=lambda made, result: _print(summary.of_manifest(made), opened.splits, result),
    )


def _correct(values: flags.FlagValues) -> None:
    for name in ("correct", "corrections"):
        if not values[name].value:
            raise InputError(f"--{name} is missing: --correct=…/NAME/VERSION and --corrections=FILE belong together")
    for name in values:
        if values[name].present and name not in _OF_CORRECTING:
            raise InputError(f"--{name} does not apply to --correct, which keeps what the version was prepared with")
    _import_beam()
    from pipeline import manifest
    from preprocess import correct

    opened, given = correct.open_job(_settings(values), values.corrections)

    def published(made: Manifest, result: PipelineResult) -> None:
        for line in correct.notes(manifest.load(opened.settings.correct), made):
            print(f"note: {line}", file=sys.stderr)
        print(correct.render(made.statistics["corrections"]))

    _carry_out(
        values,
        opened,
        build=lambda pipeline, job, plan_file: correct.build(pipeline, job, given, plan_file),
        planned=lambda found, result: print(correct.render(found)),
        published=published,
    )


def _carry_out(
    values: flags.FlagValues,
    opened: Job,
    *,
    build: Callable[[Pipeline, Job, str | None], None],
    planned: Callable[[dict[str, Any], PipelineResult], None],
    published: Callable[[Manifest, PipelineResult], None],
) -> None:
    """Runs a job to the end, or with --plan up to its plan.

    Args:
      build: adds the job to a pipeline; with a file's name only up to the plan, which goes there.
      planned, published: print what the plan says, or what there is now.
    """
    from pipeline import manifest, storage
    from preprocess import places, progress, runner

    pipeline = runner.new_pipeline(values.beam_args)
    if values.plan:
        places.check_directory(opened.settings, values.overwrite)
        with _plan_file(opened.settings) as file:
            build(pipeline, opened, file)
            with progress.shown():
                result = runner.run(pipeline)
            planned(storage.read_json(file), result)
        print(f"nothing was written (--plan); the dataset would go to {opened.settings.directory}")
        return

    with places.prepare(opened.settings, overwrite=values.overwrite) as ready:
        for folder in ready.cleared:
            print(f"cleared the unfinished {folder}", file=sys.stderr)
        for line in ready.left:
            print(f"note: {line}", file=sys.stderr)
        build(pipeline, dataclasses.replace(opened, settings=ready.settings), None)
        with progress.shown():
            result = runner.run(pipeline)
    made = manifest.load(opened.settings.directory)
    published(made, result)
    print(f"dataset: {opened.settings.directory}\nreport: {storage.join(opened.settings.directory, 'report.html')}")
    print(f"fingerprint: {made.fingerprint}")


@contextlib.contextmanager
def _plan_file(settings: Settings) -> Iterator[str]:
    """Where a worker puts the plan: in a folder that is gone afterwards, here or wherever remote workers write."""
    from pipeline import storage

    if storage.is_local(settings.output):
        with tempfile.TemporaryDirectory() as folder:
            yield storage.join(folder, "plan.json")
        return
    folder = f"{settings.output}/.plan-{uuid.uuid4().hex}"
    try:
        yield storage.join(folder, "plan.json")
    finally:
        storage.remove_tree(folder)


def _print_left_out(names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        print(f"left out beside the class folders ({len(names):,}): {shown}", file=sys.stderr)


def _print(result: Summary, splits: Sequence[str], done: PipelineResult) -> None:
    from preprocess import progress, runner, summary

    if hidden := runner.counted(done, progress.HIDDEN_FILES):
        print(f"left out inside the class folders: {hidden:,} hidden files", file=sys.stderr)
    if alone := runner.counted(done, progress.NOT_GROUPED):
        print(f"warning: --group_by finds nothing in the names of {alone:,} files; each stands alone", file=sys.stderr)
    for name, counts in result.ledger["by_class"].items():
        if not counts["seen"]:
            print(f"warning: class folder {name!r} holds no file and was left out", file=sys.stderr)
    print(summary.render(result, splits))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
