"""Examines the input: what each of its stages costs, which one is the bottleneck, and the one setting to change.

    python -m pipeline --data=data/leaves/1.0.0 --config=configs/leaves_mobilenetv2.py
    python -m pipeline --data=data/leaves/1.0.0 --config=configs/leaves_mobilenetv2.py --show=64 --seconds=0

The first measures on this host, for about half a minute, what training with that config will do, and tries other
settings beside it. The second shows what the model will see. Any field of the config may be given another value, like
--config.input.cache=none.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from configs import loading, schema
from pipeline.errors import InputError

# name, kind, default, description
_FLAGS = (
    ("data", flags.DEFINE_string, None, "The dataset's folder, .../NAME/VERSION."),
    ("config", flags.DEFINE_string, None, "The experiment: a file of configs/."),
    ("split", flags.DEFINE_string, None, "What to read; unset: the split that the config trains on."),
    # Repeats then take a fifth of a second and more, and their medians differ by a few per cent from run to run.
    ("seconds", flags.DEFINE_float, 30.0, "How long to measure, about; 0: not at all, only --show."),
    ("cores", flags.DEFINE_integer, None, "CPU cores of another host: say what it would feed."),
    (
        "accelerator_rate",
        flags.DEFINE_float,
        None,
        "Images per second that the accelerators of one host train on, so that the advice knows what is enough.",
    ),
    (
        "show",
        flags.DEFINE_integer,
        0,
        "Write a page with so many images as the model will see them, with their labels.",
    ),
    ("sheet", flags.DEFINE_string, "sheet.html", "Where --show writes."),
)


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0, 2 for what the user has to mend (one line on stderr), 130 when interrupted."""
    overrides = [argument for argument in argv if argument.startswith(loading.PREFIX)]
    values = _flags()
    try:
        rest = values([argument for argument in argv if argument not in overrides])[1:]
        if values.help:
            print(_help(values))
            return 0
        if rest:
            raise InputError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
        _check(values)
        _examine(values, loading.read(values.config, overrides))
    except (InputError, schema.ConfigError, flags.Error, OSError) as error:
        print(f"pipeline: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _flags() -> flags.FlagValues:
    """This command's own flags, apart from absl's global ones, so that no import can add to them."""
    values = flags.FlagValues()
    for name, define, default, description in _FLAGS:
        define(name, default, description, flag_values=values)
    flags.DEFINE_enum("format", "text", ("text", "json"), "Of what is measured.", flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def _help(values: flags.FlagValues) -> str:
    lines = [__doc__ or "", "flags:"]
    for name in [name for name, *_ in _FLAGS] + ["format"]:
        default = "" if values[name].default is None else values[name].default
        lines += [f"  --{name}={default}", *textwrap.wrap(values[name].help, 110, initial_indent=" " * 6)]
    return "\n".join(lines)


def _check(values: flags.FlagValues) -> None:
    if missing := [f"--{name}" for name in ("data", "config") if not values[name].value]:
        raise InputError(f"{', '.join(missing)} must be given; see --help")
    for name, open_low in (("seconds", False), ("show", False), ("cores", True), ("accelerator_rate", True)):
        value = values[name].value
        if value is not None and not (0 < value < math.inf or (value == 0 and not open_low)):
            raise InputError(f"--{name}={value:g}: expected {'more than 0' if open_low else '0 or more'}")
    if not values.show and values["sheet"].present:
        raise InputError("--sheet says where to, --show=64 how many images: give both")
    if not values.sheet.endswith(".html"):
        raise InputError(f"--sheet={values.sheet}: expected a name that ends in .html, as a page is written")
    if not values.seconds and not values.show:
        raise InputError("--seconds=0 measures nothing: give --show=64 with it to see images")
    if not values.seconds:
        for name in ("cores", "accelerator_rate", "format"):
            if values[name].present:
                raise InputError(f"--{name} is about what is measured, and --seconds=0 measures nothing")


def _examine(values: flags.FlagValues, config: schema.Config) -> None:
    from pipeline import manifest as manifest_lib
    from pipeline import startup

    split = values.split or config.train_split
    manifest = manifest_lib.load(values.data)
    manifest_lib.verify(values.data, manifest, [split])
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    startup.import_tensorflow(gpus=False)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it takes one graph per measurement for a mistake
    from pipeline import sheet
    from pipeline.augmentations.augment import Augment
    from pipeline.doctor import examine, wording
    from pipeline.doctor.subject import Subject

    subject = Subject(
        values.data,
        manifest,
        split,
        config.seed,
        config.global_batch,
        dataclasses.asdict(config.input),
        Augment(**dataclasses.asdict(config.augment)),
    )
    if values.show:
        sheet.write(
            values.sheet,
            subject.seen(),  # no cache changes order or pixels, and filling one would take time
            classes=manifest.classes,
            count=values.show,
            title=f"{manifest.name} {manifest.version}, {split}: the first {values.show:,} images",
            settings={
                "config": values.config,
                "seed": config.seed,
                "global_batch": config.global_batch,
                "input": subject.input,
                "augment": dataclasses.asdict(config.augment),
            },
        )
        print(f"{values.show:,} images as the model will see them: {values.sheet}", file=sys.stderr)
    if values.seconds:
        findings = examine.examine(
            subject, seconds=values.seconds, cores=values.cores, accelerator_rate=values.accelerator_rate
        )
        print(wording.as_json(findings) if values.format == "json" else wording.as_text(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
