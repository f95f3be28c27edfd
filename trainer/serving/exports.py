"""A working directory in; what each of its complete exports says of itself out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from pipeline import images, storage
from pipeline.errors import InputError
from trainer.export.publish import CARD_FILE, FOLDER, complete

FORMAT = 1

_MODEL_FILES = ("saved_model.pb", "variables/", "assets/")  # what is loaded; .tflite and others beside it are not


@dataclasses.dataclass(frozen=True)
class Card:
    """What `export.json` says, as far as serving needs it."""

    path: str  # the export's folder
    name: str
    version: int
    classes: tuple[str, ...]
    step: int
    fingerprint: str
    storing: images.Storing
    image_size: int
    crop_fraction: float
    files: Mapping[str, Mapping[str, Any]]  # file -> bytes, sha256
    reference: Mapping[str, Any] | None  # of `trainer.serving.drift`


def require(workdir: str) -> None:
    """Raises InputError where there is no complete export."""
    if not complete(workdir):
        raise InputError(
            f"{storage.join(workdir, FOLDER)} has no complete export: run `python -m trainer export` first"
        )


def read_card(workdir: str, version: int) -> Card:
    """Raises InputError where the card is damaged or of another format."""
    path = storage.join(workdir, FOLDER, str(version))
    try:
        content = storage.read_json(storage.join(path, CARD_FILE))
        if content["format"] != FORMAT:
            raise InputError(f"{path}/{CARD_FILE} has format {content['format']!r}, this reads {FORMAT}: export again")
        preprocessing = content["preprocessing"]
        return Card(
            path=path,
            name=_text(content["name"]),
            version=version,
            classes=tuple(map(_text, content["classes"])),
            step=int(content["step"]),
            fingerprint=str(content["fingerprint"]),
            storing=images.Storing(**preprocessing["storing"]),
            image_size=int(preprocessing["image_size"]),
            crop_fraction=float(preprocessing["crop_fraction"]),
            files={
                str(name): {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])}
                for name, f in content["files"].items()
            },
            reference=content.get("reference") or None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}/{CARD_FILE} is damaged ({type(error).__name__}: {error}): run `python -m trainer export` again"
        ) from error


def _text(name: str) -> str:
    """A name as Unicode, which the names of folders need not be."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_files(card: Card) -> None:
    """Compares the SavedModel's files with the card.

    Raises:
      InputError: naming the first that is missing, damaged or not on the card.
    """
    listed = {name for name in card.files if name.startswith(_MODEL_FILES)}
    found = {name for name in storage.files_under(card.path) if name.startswith(_MODEL_FILES)}
    again = "run `python -m trainer export` again"
    if "saved_model.pb" not in listed:
        raise InputError(f"{card.path}/{CARD_FILE} lists no saved_model.pb: {again}")
    for name in sorted(listed ^ found):
        raise InputError(f"{card.path}/{name} is {'missing' if name in listed else f'not in {CARD_FILE}'}: {again}")
    for name in sorted(listed):
        digest = hashlib.sha256(storage.read_bytes(storage.join(card.path, name))).hexdigest()
        if digest != card.files[name]["sha256"]:
            raise InputError(f"{card.path}/{name} is damaged, its SHA-256 is not that of {CARD_FILE}: {again}")
