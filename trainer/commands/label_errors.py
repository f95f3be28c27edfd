"""`trainer label_errors`: a run in; labels that are likely to be wrong, as a table and as a page to correct, out."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer.commands import flags as command_flags

_EVIDENCE = (
    "dynamics: how training learned them; features: what logistic regression on the model's features says; model: what "
    "it says itself, of a split that it has not seen; auto: the first of them that there is."
)


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "checkpoint")
    flags.DEFINE_string("split", None, "Of the dataset, if not the one that was trained on.", flag_values=values)
    flags.DEFINE_string("data", None, "Another dataset with the same classes.", flag_values=values)
    flags.DEFINE_string("out", None, "A folder for what is found, if not WORKDIR/label_errors.", flag_values=values)
    flags.DEFINE_integer("limit", 200, "Examples on the page: an hour's look.", flag_values=values)
    flags.DEFINE_enum("evidence", "auto", ("auto", "dynamics", "features", "model"), _EVIDENCE, flag_values=values)
    if command_flags.parse(values, argv):
        return 0
    command_flags.require(values, "workdir")

    startup.import_tensorflow()
    from trainer.label_errors import find

    found = find.find(
        workdir=values.workdir,
        data=values.data,
        split=values.split,
        out=values.out,
        limit=values.limit,
        evidence=values.evidence,
        checkpoint=values.checkpoint,
    )
    folder = values.out or f"{values.workdir.rstrip('/')}/{find.FOLDER}"
    print(
        f"{len(found.suspicion):,} labels ranked by {found.evidence}; the model would say something else of "
        f"{found.disagreements:,}\npage: {folder}/{find.PAGE_FILE}\ntable: {folder}/{find.CSV_FILE}"
    )
    return 0
