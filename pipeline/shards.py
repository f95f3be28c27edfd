"""Shards by number in, paths of whole local files out, checked against the manifest before they are read.

A local shard is read where it is. A remote one (gs://, or any address that fsspec knows) is copied to a local cache
first. With `decoded` the shard's pixels are handed out in place of its records.

Where the dataset changes while it is trained on:
- A shard that is deleted, cut or rewritten is noticed when it is opened next. The same bytes again are welcome:
  preparation with equal settings gives equal shards, so `--overwrite` with these ends no training.
- A shard that is open already is read to its end, since `--overwrite` and deletion leave open files as they are. One
  that is changed in place while it is read is caught by TFRecord's checksums and by whoever counts its examples.
- What the cache holds of a remote dataset is used on, by its hash; a change shows in what the cache lacks.
"""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import os
import resource
import threading
import time
from collections.abc import Iterable, Sequence

from pipeline import sources, storage
from pipeline.errors import InputError
from pipeline.local_cache import Held, LocalCache
from pipeline.manifest import Shard

# Got ready before they are asked for. One stream from a bucket brings 50 to 100 MB/s, so four bring what 2,000 to 4,000
# photos a second need; each takes `sources.PART_BYTES` of memory.
AHEAD = 4
_ROOM_WAIT_S = 120  # for other processes of this machine to finish with what fills the cache
_POLL_S = 0.1
_OPEN_FILES = 512  # of this process beside the shards it holds


class Opener:
    """Opens the shards of one split for one reader; any number of threads may call it.

    Args:
      directory: the dataset's folder.
      shards: those of the manifest; `open` and `expect` number them from 0.
      cache_dir: where copies of remote shards, or decoded ones, are kept. None: `shardline` in the user's cache folder.
      cache_bytes: the bound of that folder, see `LocalCache`.
      decoded: whether `open` gives a shard's pixels (see `decoded.index`) in place of its records.
      open_at_once: how many shards the reader may have open at any time; these are never removed from the cache. With
        `decoded` every shard that was opened is kept until `close`, since any image may be asked for at any time.

    Raises:
      InputError: for a cache that nothing would use, or one that is too small.
    """

    def __init__(
        self,
        directory: str,
        shards: Sequence[Shard],
        *,
        cache_dir: str | None,
        cache_bytes: int | None,
        decoded: bool = False,
        open_at_once: int = 16,
    ) -> None:
        self.failure: InputError | ConnectionError | None = None  # the first; TensorFlow makes an UnknownError of it
        self.shards = tuple(shards)
        self.decoded = decoded
        self._ahead = AHEAD
        self._source: sources.Local | sources.Remote | sources.Pixels = sources.Local(directory, self.shards)
        if decoded or not storage.is_local(directory):
            cache = LocalCache(cache_dir or _default_directory(), cache_bytes)
            logging.info("input: %s keeps shards of %s, up to %s", cache.directory, directory, _gib(cache.max_bytes))
            if not storage.is_local(directory):
                self._source = sources.Remote(directory, self.shards, cache)
                self._ahead = _room_ahead(cache, self.shards, open_at_once)
            if decoded:
                self._source = sources.Pixels(self._source, cache)
                _allow_open_files(len(self.shards) + _OPEN_FILES)
        elif cache_dir is not None or cache_bytes is not None:
            raise InputError(
                f"input.cache_dir and input.cache_gib have no use here, {directory} is on a local disk and is read "
                "where it is: leave both None"
            )
        self._keep = len(self.shards) if decoded else open_at_once
        self._opened: collections.OrderedDict[int, Held] = collections.OrderedDict()
        self._recent: collections.deque[tuple[str, Shard]] = collections.deque(
            maxlen=2 * max(open_at_once, len(self.shards))  # a window may hold examples of many shards
        )
        self._coming: collections.deque[int] = collections.deque()
        self._ready: dict[int, concurrent.futures.Future[Held | None]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def expect(self, indices: Iterable[int]) -> None:
        """Says which shards will be opened after those expected so far, in that order.

        The first few are got ready in the background. Opening others, or in another order, is allowed.
        """
        with self._lock:
            self._coming.extend(int(index) for index in indices)
        self._top_up()

    def open(self, index: int) -> str:
        """Waits until shard `index` is a local file, whole and as the manifest says, and returns its path.

        Raises:
          InputError: naming the shard, what was found and what was expected.
          ConnectionError: where its bucket can't be reached.
          ValueError: after `close`, where the shard would have to be fetched.
        """
        index = int(index)
        with self._lock:
            future = self._ready.pop(index, None)
            if future is None and index in self._coming:
                self._coming.remove(index)
        self._make_room_for(index)
        try:
            held = future.result() if future else None
            held = held or self._wait_for_room(index)
        except (InputError, ConnectionError) as error:  # of the errors here those that a person can do something about
            self.failure = self.failure or error
            raise
        self._hold(index, held)
        self._top_up()
        return held.path

    def recent(self) -> list[tuple[str, Shard]]:
        """Paths and shards that were opened last, the latest first, as many as the reader may have open."""
        with self._lock:
            return list(dict.fromkeys(reversed(self._recent)))

    def close(self) -> None:
        """Ends the background work and lets go of what is held in the cache; files that are open may be read on."""
        self._closed.set()
        with self._lock:
            waiting, self._ready = self._ready, {}
            held = list(self._opened.values())
            self._opened.clear()
            self._coming.clear()
        for one in held:
            one.release()
        for future in waiting.values():
            future.add_done_callback(_release)
        concurrent.futures.wait(waiting.values())

    def _make_room_for(self, index: int) -> None:
        """Lets go of what was opened longest ago where the reader has as many open as it may, and is done with that."""
        with self._lock:
            others = [other for other in self._opened if other != index]
            released = [self._opened.pop(other) for other in others[: max(0, len(others) + 1 - self._keep)]]
        for one in released:
            one.release()

    def _hold(self, index: int, held: Held) -> None:
        with self._lock:
            released = [self._opened.pop(index, None)]
            self._opened[index] = held
            self._recent.append((held.path, self.shards[index]))
            while len(self._opened) > self._keep:
                released.append(self._opened.popitem(last=False)[1])
        for one in released:
            if one:
                one.release()

    def _top_up(self) -> None:
        with self._lock:
            while self._coming and len(self._ready) < self._ahead and not self._closed.is_set():
                if self._coming[0] in self._ready:  # of the next epoch: first it has to be opened in this one
                    return
                index = self._coming.popleft()
                self._ready[index] = concurrent.futures.Future()
                # Daemons, so that a training that is interrupted does not wait for a download.
                threading.Thread(target=self._work, args=(index, self._ready[index]), daemon=True).start()

    def _work(self, index: int, future: concurrent.futures.Future[Held | None]) -> None:
        try:
            future.set_result(self._source.get(index, self._closed.is_set))
        except BaseException as error:  # noqa: BLE001  # raised again where the shard is opened
            future.set_exception(error)

    def _wait_for_room(self, index: int) -> Held:
        deadline = time.monotonic() + _ROOM_WAIT_S
        while (held := self._source.get(index, self._closed.is_set)) is None:
            self._give_way()
            if self._closed.wait(_POLL_S):
                raise ValueError("the opener is closed")
            if time.monotonic() > deadline:
                raise InputError(
                    f"no room for {self.shards[index].file} in the shard cache, which is full of files that this and "
                    "other processes are using: allow more with input.cache_gib, or give it another folder"
                )
        return held

    def _give_way(self) -> None:
        """Lets go of what nobody has asked for yet: the reader may ask for it only after what it waits for now."""
        with self._lock:
            waiting, self._ready = self._ready, {}
            self._coming.extendleft(reversed(waiting))
        for future in waiting.values():
            future.add_done_callback(_release)


def _release(future: concurrent.futures.Future[Held | None]) -> None:
    if not future.exception() and (held := future.result()):
        held.release()


def cache_bound(cache_dir: str | None, cache_bytes: int | None) -> int:
    """Bytes that a cache with these settings may hold; makes its folder."""
    return LocalCache(cache_dir or _default_directory(), cache_bytes).max_bytes


def _default_directory() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "shardline")


def _room_ahead(cache: LocalCache, shards: Sequence[Shard], open_at_once: int) -> int:
    """How many shards may be fetched ahead, so that they and those that are open fit into the cache."""
    sizes = sorted((shard.bytes for shard in shards), reverse=True)
    needed = sum(sizes[:open_at_once])
    if needed > cache.max_bytes:
        raise InputError(
            f"the shard cache {cache.directory} may hold {_gib(cache.max_bytes)}, but up to {open_at_once} shards are "
            f"read at once and the largest have {_gib(needed)}: allow at least that with input.cache_gib"
        )
    ahead = 0
    while ahead < AHEAD and sum(sizes[: open_at_once + ahead + 1]) <= cache.max_bytes:
        ahead += 1
    return ahead


def _allow_open_files(count: int) -> None:
    """Every file that is held is an open one; most systems let a process raise its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise InputError(
                f"this process may open {hard:,} files and needs {count:,}: raise `ulimit -n`, or use another cache"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.2f} GiB"
