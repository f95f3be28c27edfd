"""Examples with suspicious labels in; one page on which a person ticks what is wrong and takes corrections home."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import markupsafe

from pipeline import images, page
from pipeline.records import Record
from trainer.label_errors.scores import Suggestions

_SIDE_PX = 240  # of a picture: three in a row on a desktop at its own size, one and a half on a phone; some 10 KB each
# How `python -m preprocess --corrections` reads a removal.
REMOVE = "remove"
# What the page's Content-Security-Policy names by its hash, so that nothing else on it can run.
SCRIPT = """
"use strict";
const known = new Set([...document.querySelectorAll("#classes option")].map((option) => option.value));
const cards = [...document.querySelectorAll("li[data-id]")];
const area = document.getElementById("csv");
const link = document.getElementById("download");
const quoted = (text) => /[",\\r\\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
function update() {
  const lines = ["id,label"];
  let unknown = 0;
  for (const card of cards) {
    const wrong = card.querySelector("input[type=checkbox]").checked;
    const field = card.querySelector("input[type=text]");
    const label = field.value.trim();
    const bad = wrong && !known.has(label);
    card.classList.toggle("wrong", wrong);
    field.setAttribute("aria-invalid", String(bad));
    if (bad) unknown += 1;
    else if (wrong && label !== card.dataset.label) lines.push(quoted(card.dataset.id) + "," + quoted(label));
  }
  const text = lines.join("\\n") + "\\n";
  area.value = text;
  link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
  document.getElementById("count").textContent = String(lines.length - 1);
  document.getElementById("unknown").textContent =
    unknown ? unknown + " ticked with a label that is no class and not remove: left out" : "";
}
document.addEventListener("input", (event) => {
  if (event.target.type === "text") {
    event.target.closest("li").querySelector("input[type=checkbox]").checked = true;
  }
  update();
});
update();
"""


class Tile(NamedTuple):
    rank: int
    id: str
    file: str
    label: str
    suggested: str
    probability: float
    source: str  # data: URI, "" where no picture could be made


def tiles(
    records: Sequence[Record], places: Sequence[int], suggestions: Suggestions, classes: Sequence[str]
) -> list[Tile]:
    """Of examples in the order of their rank; `places` says where they stand in `suggestions`."""
    return [
        Tile(
            rank,
            record.id,
            record.file,
            classes[record.label],
            classes[suggestions.classes[place]],
            float(suggestions.probabilities[place]),
            _source(record.image),
        )
        for rank, (record, place) in enumerate(zip(records, places, strict=True), 1)
    ]


def render(
    shown: Sequence[Tile], *, classes: Sequence[str], title: str, words: str, examples: int, disagreements: int
) -> str:
    """The page as HTML text.

    Args:
      words: by what the examples were ranked.
      examples: of the split.
      disagreements: examples of which the model says something else.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        page.environment("trainer")
        .get_template("label_errors.html")
        .render(
            tiles=shown,
            classes=classes,
            remove=REMOVE,
            title=title,
            words=words,
            examples=examples,
            disagreements=disagreements,
            script=markupsafe.Markup(SCRIPT),
            script_sha256=digest,
        )
    )


def _source(image: bytes) -> str:
    thumbnail = images.thumbnail(image, _SIDE_PX)
    return f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}" if thumbnail else ""
