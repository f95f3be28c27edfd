"""Facts about images that exist nowhere, for tests of what is decided by facts alone."""

from __future__ import annotations

import hashlib

from preprocess.inspection import Facts


def facts(number: int, class_name: str = "healthy", **more: object) -> Facts:
    """Facts of image `number`, whose hash no other number has; `more` are fields of `Facts`."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    values: dict[str, object] = {
        "input": 0,
        "file": f"{class_name}/{number}.jpeg",
        "class_name": class_name,
        "key": "",
        "split": "",
        "size_bytes": 1000,
        "width": 4,
        "height": 3,
        "sha256": sha256,
        "kept": True,
        "phash": bytes(64),
        "texture": 0,
        "channels": bytes(6),
    }
    return Facts(**{**values, **more})  # type: ignore[arg-type]
