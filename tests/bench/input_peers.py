"""Photos in, endless float32 batches of 32 at 224 of random crops out: the pipelines that need no TensorFlow.

As a command it writes the photos in these pipelines' formats: PEERS -m tests.bench.input_peers FOLDER OUTPUT.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.bench import data
from tests.bench.input_data import Photos
from tests.bench.input_window import BATCH, SIDE

_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
_SHARDS = 8
_SHUFFLED = 1000
_SEED = 42


def pytorch(photos: Photos, workers: int) -> Iterator[Any]:
    """The whole of torchvision's usual recipe, but for scaling to 0..1; uint8 between the processes, which is less."""
    import torch
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    folder = ImageFolder(str(photos.folder), transform=_torchvision())
    loader = torch.utils.data.DataLoader(
        folder, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for images, _ in loader:
            yield images.float()


def webdataset(photos: Photos, workers: int) -> Iterator[Any]:
    import torch
    import webdataset as wds

    torch.set_num_threads(1)
    shards = sorted(map(str, photos.peers.glob("*.tar")))
    examples = wds.WebDataset(shards, shardshuffle=_SHARDS).shuffle(_SHUFFLED).decode("pil").to_tuple("jpg", "cls")
    batched = examples.map_tuple(_torchvision(), int).repeat().batched(BATCH, partial=False)
    for images, _ in wds.WebLoader(batched, batch_size=None, num_workers=workers):
        yield images.float()


def grain(photos: Photos, workers: int) -> Iterator[Any]:
    """OpenCV decodes and scales, which is faster than Pillow; 0 workers are two threads in this process."""
    import cv2
    import grain.python as grain_lib

    cv2.setNumThreads(1)
    source = grain_lib.ArrayRecordDataSource(sorted(map(str, photos.peers.glob("*.array_record"))))
    crops = grain_lib.MapDataset.source(source).shuffle(seed=_SEED).repeat().seed(_SEED).random_map(_opencv)
    threads = grain_lib.ReadOptions(num_threads=1 if workers else 2)
    batches = crops.batch(BATCH, drop_remainder=True).to_iter_dataset(threads)
    if workers:
        batches = batches.mp_prefetch(grain_lib.MultiprocessingOptions(num_workers=workers))
    for images in batches:
        yield images.astype(np.float32)


def dali(photos: Photos, workers: int) -> Iterator[Any]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None, seed=_SEED)
    def crops() -> Any:
        encoded, _ = fn.readers.file(file_root=str(photos.folder), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            encoded, device="cpu", random_area=list(_AREA), random_aspect_ratio=list(_ASPECT), num_attempts=10
        )
        images = fn.resize(images, size=[SIDE, SIDE], interp_type=types.INTERP_LINEAR, antialias=False)
        mirrored = fn.random.coin_flip()
        return fn.crop_mirror_normalize(
            images, mirror=mirrored, dtype=types.FLOAT, output_layout="HWC", mean=[0.0] * 3, std=[1.0] * 3
        )

    pipe = crops()
    pipe.build()
    while True:
        (images,) = pipe.run()
        yield np.asarray(images.as_tensor())


def ffcv_jpeg(photos: Photos, workers: int) -> Iterator[Any]:
    return _ffcv(photos.peers / "jpg.beton", workers)


def ffcv_raw(photos: Photos, workers: int) -> Iterator[Any]:
    return _ffcv(photos.peers / "raw.beton", workers)


def _ffcv(path: pathlib.Path, workers: int) -> Iterator[Any]:
    import torch
    from ffcv import transforms
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    torch.set_num_threads(1)
    decoder = RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=_AREA, ratio=_ASPECT)
    crops = [decoder, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.ToTorchImage()]
    loader = Loader(
        str(path),
        batch_size=BATCH,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": crops, "label": [IntDecoder(), transforms.ToTensor()]},
    )
    while True:
        for images, _ in loader:
            yield images.float()


def _torchvision() -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(SIDE, _AREA, _ASPECT), v2.RandomHorizontalFlip(), v2.PILToTensor()])


def _opencv(example: bytes, rng: np.random.Generator) -> np.ndarray:
    import cv2

    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(example, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    top, left, height, width = box(image.shape[0], image.shape[1], rng)
    crop = cv2.resize(image[top : top + height, left : left + width], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A crop as (top, left, height, width), drawn as TensorFlow's sample_distorted_bounding_box documents and does.

    Of the heights that a drawn aspect ratio leaves each is as frequent, which makes boxes smaller than Inception's, of
    which each area is: 0.37 of a photo of 384x512 on average, where torchvision's cover 0.43.
    """
    for _ in range(10):
        aspect = rng.uniform(*_ASPECT)
        least, most = ((share * height * width / aspect) ** 0.5 for share in _AREA)
        least, most = round(least), min(round(most), height, int(width / aspect))
        if least <= most:
            down = int(rng.integers(least, most + 1))
            across = min(round(down * aspect), width)
            return int(rng.integers(height - down + 1)), int(rng.integers(width - across + 1)), down, across
    return 0, 0, height, width


def _write(folder: pathlib.Path, output: pathlib.Path) -> None:
    names = data.files(folder)
    np.random.default_rng(_SEED).shuffle(names)
    classes = sorted({name.partition("/")[0] for name in names})
    examples = [((folder / name).read_bytes(), classes.index(name.partition("/")[0])) for name in names]
    for shard in range(_SHARDS):
        _write_shards(output, shard, examples[shard::_SHARDS])
    try:
        for mode in ("jpg", "raw"):
            _write_beton(output / f"{mode}.beton", mode, examples)
    except ImportError as error:
        print(f"left out: FFCV's files: {error}", file=sys.stderr)


def _write_shards(output: pathlib.Path, shard: int, examples: list[tuple[bytes, int]]) -> None:
    import webdataset as wds
    from array_record.python.array_record_module import ArrayRecordWriter

    with wds.TarWriter(str(output / f"{shard}.tar")) as tar:
        for index, (image, label) in enumerate(examples):
            tar.write({"__key__": f"{shard}-{index:05d}", "jpg": image, "cls": label})
    writer = ArrayRecordWriter(str(output / f"{shard}.array_record"), "group_size:1")
    for image, _ in examples:
        writer.write(image)
    writer.close()


def _write_beton(path: pathlib.Path, mode: str, examples: list[tuple[bytes, int]]) -> None:
    from ffcv.fields import IntField, RGBImageField, rgb_image
    from ffcv.writer import DatasetWriter
    from PIL import Image

    def pixels(image: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))

    # FFCV encodes every photo anew, which would make its files another size than the others'.
    originals = {_digest(pixels(image)): image for image, _ in examples} if mode == "jpg" else {}
    rgb_image.encode_jpeg = lambda image, quality: np.frombuffer(originals[_digest(image)], np.uint8)

    class Photographs:
        def __len__(self) -> int:
            return len(examples)

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return pixels(examples[index][0]), examples[index][1]

    fields = {"image": RGBImageField(write_mode=mode), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Photographs())


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


if __name__ == "__main__":
    _write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
