"""The command line before any work: help without TensorFlow, and one line for what the user has to mend."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from trainer import __main__ as commands

REPOSITORY = pathlib.Path(__file__).parents[2]
DIGITS = "--config=configs/digits_mobilenetv2.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in commands._COMMANDS)])
def test_help_needs_no_tensorflow(arguments: list[str]) -> None:
    """Importing it takes seconds, help should take none."""
    script = (
        "import sys; from trainer.__main__ import main; "
        "status = main(['trainer', *sys.argv[1:]]); "
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout
    assert "--workdir" in result.stdout or "--data" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'"),
        (["train", DIGITS], "--data, --workdir must be given"),
        (["train", DIGITS, "--dta=x"], "Did you mean: data"),
        (["train", DIGITS, "--data=x", "--workdir=y", "extra"], "unexpected argument 'extra'"),
        (["train", DIGITS, "--data=x", "--workdir=y", "--strategy=horovod"], "horovod"),
        (["train", DIGITS, "--data=x", "--workdir=y", "--config.optimizer.peaklr=1"], "optimizer.peak_lr?"),
        (["train", DIGITS, "--data=nowhere", "--workdir=y"], "nowhere holds no finished dataset"),
        (["train", DIGITS, "--data=x", "--workdir=y", "--overfit_one_batch"], "--overfit_one_batch keeps nothing"),
        (["train", DIGITS, "--overfit_one_batch"], "--data must be given"),
        (["train", DIGITS, "--data=x", "--workdir=y", "--strategy=multi_worker"], "nothing says which worker this is"),
        (
            ["train", DIGITS, "--data=x", "--workdir=y", "--strategy=multi_worker", "--coordinator=a:1"],
            "--num_workers, --worker_index must be given too",
        ),
        (["train", DIGITS, "--data=x", "--workdir=y", "--worker_index=0"], "--worker_index is for --strategy="),
        (["launch", DIGITS, "--data=x"], "--workdir must be given"),
        (["launch", DIGITS, "--data=x", "--workdir=y", "--stall_timeout_s=0"], "stall_timeout_s=0"),
        (["launch", DIGITS, "--data=x", "--workdir=y", "--num_workers=0"], "--num_workers=0: expected at least 1"),
        (
            ["launch", DIGITS, "--data=x", "--workdir=y", "--overfit_one_batch"],
            "nothing that a restart could go on from",
        ),
        (["launch", DIGITS, "--data=x", "--workdir=y", "--config.optimizer.peaklr=1"], "optimizer.peak_lr?"),
        (["launch", DIGITS, "--data=nowhere", "--workdir=y"], "nowhere holds no finished dataset"),
        (["evaluate", "--workdir=x", "--num_workers=2"], "--num_workers is for --strategy=multi_worker"),
        (["find_lr", DIGITS, "--data=x"], "--out must be given"),
        (["find_lr", DIGITS, "--data=x", "--out=y", "--steps=1"], "steps=1"),
        (["find_lr", DIGITS, "--data=nowhere", "--out=y"], "nowhere holds no finished dataset"),
        (["find_batch", DIGITS, "--data=nowhere"], "nowhere holds no finished dataset"),
        (["find_batch", DIGITS, "--data=x", "--strategy=multi_worker"], "try one worker with --strategy=mirrored"),
        (["search", DIGITS, "--data=x", "--out=y"], "--space must be given"),
        (["search", DIGITS, "--data=x", "--out=y", "--space=seed"], "--space=seed: expected FIELD="),
        (["search", DIGITS, "--data=x", "--out=y", "--space=sed=int(1,8)"], "no field sed; did you mean seed?"),
        (["search", DIGITS, "--data=x", "--out=y", "--space=global_batch=linear(16,64)"], "global_batch="),
        (
            ["search", DIGITS, "--data=x", "--out=y", "--space=seed=1|2", "--config.validation_split=none"],
            "gives a search nothing to compare trials by",
        ),
        (["evaluate", "--workdir=nowhere"], "nowhere holds no run"),
        (["evaluate", "--workdir=nowhere", "--checkpoint=worst"], "worst"),
        (["compare", "--workdir=x"], "--other must be given"),
        (["compare", "--workdir=nowhere", "--other=x"], "nowhere/report/predictions.npz does not exist: run `python"),
        (["predict", "--workdir=nowhere", "x.jpg"], "nowhere holds no run"),
        (["predict", "--workdir=nowhere", "--format=xml"], "xml"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: list[str], message: str) -> None:
    result = _run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    first = result.stderr.splitlines()[0]
    assert first.startswith("trainer")
    assert message in first
    assert len(result.stderr.splitlines()) == 1 or arguments == ["trian"]  # which is followed by the usage
    assert not (REPOSITORY / "y").exists()
