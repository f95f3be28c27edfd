"""A process that uses a shard cache, for tests: python -m tests.pipeline.cache_user DIRECTORY MAX_BYTES SEED MODE

storm: takes random files for a while, counts how often it had to make one, and checks what it gets.
slow: starts to write a file, says so, and never ends.
holds: holds one file, says so, and waits for its input to close.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from typing import IO

from pipeline.local_cache import LocalCache

SIZE_BYTES = 40_000
FILES = 12


def content(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (SIZE_BYTES // 32)


def name(number: int) -> str:
    return f"{hashlib.sha256(content(number)).hexdigest()}.tfrecord"


def right(number: int, path: str) -> bool:
    with open(path, "rb") as stream:
        return stream.read() == content(number)


def storm(cache: LocalCache, chance: random.Random) -> int:
    made = 0
    for _ in range(60):
        number = chance.randrange(FILES)

        def fill(stream: IO[bytes], number: int = number) -> None:
            nonlocal made
            made += 1
            data = content(number)
            for start in range(0, SIZE_BYTES, 10_000):
                stream.write(data[start : start + 10_000])
                stream.flush()
                time.sleep(0.0005)

        def check(path: str, number: int = number) -> bool:
            return right(number, path)

        held = None
        while held is None:
            held = cache.add(name(number), SIZE_BYTES, fill, check)
        time.sleep(0.001)
        assert right(number, held.path), "removed or changed while it was held"
        held.release()
    return made


def main() -> None:
    directory, max_bytes, seed, mode = sys.argv[1:]
    cache = LocalCache(directory, int(max_bytes))
    if mode == "storm":
        print(storm(cache, random.Random(int(seed))))
    elif mode == "holds":
        held = cache.add(name(0), SIZE_BYTES, lambda stream: _write(stream, content(0)), lambda path: True)
        assert held is not None
        print("holds", flush=True)
        sys.stdin.read()
    else:

        def fill(stream: IO[bytes]) -> None:
            _write(stream, content(0)[:10_000])
            stream.flush()
            print("writes", flush=True)
            time.sleep(60)

        cache.add(name(0), SIZE_BYTES, fill, lambda path: True)


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


if __name__ == "__main__":
    main()
