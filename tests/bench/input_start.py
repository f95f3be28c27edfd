"""One process's first batch and its peak of memory; a line of JSON out.

python -m tests.bench.input_start KIND BATCH
"""

from __future__ import annotations

import json
import resource
import sys
import time

_BATCHES = 20


def main(kind: str, batch: int) -> None:
    import tensorflow as tf

    from pipeline import manifest, training
    from tests.bench import input_data, input_tensorflow

    del manifest, training  # imported so that the first batch does not pay for it
    tf.constant(0)  # TensorFlow starts its runtime at its first use
    imports_mib = _peak_mib()
    cpu, wall = time.process_time(), time.monotonic()
    batches = iter(input_tensorflow.our_batches(input_data.photos(kind), "none", batch))
    next(batches)
    first_s, first_cpu_s = time.monotonic() - wall, time.process_time() - cpu
    for _ in range(_BATCHES if batch > 32 else 0):
        next(batches)
    found = {"first_s": first_s, "first_cpu_s": first_cpu_s, "peak_mib": _peak_mib(), "imports_mib": imports_mib}
    print(json.dumps(found), flush=True)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
