"""A config file's path and command-line overrides in; a validated `Config`, or one line saying what is wrong, out."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from configs import schema

PREFIX = "--config."


def read(path: str, overrides: Sequence[str] = ()) -> schema.Config:
    """Runs `get_config()` of the file at `path` and applies overrides like `--config.optimizer.peak_lr=3e-4`.

    Of several for one field the last counts.

    Raises:
      schema.ConfigError: in one line, naming the field and the nearest valid name, for a missing file, a name that the
        schema doesn't have (in the file or in an override), a wrong type or an impossible value.
    """
    if not os.path.isfile(path):
        known = sorted(name for name in glob.glob("configs/[!_]*_*.py"))
        raise schema.ConfigError(f"--config={path}: no such file{_nearest(path, known)}")
    overrides = list({override.partition("=")[0]: override for override in overrides}.values())
    plain = _parse(path, [])
    cleared = [override for override in overrides if _resolve(override, plain) and override.endswith("=None")]
    config = _parse(path, [override for override in overrides if override not in cleared])
    for override in cleared:  # config_flags would read the word as a number or a text
        holder, name = _resolve(override, config)
        setattr(holder, name, None)
    try:
        config.validate()
    except schema.ConfigError as error:
        raise schema.ConfigError(f"{path}: config.{error}") from None
    return config


def _parse(path: str, overrides: Sequence[str]) -> schema.Config:
    values = flags.FlagValues()
    argv = ["shardline", f"--config={path}", *overrides]
    flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except SyntaxError as error:
        raise schema.ConfigError(f"{path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # the file is a program and may raise anything
        # Of an error inside the file config_flags may give the whole traceback as text: its last line says what it was.
        last_line = str(error).strip().splitlines()[-1]
        if overrides:
            raise schema.ConfigError(last_line.removeprefix("flag ")) from error
        raise schema.ConfigError(f"{path}: {_explain(last_line)}") from error
    config = flag.value
    if not isinstance(config, schema.Config):
        raise schema.ConfigError(
            f"{path}: get_config() returned {type(config).__name__}, expected configs.schema.Config"
        )
    return config


def _resolve(override: str, config: schema.Config) -> tuple[Any, str]:
    """(the group, the field's name) that an override means; a typo is answered with the names at that place."""
    name, equals, _ = override.removeprefix(PREFIX).partition("=")
    if not equals:
        raise schema.ConfigError(f"{override}: expected {PREFIX}{name}=VALUE")
    group: Any = config
    holder: Any = config
    walked = field = ""
    for part in name.split("."):
        match = re.fullmatch(r"(\w+)((?:\[\d+\])*)", part)
        names = _names(holder) if _has_fields(holder) else []
        if not match or match[1] not in names:
            names = [walked + known for known in names]
            raise schema.ConfigError(f"{override}: the config has no field {name}{_nearest(walked + part, names)}")
        group, field, holder = holder, match[1], getattr(holder, match[1])
        for index in re.findall(r"\d+", match[2]):
            if not isinstance(holder, tuple) or int(index) >= len(holder):
                raise schema.ConfigError(f"{override}: {walked}{match[1]} has no item [{index}]")
            holder = holder[int(index)]
        walked += f"{part}."
    if _has_fields(holder):
        raise schema.ConfigError(f"{override}: {name} is a group; set one of {', '.join(_names(holder))}")
    return group, field


def _explain(text: str) -> str:
    """Adds the nearest field to Python's own words about an unknown keyword or attribute."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text) or re.search(
        r"'(\w+)' object has no attribute '(\w+)'", text
    )
    holder = getattr(schema, match[1], None) if match else None
    if not match or not _has_fields(holder):
        return text
    return f"{match[1]} has no field {match[2]}{_nearest(match[2], _names(holder))}"


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


def _has_fields(value: object) -> bool:
    return dataclasses.is_dataclass(value)


def _names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]
