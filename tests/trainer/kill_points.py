"""Kills the writer of checkpoints at each of its accesses to files in turn; what it left is looked at after each.

Run as a script, because a process that TensorFlow was imported into must not fork.
"""

from __future__ import annotations

import os
import pathlib
import sys

from trainer import checkpoint_files as files

KEEP = 1  # the hardest case: there is only one to fall back to
# (step, whether it is the best); the second step is saved again as the best, as after an evaluation.
SAVES = ((1, True), (2, False), (2, True), (3, False))
KILLED = 7


def content(step: int) -> bytes:
    return bytes([step]) * 1000


def save(workdir: str, name: files.Name, best: bool) -> None:
    def write(prefix: str) -> None:
        pathlib.Path(f"{prefix}.index").write_bytes(content(name.step))
        pathlib.Path(f"{prefix}.data").write_bytes(content(name.step))

    files.publish(workdir, name, write, {"best": best})
    files.rotate(workdir, name, keep=KEEP, damaged=())


def write_all(workdir: str, kill_at: int) -> None:
    """In a process of its own: dies at the access to files numbered `kill_at`, without another instruction."""
    accesses = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal accesses
        if event.startswith(("open", "os.", "shutil.")) and any(workdir in str(argument) for argument in arguments):
            accesses += 1
            if accesses > kill_at:
                os._exit(KILLED)

    sys.addaudithook(count)
    for step, best in SAVES:
        revision = max((name.revision for name in files.names(workdir) if name.step == step), default=0) + 1
        save(workdir, files.Name(step, revision), best)
        os.write(1, f"{kill_at} {step}\n".encode())
    os._exit(0)


def look(workdir: str) -> None:
    """Everything that is there can be read, also before anybody tidied up; afterwards nothing else is there."""
    for name in files.names(workdir):
        about = files.read_about(workdir, name)
        with files.verified(workdir, name, about) as prefix:
            assert pathlib.Path(f"{prefix}.index").read_bytes() == content(name.step)
    found = files.names(workdir)
    files.tidy(workdir)
    folder = pathlib.Path(workdir, "checkpoints")
    assert sorted(map(str, found)) == (sorted(os.listdir(folder)) if folder.exists() else [])
    assert not found or any(files.read_about(workdir, name)["best"] for name in found), found


def main(root: str) -> None:
    for kill_at in range(10_000):
        workdir = os.path.join(root, str(kill_at))
        child = os.fork()
        if not child:
            write_all(workdir, kill_at)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        look(workdir)
        print(f"{kill_at} left {' '.join(map(str, files.names(workdir)))}", flush=True)
        if code != KILLED:
            assert code == 0, code
            return


if __name__ == "__main__":
    main(sys.argv[1])
