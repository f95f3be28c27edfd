"""`python -m trainer explain` on a run with a small model: pictures, lines, and what can't be explained."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import schema
from pipeline.errors import InputError
from tests.pipeline import shard_files
from trainer import __main__ as commands
from trainer import checkpoints, classifier
from trainer import run as run_lib
from trainer.explanation import explain
from trainer.explanation.grad_cam import grad_cam
from trainer.explanation.overlay import overlay
from trainer.image_sources import Source

SIZE = 64


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose first checkpoint has random weights."""
    root = tmp_path_factory.mktemp("run")
    manifest = shard_files.write(root / "data", {"train": [[shard_files.record(0)]]})
    config = schema.Config(
        input=schema.Input(image_size=SIZE, crop_fraction=1.0), model=schema.Model(width=0.35, weights="none")
    )
    run = run_lib.describe(str(root / "data"), manifest, dataclasses.asdict(config))
    run_lib.write(str(root), run)
    net = classifier.restore_model(run)
    saved = checkpoints.Checkpoints(str(root), content={"model": net}, about=run.about() | {"step": 0}, keep=1)
    saved.save({"step": 0}, best=True)
    return str(root)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two sound images of the same name, and a damaged one between them."""
    root = tmp_path_factory.mktemp("photos")
    (root / "b").mkdir()
    generator = np.random.default_rng(0)
    for path in (root / "a.png", root / "b" / "a.png"):
        Image.fromarray(generator.integers(0, 256, [SIZE, SIZE, 3], dtype=np.uint8)).save(path)
    (root / "a2.png").write_bytes((root / "a.png").read_bytes()[:300])
    return root


def test_each_image_has_a_line_and_a_picture(
    workdir: str, photos: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["trainer", "explain", f"--workdir={workdir}", f"--out={tmp_path}", "--class=cat", str(photos)]
    assert commands.main(arguments) == 1  # for the damaged one
    first, damaged, second = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"{photos}/a2.png  ! ")
    assert {path.name for path in tmp_path.iterdir()} == {"a.grad_cam.png", "a-2.grad_cam.png"}
    model = classifier.load(workdir)
    lines = (("a.png", "a.grad_cam.png", first), ("b/a.png", "a-2.grad_cam.png", second))
    for file, picture, line in lines:
        pixels = model.prepare((photos / file).read_bytes()).numpy()
        confidence = model.probabilities(tf.constant(pixels[np.newaxis]))[0, 2]
        assert line.startswith(f"{photos}/{file}  cat {confidence:.1%}  {tmp_path}/{picture}")
        with Image.open(tmp_path / picture) as opened:
            expected = overlay(pixels, grad_cam(model.net, pixels[np.newaxis], [2])[0].numpy())
            np.testing.assert_allclose(np.asarray(opened, int), expected.astype(int), atol=1)


def test_without_a_class_the_likeliest_is_explained(workdir: str, photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    sources = [Source(str(photos / "a.png"))]
    (found,) = explain.explain(workdir=workdir, sources=sources, method="occlusion", out=str(tmp_path))
    model = classifier.load(workdir)
    probabilities = model.probabilities(model.prepare((photos / "a.png").read_bytes())[tf.newaxis])[0]
    assert found.label == shard_files.CLASSES[probabilities.argmax()]
    assert found.confidence == pytest.approx(probabilities.max())
    assert found.picture == f"{tmp_path}/a.occlusion.png"
    assert (tmp_path / "a.occlusion.png").exists()


def test_a_terminal_obeys_no_name() -> None:
    file = "\x1b]0;title\x07\n\udcff.jpg"
    seen = explain.Explained(file, "\x1b[31mant", 0.5, f"out/{file}.png", True, None)
    assert explain.as_line(seen) == r"\x1b]0;title\x07\n\xff.jpg  \x1b[31mant 50.0%  out/\x1b]0;title\x07\n\xff.jpg.png"
    assert r"\xff.jpg.png  (nothing" in explain.as_line(seen._replace(found=False))
    unread = seen._replace(error="unreadable: \x1b[2J")
    assert explain.as_line(unread) == r"\x1b]0;title\x07\n\xff.jpg  ! unreadable: \x1b[2J"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": "cta"}, "--class=cta: the model has no such class; the nearest: cat"),
        ({"layer": "block_3_expnd"}, "layer 'block_3_expnd': no layer .* block_3_expand"),
        ({"layer": "out_relu", "method": "occlusion"}, "--method=occlusion looks at no layer"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_written(
    workdir: str, photos: pathlib.Path, tmp_path: pathlib.Path, given: dict[str, str], message: str
) -> None:
    sources = [Source(str(photos / "a2.png"))]  # damaged, so that no work would find the mistake
    with pytest.raises(InputError, match=message):
        list(explain.explain(**{"workdir": workdir, "sources": sources, "out": str(tmp_path), **given}))
    assert not list(tmp_path.iterdir())
