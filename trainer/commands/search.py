"""`trainer search`: an experiment and the values of some fields in; trainings with them, ranked, out."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from configs import loading
from pipeline.errors import InputError
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("config", "data", "out", "strategy")
    flags.DEFINE_multi_string(
        "space", [], "FIELD=log(1e-4,1e-1), linear(0,1), int(1,8) or A|B; may repeat.", flag_values=values
    )
    flags.DEFINE_integer("trials", 10, "Trainings, those of an earlier start included.", flag_values=values)
    flags.DEFINE_enum("oracle", "bayesian", ("random", "bayesian"), "What chooses the values.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of its choices.", flag_values=values)
    overrides, rest = command_flags.split_overrides(argv)
    if command_flags.parse(values, rest):
        return 0
    command_flags.require(values, "config", "data", "out", "space")
    config = loading.read(values.config, overrides)
    if config.validation_split == "none":
        raise InputError("validation_split='none' gives a search nothing to compare trials by: name a split")
    from trainer import search, search_space

    for text in values.space:  # an impossible value is refused before the first trial, not in the tenth
        for extreme in search_space.extremes(search_space.parse(text)):
            loading.read(values.config, [*overrides, extreme])
    ranked = search.run(
        config=values.config,
        overrides=overrides,
        data=values.data,
        out=values.out,
        space=values.space,
        metric=config.monitor.metric,
        trials=values.trials,
        oracle=values.oracle,
        strategy=values.strategy,
        seed=values.seed,
    )
    return 0 if ranked[0].score is not None else 1
