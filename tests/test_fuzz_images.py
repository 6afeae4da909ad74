"""Damaged image files: only an `ImageError` or an (H, W, 3) uint8 array comes out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gluonface.errors import ImageError
from gluonface.image import load_image

FILES_A_KIND = 20
MAX_PIXELS = 4_000_000


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def originals() -> dict[str, bytes]:
    """A small file of every kind that is read."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((40, 30), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    clear = smooth.convert("RGBA")
    clear.putalpha(100)
    frames = [smooth, smooth.rotate(90), smooth.rotate(180)]
    return {
        "jpeg": encoded(smooth, "JPEG", exif=exif),
        "progressive jpeg": encoded(smooth, "JPEG", progressive=True, dpi=(72, 72)),
        "cmyk jpeg": encoded(smooth.convert("CMYK"), "JPEG"),
        "two jpegs in one": encoded(frames[0], "JPEG") + encoded(frames[1], "JPEG"),
        "png": encoded(smooth, "PNG", exif=exif, pnginfo=None),
        "palette png": encoded(smooth.quantize(16), "PNG", transparency=3),
        "16-bit png": encoded(Image.fromarray(rng.integers(0, 65536, (30, 40)).astype(np.uint16)), "PNG"),
        "animated png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "webp": encoded(clear, "WEBP", exif=exif),
        "lossless webp": encoded(smooth, "WEBP", lossless=True),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "bmp": encoded(smooth, "BMP"),
        "palette bmp": encoded(smooth.quantize(16), "BMP"),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }


ORIGINALS = originals()


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One file damaged in one of the ways files get damaged, the header more often than its share."""
    damaged = bytearray(data)
    kind = rng.integers(7)
    if kind == 0:  # bits flipped anywhere
        for at in rng.integers(0, len(data), rng.integers(1, 12)):
            damaged[at] ^= 1 << rng.integers(8)
    elif kind == 1:  # bytes of the header replaced
        for at in rng.integers(0, min(64, len(data)), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
    elif kind == 2:  # cut off
        del damaged[rng.integers(len(data)) :]
    elif kind == 3:  # a piece missing
        start = rng.integers(len(data))
        del damaged[start : start + rng.integers(1, 40)]
    elif kind == 4:  # a piece of another format inside
        start, length = rng.integers(len(data)), rng.integers(1, 200)
        damaged[start : start + length] = other[start : start + length]
    elif kind == 5:  # the header of another format
        length = rng.integers(2, 32)
        damaged[:length] = other[:length]
    else:  # the extremes of a field
        start = rng.integers(min(200, len(data)))
        damaged[start : start + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
    return bytes(damaged)


@pytest.mark.parametrize("kind", list(ORIGINALS))
def test_a_damaged_file_gives_an_image_error_or_an_image(kind):
    names = list(ORIGINALS)
    rng = np.random.default_rng(names.index(kind))
    outcomes = set()
    for _ in range(FILES_A_KIND):
        data = mutated(ORIGINALS[kind], ORIGINALS[names[rng.integers(len(names))]], rng)
        try:
            image = load_image(data, max_pixels=MAX_PIXELS)
        except ImageError as error:
            assert error.reason
            outcomes.add("error")
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
        outcomes.add("image")
    # The damage is worth the name, and not all of it is caught by the first bytes.
    assert "error" in outcomes


@pytest.mark.parametrize("kind", list(ORIGINALS))
def test_the_undamaged_file_is_an_image(kind):
    assert sorted(load_image(ORIGINALS[kind]).shape) == [3, 30, 40]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_image(seed):
    rng = np.random.default_rng(seed)
    with pytest.raises(ImageError):
        load_image(rng.bytes(int(rng.integers(0, 300))))
