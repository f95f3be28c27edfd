"""One input file in, the facts about it out; its bytes are read once and go no further."""

from __future__ import annotations

import dataclasses
import hashlib

from pipeline import images, storage
from preprocess.ledger import Row
from preprocess.sources import Source

# tf.train.Example is a protobuf message, and those end at 2 GiB; half of it leaves room for growth in encoding.
MAX_FILE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Facts:
    """A file that decodes completely. Sizes are those of the upright image."""

    class_name: str
    file: str
    bytes: int
    width: int
    height: int
    sha256: str  # of the file's bytes, hex
    kept: bool  # True: the file's own bytes are stored; False: it is encoded again

    @property
    def group(self) -> str:
        """Images of one group never stand in two splits; until something joins more, only equal bytes are one group."""
        return self.sha256

    def row(self, status: str, **more: str) -> Row:
        return Row(self.file, self.class_name, self.bytes, self.width, self.height, self.sha256, status, **more)


def inspect(source: Source, root: str) -> Facts | Row:
    """Reads and decodes one file of `root`; a file that cannot be used becomes its ledger row with the reason."""
    path = storage.join(root, source.file)

    def rejected(reason: str, detail: str, size: int = 0, sha256: str = "") -> Row:
        return Row(source.file, source.class_name, size, 0, 0, sha256, "quarantined", reason=reason, detail=detail)

    try:
        with storage.open_file(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if not storage.is_local(path) and not isinstance(error, FileNotFoundError | PermissionError):
            raise  # a bucket that fails for a moment says nothing about the file; the runner tries again
        return rejected("cannot_read", error.strerror or str(error))
    if len(data) > MAX_FILE_BYTES:
        return rejected("file_too_large", f"more than {MAX_FILE_BYTES:,} bytes", storage.size_bytes(path))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = images.standardize(data, encode=False)
    except images.ImageError as error:
        return rejected(error.code, error.detail, len(data), sha256)
    return Facts(source.class_name, source.file, len(data), image.width, image.height, sha256, image.kept)
