"""Who gets SIGTERM in; a training that was preempted again and again, and the steps that it cost each time, out.

python -m tests.network.preemption --data=DIR [--times=10]
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import random
import signal
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.network import hosts
from tests.network.faults import undisturbed
from tests.network.training import NAMES, Training, supervisors, training
from trainer import checkpoint_files as files

# A worker that is told by itself, as a scheduler inside of a pod might; a pod that is told, which is its supervisor.
WHO = ("one worker", "all workers", "one supervisor", "all supervisors")
STATUS = 42
_ENDED_WITHIN_S = 60.0
_FEWEST_STEPS, _MOST_STEPS = 3, 6  # between two signals


def steps_needed(times: int) -> int:
    return (times + 2) * (_MOST_STEPS + 2)  # two more may be taken until all workers have heard of a signal


def preempt(folder: pathlib.Path, data: str, *, times: int, chance: random.Random) -> list[int]:
    """Trains without any SIGTERM, and with one to each of `WHO` in turn.

    Returns:
      The steps that were taken and then taken again after each of them.

    Raises:
      AssertionError: where one of them did more than have all start anew, or the end is not the undisturbed one's.
    """
    steps = steps_needed(times)
    expected = undisturbed(folder / "undisturbed", data, steps=steps)
    # Nothing is saved but for a signal and for the best evaluation, which is the first.
    flags = [f"--config.checkpoint_every_steps={steps}"]
    processes = supervisors(folder / "preempted", data, steps=steps, more_flags=flags)
    with training(folder / "preempted", processes) as run:
        for who in itertools.islice(itertools.cycle(WHO), times):
            target = max(run.step(name) for name in NAMES) + chance.randint(_FEWEST_STEPS, _MOST_STEPS)
            run.wait(lambda target=target: any(run.step(name) >= target for name in NAMES) or run.ended())
            assert not run.ended(), f"it ended before it was preempted{run.logs()}"
            _preempt_once(run, who, chance.choice(NAMES))
        result = run.result()
        lost = [_steps_lost(run, number) for number in range(times)]
        assert [len(run.workers(name)) for name in NAMES] == [times + 1] * len(NAMES), run.logs()
    assert result.examples == expected.examples
    assert [row["step"] for row in result.history] == [row["step"] for row in expected.history]
    _check_close(folder / "preempted/workdir", folder / "undisturbed/workdir")
    return lost


def _check_close(workdir: pathlib.Path, expected: pathlib.Path) -> None:
    """Compares all that the last checkpoints hold.

    Not to the last bit: workers average their moving statistics before each save, and here they save at other steps.
    """
    mine, theirs = (_content(str(each)) for each in (workdir, expected))
    assert mine.keys() == theirs.keys()
    for key in mine:
        np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-5, atol=1e-9, err_msg=key)


def _content(workdir: str) -> dict[str, npt.NDArray[np.generic]]:
    import tensorflow as tf  # which nothing else here needs

    reader = tf.train.load_checkpoint(f"{files.folder(workdir, files.names(workdir)[-1])}/content")
    keys = reader.get_variable_to_shape_map()
    return {key: reader.get_tensor(key) for key in keys if key != "_CHECKPOINTABLE_OBJECT_GRAPH"}


def _preempt_once(run: Training, who: str, name: str) -> None:
    """Signals, and waits until new workers have begun."""
    before = {each: run.workers(each)[-1] for each in NAMES}
    told = NAMES if who.startswith("all") else (name,)
    if "supervisor" in who:
        run.signal([run.started[each].pid for each in told], signal.SIGTERM)
        for each in told:
            status = run.started[each].wait(_ENDED_WITHIN_S)
            assert status == STATUS, f"{who}: {each} left with status {status}{run.logs()}"
            run.start(each)  # as the Job's controller would
    else:
        run.signal([before[each] for each in told], signal.SIGTERM)
    run.wait(lambda: all(hosts.state(pid) in (None, "Z") for pid in before.values()), timeout_s=_ENDED_WITHIN_S)
    run.wait(lambda: all(run.workers(each)[-1] != before[each] for each in NAMES))


def _steps_lost(run: Training, number: int) -> int:
    """Of the worker that had to take more of them again, after start `number`."""
    lost = []
    for name in NAMES:
        before, after = run.workers(name)[number : number + 2]
        last = max(row.step for row in run.rows(name) if row.pid == before)
        lost.append(last + 1 - min(row.step for row in run.rows(name) if row.pid == after))
    return max(lost)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a small dataset, as tests/conftest.py prepares one")
    parser.add_argument("--times", type=int, default=10, help="of each way: to one and to all, workers and supervisors")
    parser.add_argument("--seed", type=int, default=1)
    values = parser.parse_args(argv)
    times = values.times * len(WHO)
    with tempfile.TemporaryDirectory() as folder:
        lost = preempt(pathlib.Path(folder), values.data, times=times, chance=random.Random(values.seed))
    for number, who in enumerate(WHO):
        some = lost[number :: len(WHO)]
        print(f"SIGTERM to {who:16}{len(some):4} times, at most {max(some)} steps lost, {sum(some)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
