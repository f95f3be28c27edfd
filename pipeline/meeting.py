"""An input service's address in; what the process there says of itself out, or why it can't serve this trainer."""

from __future__ import annotations

import functools
import json
import time
from typing import NamedTuple

import tensorflow as tf

from pipeline import bounded, storage
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from pipeline.manifest import Manifest

GREETING_ID = "shardline"  # of the data set, of one element, by which a service process says what it is


class Greeting(NamedTuple):
    tensorflow: str  # its version
    address: str  # HOST:PORT by which trainers call it
    batches: str  # HOST:PORT where they fetch batches
    cores: int
    available_bytes: int  # of memory, when it was started
    process: str  # another one after each start


def meet(address: str, *, directory: str, manifest: Manifest, wait_s: float) -> Greeting:
    """Waits for the process at `address` and checks that it is ours and sees the dataset of `manifest` in `directory`.

    Raises:
      InputError: where it is out of reach for `wait_s` seconds, has another TensorFlow, or sees something else.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + wait_s
    while reason := bounded.unreachable(address):
        if time.monotonic() > deadline:
            raise InputError(
                f"no input service at {address} for {wait_s:g} s ({reason}): start it there with "
                f"`python -m pipeline.serve --host={host} --port={port}`, or leave it out"
            )
        time.sleep(min(1, wait_s / 10))
    greeting = greet(address, wait_s)
    if greeting.tensorflow != tf.__version__:
        raise InputError(
            f"the input service at {address} has TensorFlow {greeting.tensorflow}, the trainer {tf.__version__}: "
            "install the same on both, others may decode and resize to other pixels"
        )
    if greeting.address != address:
        raise InputError(
            f"the input service at {address} calls itself {greeting.address} and would send trainers there: "
            f"start it with --host={host}, or give the address that it printed"
        )
    if reason := bounded.unreachable(greeting.batches):
        raise InputError(
            f"the input service at {address} hands out batches at {greeting.batches}, which can't be reached "
            f"({reason}): let that port through too; --batches_port fixes its number"
        )
    _check_sight(address, directory, manifest, wait_s)
    return greeting


def greet(address: str, wait_s: float) -> Greeting:
    """Raises InputError where the process at `address` doesn't know the greeting, or doesn't answer."""

    def ask() -> tf.data.Dataset:
        text = tf.TensorSpec([], tf.string)
        return tf.data.experimental.service.from_dataset_id(
            tf.data.experimental.service.ShardingPolicy.OFF, f"grpc://{address}", GREETING_ID, element_spec=text
        )

    try:
        return Greeting(**json.loads(bounded.first(ask, address, wait_s=wait_s).numpy()))
    except (tf.errors.OpError, bounded.SilenceError) as error:
        raise InputError(
            f"what answers at {address} is no input service of this project ({bounded.first_line(error)}): "
            "start one with `python -m pipeline.serve`"
        ) from error


def _check_sight(address: str, directory: str, manifest: Manifest, wait_s: float) -> None:
    """Has the process read the manifest: what is there for it has to be what is here for us."""
    path = storage.join(directory, manifest_lib.FILE)
    file = tf.data.Dataset.from_tensors(path).map(tf.io.read_file)
    try:
        content = bounded.first(functools.partial(bounded.remote, file, address), address, wait_s=wait_s).numpy()
        seen = json.loads(content)["fingerprint"]
    except (tf.errors.OpError, bounded.SilenceError, ValueError, KeyError) as error:
        raise InputError(
            f"the input service at {address} can't read {path} ({bounded.first_line(error)}): put the data where all "
            "hosts see it under the same name"
        ) from error
    if seen != manifest.fingerprint:
        raise InputError(
            f"the input service at {address} sees another dataset in {directory} (fingerprint {seen[:12]}, here "
            f"{manifest.fingerprint[:12]}): put the same one there"
        )
