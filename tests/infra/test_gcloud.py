"""Google's own command line, where it is installed, reads what infra/ gives it; it has no account and asks nobody."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from tests.infra import documents, tpu_rules

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud")


def gcloud(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(folder / "empty"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    return subprocess.run(["gcloud", *arguments], env=environment, capture_output=True, text=True, timeout=300)


def test_a_template_is_built_of_the_metadata(tmp_path: pathlib.Path) -> None:
    metadata = ROOT / "infra/dataflow/metadata.json"
    done = gcloud(
        tmp_path,
        *("dataflow", "flex-template", "build", "gs://bucket/template.json", "--image=registry.example/launcher:1"),
        *("--sdk-language=PYTHON", f"--metadata-file={metadata}", "--print-only", "--project=project"),
    )
    assert done.returncode == 0, done.stderr
    (text,) = documents.parse(done.stdout)
    spec = json.loads(text)
    assert spec["metadata"]["parameters"] == json.loads(metadata.read_text(encoding="utf-8"))["parameters"]
    assert spec["image"] == "registry.example/launcher:1"


def test_commands_of_the_tpu_script_parse(tmp_path: pathlib.Path) -> None:
    """Arguments that it does not know end it with 2; with 1 it has come to miss an account."""
    _, calls = tpu_rules.calls(ROOT / "infra/tpu/tpu.sh", "train", tmp_path)
    kinds = {tuple(word for word in call[:5] if not word.startswith("-")): call for call in calls}
    assert len(kinds) == 4  # create, describe, ssh, delete
    for call in kinds.values():
        done = gcloud(tmp_path, *call)
        assert (done.returncode, "account" in done.stderr) == (1, True), done.stderr
    assert gcloud(tmp_path, *calls[0], "--spots").returncode == 2
