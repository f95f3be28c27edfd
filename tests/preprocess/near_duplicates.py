"""Pictures with known near-duplicates: real photos where they are, else made here, and copies of a few of them."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import random
import tarfile
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from preprocess import similarity

RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
MIRRORED = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
TURNED = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
SINGLE = ("resized", "recompressed", "mirrored", "turned", "cropped", "brightened")
KINDS = (*SINGLE, "cropped, mirrored", "cropped, turned", "resized, cropped", "turned, recompressed")


@dataclasses.dataclass(frozen=True)
class Planted:
    kind: str
    original: int  # index of the photo
    jpeg: bytes


def resized(image: Image.Image, chance: random.Random) -> Image.Image:
    scale = chance.uniform(0.5, 1.5)
    return image.resize((round(image.width * scale), round(image.height * scale)), chance.choice(RESAMPLING))


def recompressed(image: Image.Image, chance: random.Random) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(image, chance.randint(40, 90)))).convert("RGB")


def mirrored(image: Image.Image, chance: random.Random) -> Image.Image:
    return image.transpose(chance.choice(MIRRORED))


def turned(image: Image.Image, chance: random.Random) -> Image.Image:
    return image.transpose(chance.choice(TURNED))


def cropped(image: Image.Image, chance: random.Random) -> Image.Image:
    left, top, right, bottom = (chance.uniform(0, 0.05) for _ in range(4))
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(width - right * width), round(height - bottom * height))
    )


def brightened(image: Image.Image, chance: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(
        chance.choice((chance.uniform(0.85, 0.95), chance.uniform(1.05, 1.15)))
    )


def plant(photos: Sequence[bytes], count: int, seed: int) -> list[Planted]:
    """Copies of `count` different photos, each changed in one of `KINDS`, as many of each kind."""
    chance = random.Random(seed)
    copies = []
    for number, original in enumerate(chance.sample(range(len(photos)), count)):
        kind = KINDS[number % len(KINDS)]
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(photos[original]))).convert("RGB")
        for manner in kind.split(", "):
            image = globals()[manner](image, chance)
        copies.append(Planted(kind, original, jpeg(image, 90)))
    return copies


def jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def made_photos(count: int, seed: int) -> list[bytes]:
    """Blurred noise, less of it the finer it is, as in photos."""
    chance = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        image = np.zeros((160, 200, 3))
        for radius, strength in ((40, 1.0), (15, 0.5), (5, 0.2), (2, 0.05)):
            noise = Image.fromarray(chance.integers(0, 256, (160, 200, 3), np.uint8)).filter(
                ImageFilter.GaussianBlur(radius)
            )
            pixels = np.asarray(noise, float)
            image += strength * (pixels - pixels.mean()) / pixels.std()
        photos.append(jpeg(Image.fromarray(np.clip(128 + 40 * image, 0, 255).astype(np.uint8)), 92))
    return photos


def real_photos(archive: pathlib.Path) -> dict[str, bytes]:
    """The files of a tar archive by name, in the order of names."""
    with tarfile.open(archive) as files:
        found = {member.name: files.extractfile(member) for member in files if member.isfile()}
        return {name: stream.read() for name, stream in sorted(found.items()) if stream and "/." not in name}


def preview(data: bytes) -> np.ndarray:
    """Upright RGB, 64 to 127 pixels on the shorter side."""
    image = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.reduce(max(1, min(upright.size) // 64)))


def hashed(data: bytes) -> tuple[bytes, int]:
    return similarity.perceptual_hash(preview(data))
