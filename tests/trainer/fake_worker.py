"""What a supervisor watches, without TensorFlow: what to do at each start in, signs of life and an exit status out.

Arguments: a folder that counts the starts, this worker's index, and one argument for each start, the last for all that
follow. Its words: `beat:STEP`, `rest:SECONDS`, `say:TEXT`, `exit:STATUS`, `die`, `freeze`, `saves:SECONDS`, `deaf`,
`orphan`, `zombies`.
"""

from __future__ import annotations

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

from trainer import heartbeat


def main(folder: str, index: str, *starts: str) -> None:
    record = pathlib.Path(folder) / f"worker-{index}"
    with record.open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    number = len(record.read_text().splitlines())
    beat = heartbeat.Heartbeat(os.environ[heartbeat.VARIABLE])
    for word in starts[min(number, len(starts)) - 1].split():
        action, _, value = word.partition(":")
        if action == "beat":
            beat(int(value))
            time.sleep(heartbeat.PERIOD_S)
        elif action == "rest":
            time.sleep(float(value))
        elif action == "say":
            os.write(1, value.encode().decode("unicode_escape").encode())
        elif action == "exit":
            sys.exit(int(value))
        elif action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "saves":
            signal.signal(signal.SIGTERM, functools.partial(_save, float(value or 0)))
        elif action == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif action == "orphan":
            subprocess.run(["sh", "-c", "sleep 0.2 &"], check=True)
        elif action == "zombies":
            states = [
                path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path("/proc").glob("[0-9]*/stat")
            ]
            print("zombies", states.count("Z"), "of", len(states))


def _save(seconds: float, number: int, frame: types.FrameType | None) -> None:
    time.sleep(seconds)
    sys.exit(42)


if __name__ == "__main__":
    main(*sys.argv[1:])
