"""Training input prepared by other processes: their addresses in, the batches that `training.batches` gives out.

For hosts whose CPUs can't feed their accelerators: `python -m pipeline.serve` runs where cores are free, and prepares
a part of each batch by TensorFlow's tf.data service, https://www.tensorflow.org/api_docs/python/tf/data/experimental/service.
That promises no order, and repeats or skips data when its processes come and go. So it is used as a wire only: process
k of K reads the streams that worker k of K would, every batch carries its step, and the parts are put side by side.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from pipeline import bounded, meeting, parallel, storage, training
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError
from pipeline.manifest import Manifest

_WAIT_S = 60.0  # a scheduler starts service and trainer together, and either may be first
_STALL_S = 900.0  # a process that answers may still be filling a shuffle window from slow storage


def batches(
    addresses: Sequence[str],
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    global_batch: int,
    cache: str,
    shuffle_mib: float,
    sampling: str = "none",
    augment: Augment | None = None,
    start_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    wait_s: float = _WAIT_S,
    **settings: Any,
) -> Iterator[Any]:
    """The elements of `training.batches` with the same keywords, prepared by the processes at `addresses`.

    Args:
      addresses: HOST:PORT of each process, as it printed it. All trainers may give the same ones: a process serves any
        number of them. Their number times num_workers has to divide the number of streams.
      directory: has to be the same data for the service processes.
      cache: as in `training.batches`, in the memory of the service processes. With auto each trainer takes its share of
        what was free when they were started.
      wait_s: how long a process may be out of reach, at the start and later.
      settings, others: see `training.batches`.

    Yields:
      This worker's share of every global batch from `start_step` on, without end: bit for bit what `training.batches`
      gives, for any number of addresses.

    Raises:
      InputError: at the call, where addresses, streams, versions or data don't go together.
      ConnectionError: from the iterator, naming the address, where a process dies, hangs or is started again. What it
        was about to send is lost with it; training goes on from its last checkpoint, as after the loss of a trainer.
    """
    _check_addresses(addresses)
    count = len(addresses)
    plan = training.make_plan(
        manifest,
        split=split,
        global_batch=global_batch,
        shuffle_mib=shuffle_mib,
        sampling=sampling,
        mixes=augment is not None and augment.mixes,
    )
    streams = len(plan.streams)
    if streams % (count * num_workers):
        raise InputError(
            f"{count} input service addresses for each of {num_workers} trainer processes can't share {streams} "
            f"streams equally: give a number of addresses that divides {streams // num_workers}"
        )
    if storage.is_local(directory):
        directory = storage.local_name(directory)  # a service process has a working folder of its own
    meet = functools.partial(meeting.meet, directory=directory, manifest=manifest, wait_s=wait_s)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        met = dict(zip(addresses, pool.map(meet, addresses), strict=True))
    parts = [
        training.batches(
            directory,
            manifest,
            split=split,
            global_batch=global_batch,
            cache=cache,
            shuffle_mib=shuffle_mib,
            sampling=sampling,
            augment=augment,
            start_step=start_step,
            worker=worker * count + index,
            num_workers=num_workers * count,
            host=_host(address, met, num_workers),
            **settings,
        ).dataset
        for index, address in enumerate(addresses)
    ]
    logging.info("input: prepared by %s", ", ".join(addresses))
    return _side_by_side(
        parts, {address: met[address].process for address in addresses}, start_step=start_step, wait_s=wait_s
    )


def _check_addresses(addresses: Sequence[str]) -> None:
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise InputError(f"input service {address!r}: expected HOST:PORT, as `python -m pipeline.serve` prints it")
    if not addresses or len(set(addresses)) < len(addresses):
        raise InputError(f"input service {','.join(addresses)!r}: expected one or more addresses, each of them once")


def _host(address: str, met: Mapping[str, meeting.Greeting], num_workers: int) -> parallel.Host:
    """What one trainer has of the host at `address`, whose memory other trainers and processes of `met` share."""
    neighbours = sum(other.rpartition(":")[0] == address.rpartition(":")[0] for other in met)
    return parallel.Host(met[address].cores, met[address].available_bytes // (neighbours * num_workers))


def _side_by_side(
    parts: Sequence[tf.data.Dataset], processes: Mapping[str, str], *, start_step: int, wait_s: float
) -> Iterator[Any]:
    # A process that was started again gives out the same client numbers once more, so that a trainer may be handed
    # what was prepared for another; and a lost transfer leaves a gap. Neither gets past the pair of run and step.
    run = secrets.randbits(62)

    def ticketed(step: tf.Tensor, batch: Any) -> tuple[tf.Tensor, Any]:
        return tf.stack([tf.constant(run, tf.int64), step]), batch

    def joined(*received: tuple[tf.Tensor, Any]) -> tuple[tf.Tensor, Any]:
        tickets, shares = zip(*received, strict=True)
        return tf.stack(tickets), tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *shares)

    def start() -> tf.data.Dataset:
        numbered = [part.enumerate(start_step).map(ticketed) for part in parts]
        return tf.data.Dataset.zip(tuple(map(bounded.remote, numbered, processes))).map(joined)

    step = start_step
    try:
        for tickets, batch in bounded.elements(start, list(processes), wait_s=wait_s, stall_s=_STALL_S):
            for address, ticket in zip(processes, tickets.numpy().tolist(), strict=True):
                if ticket != [run, step]:
                    raise _lost(address, f"sent another batch than that of step {step}")
            yield batch
            step += 1
    except bounded.SilenceError as error:
        raise _lost(error.address, str(error)) from error
    except tf.errors.OpError as error:
        for address, process in processes.items():
            with contextlib.suppress(InputError):
                if meeting.greet(address, wait_s).process == process:
                    continue
            raise _lost(address, "has died or was started again") from error
        raise InputError(
            f"the input service can't prepare step {step} ({bounded.first_line(error)}): start training again without "
            "--input_service, which names the shard and the image that can't be read"
        ) from error


def _lost(address: str, what: str) -> ConnectionError:
    return ConnectionError(
        f"the input service at {address} {what}, and its place in the sequence is lost: once it runs, start training "
        "again, which goes on from the last checkpoint"
    )
