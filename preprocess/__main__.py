"""Prepares a dataset: class folders of images in, sharded TFRecords that TFDS reads out.

    python -m preprocess --input=photos --output=data --name=leaves

reads photos/CLASS/**/FILE and writes data/leaves/1.0.0. Damaged files are left out by name, never the end of the job.
--plan shows what would be written and writes nothing. On Dataflow (infra/README.md), or with two worker processes here:

    --beam_args="--runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp"
    --beam_args="--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipeline.errors import InputError

if TYPE_CHECKING:
    from preprocess.settings import Settings
    from preprocess.summary import Summary

# TFDS advises 100 to 200 MB and more per file: long sequential reads from a bucket, few requests. With 256 MiB a lost
# worker still repeats less than a minute of work, and ImageNet gets some 550 shards, enough for 512 readers.
_SHARD_BYTES = 256 * 2**20
# Up to 8 readers get equal streams even from a small dataset.
_MIN_SHARDS = 8
_TEXTS = (
    ("input", "", "Folder or bucket address with one sub-folder per class."),
    ("output", "", "Folder or bucket address; the dataset goes to OUTPUT/NAME/VERSION."),
    ("name", "", "The dataset's name: lower-case letters, digits and _."),
    ("version", "1.0.0", "The dataset's version, three numbers."),
    ("splits", "train=0.8,validation=0.1,test=0.1", "Names and fractions (0.8 or 4/5) that sum to 1."),
)
_NUMBERS = (
    ("seed", 42, "Salt of the hashes that order images; another one gives other splits."),
    ("shard_bytes", _SHARD_BYTES, "Bytes of images per shard, about."),
    ("min_shards", _MIN_SHARDS, "Shards per split, or a multiple of it; fewer only where there are fewer examples."),
)


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0, 2 for input that cannot be used (one line on stderr), 130 when interrupted."""
    values = _flags()
    try:
        rest = values(argv)[1:]
        if values.help:
            print(_help(values))
            return 0
        if rest:
            raise InputError(f"unexpected argument {rest[0]!r}: flags are written --name=value (see --help)")
        _prepare(values)
    except (InputError, flags.Error) as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command clears what is unfinished and starts again", file=sys.stderr)
        return 130
    return 0


def _flags() -> flags.FlagValues:
    """This command's own flags, apart from absl's global ones, so that no import can add to them."""
    values = flags.FlagValues()
    for name, text, description in _TEXTS:
        flags.DEFINE_string(name, text, description, flag_values=values)
    for name, number, description in _NUMBERS:
        flags.DEFINE_integer(name, number, description, flag_values=values)
    flags.DEFINE_string("beam_args", "", "Beam's own arguments; without them it runs here.", flag_values=values)
    flags.DEFINE_boolean("plan", False, "Print classes, counts, shards and bytes; write nothing.", flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "Replace a finished dataset, once the new one is.", flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def _help(values: flags.FlagValues) -> str:
    shown = [*(name for name, _, _ in _TEXTS), "plan", "overwrite", *(name for name, _, _ in _NUMBERS), "beam_args"]
    lines = (f"  --{name}={values[name].default_as_str or ''}\n      {values[name].help}" for name in shown)
    return "\n".join([__doc__ or "", "flags:", *lines])


def _prepare(values: flags.FlagValues) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("preprocess").setLevel(logging.INFO)
    logging.disable(logging.WARNING)  # importing Beam warns about Google libraries that only Dataflow needs
    from preprocess import graph, runner

    logging.disable(logging.NOTSET)
    from pipeline import manifest, storage
    from preprocess import publish, settings, sources, summary

    checked = settings.parse(**{name: values[name].value for name, _, _ in (*_TEXTS, *_NUMBERS)})
    classes = sources.find_classes(checked.input)
    pipeline = runner.new_pipeline(values.beam_args)
    if classes.left_out:
        named = ", ".join(classes.left_out[:5]) + (", …" if len(classes.left_out) > 5 else "")
        print(f"left out beside the class folders ({len(classes.left_out):,}): {named}", file=sys.stderr)

    if values.plan:
        with _plan_file(checked) as file:
            graph.build(pipeline, checked, classes.names, file)
            result = runner.run(pipeline)
            _print(summary.Summary(**storage.read_json(file)), checked, graph.hidden_files(result))
        print(f"nothing was written (--plan); the dataset would go to {checked.directory}")
        return

    for folder in publish.prepare_places(checked, overwrite=values.overwrite):
        print(f"cleared the unfinished {folder}", file=sys.stderr)
    graph.build(pipeline, checked, classes.names, plan_file=None)
    try:
        result = runner.run(pipeline)
    except InputError:
        storage.remove_tree(checked.staging)
        raise
    finished = manifest.load(checked.directory)
    _print(summary.of_manifest(finished), checked, graph.hidden_files(result))
    print(f"dataset: {checked.directory}\nfingerprint: {finished.fingerprint}")


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


def _print(result: Summary, settings: Settings, hidden: int) -> None:
    from preprocess import summary

    if hidden:
        print(f"left out inside the class folders: {hidden:,} hidden files", file=sys.stderr)
    for name, counts in result.ledger["by_class"].items():
        if not counts["seen"]:
            print(f"warning: class folder {name!r} holds no file and was left out", file=sys.stderr)
    print(summary.render(result, tuple(settings.splits)))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
