"""The one door for images: a path, bytes or an array becomes (H, W, 3) uint8 RGB, or an `ImageError` says why not.

JPEG, PNG, WebP, BMP and GIF. The rotation written in EXIF is applied, transparency is laid on white, 16 bits are scaled
to 8, an animation gives its first frame. Size limits are checked from the header, before anything is decoded.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from .errors import ImageError
from .files import write_atomically

__all__ = ["IMAGE_SUFFIXES", "MAX_BYTES", "MAX_PIXELS", "encode_image", "iter_image_files", "load_image", "save_image"]

MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 2**20

# Suffix -> format to write; the same suffixes make a file of a folder an image.
_SUFFIX_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
}
IMAGE_SUFFIXES = tuple(_SUFFIX_FORMATS)


class _JpegReader(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self):
        """Pillow looks for the print resolution in EXIF and warns when that is damaged; nobody asks for it here."""


# Pillow's readers are called directly: Image.open would try every plugin installed, and its decompression-bomb check is
# a process-wide setting that another library may have changed, while the limit here is an argument.
_READERS = (
    (b"\xff\xd8", _JpegReader),  # MPO of phones, too: its first picture is a plain JPEG
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
)
# What people take for one of the above. Offset, bytes, name.
_NOT_READ = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"version https://git-lfs", "a Git LFS pointer"),
)
# EXIF orientation -> what undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    source: str | os.PathLike | bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Read one image.

    Parameters
    ----------
    source : path, bytes or array
        A file, an encoded image in memory, or pixels: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16
        (scaled to 8 bits) or floating point in [0, 1]. An (H, W, 3) uint8 array is returned as it is, not copied.
    max_pixels : int
        Largest width times height.
    max_bytes : int
        Largest encoded size.

    Returns
    -------
    (H, W, 3) uint8 RGB array.

    Raises
    ------
    ImageError
        Missing, a folder, not readable, not an image, truncated, damaged, too large; its attributes `source` and
        `reason` say which and why.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        name = f"<{len(data)} bytes>"
        if len(data) > max_bytes:
            raise ImageError(name, f"more than the {max_bytes} bytes allowed (max_bytes)")
    elif isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        data = _read_file(name, max_bytes)
    else:
        raise ImageError(f"<{type(source).__name__}>", "expected a path, bytes or a NumPy array")
    return _decode(data, name, max_pixels)


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "is a folder, not an image file")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise ImageError(path, "is not a regular file")
        if status.st_size > max_bytes:
            raise ImageError(path, f"{status.st_size} bytes, more than the {max_bytes} allowed (max_bytes)")
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except PermissionError as error:
        raise ImageError(path, "no permission to read it") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero character in the name
        raise ImageError(path, f"cannot be read: {error}") from error
    if len(data) > max_bytes:  # a pipe has no size to ask for
        raise ImageError(path, f"more than the {max_bytes} bytes allowed (max_bytes)")
    return data


def _decode(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    if not data:
        raise ImageError(name, "is empty")
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is WebPImagePlugin.WebPImageFile:
        if data[8:12] != b"WEBP":
            reader = None
        else:
            # Pillow allocates the whole canvas of a WebP when it opens one.
            _check_pixels(name, _webp_size(data), max_pixels)
    if reader is None:
        looks = "".join(f" (it looks like {what})" for at, magic, what in _NOT_READ if data.startswith(magic, at))
        raise ImageError(name, f"is not an image of a format read here (JPEG, PNG, WebP, BMP, GIF){looks}")
    try:
        with _complete_or_error(), reader(io.BytesIO(data)) as image:
            _check_pixels(name, image.size, max_pixels)
            image.load()
            return _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:
        # On damaged data Pillow raises whatever its parsers stumble over, from SyntaxError to MemoryError.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, f"is damaged or truncated: {reason}") from error


_switch_lock = threading.Lock()
_switch_users = 0
_switch_was = False


@contextlib.contextmanager
def _complete_or_error() -> Iterator[None]:
    """Turn Pillow's ``LOAD_TRUNCATED_IMAGES`` off while images are read here.

    It is a switch of the whole process, and importing GluonCV turns it on: half a photo would come out as a grey one,
    without a word. Threads may be here together: the first saves the switch, the last sets it back.
    """
    global _switch_users, _switch_was
    with _switch_lock:
        if _switch_users == 0:
            _switch_was, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _switch_users += 1
    try:
        yield
    finally:
        with _switch_lock:
            _switch_users -= 1
            if _switch_users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _switch_was


def _check_pixels(name: str, size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            name,
            f"{size[0]} x {size[1]} is {size[0] * size[1]} pixels, more than the {max_pixels} allowed (max_pixels)",
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a WebP (RFC 9649, sections 2.5 to 2.7); None where it is cut short or odd."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a loaded Pillow image of any mode, upright."""
    upright = _UPRIGHT.get(_exif_orientation(image.info.get("exif")))
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        pixels = np.asarray(image).astype(np.int64)
        image = Image.fromarray(_sixteen_to_eight(np.clip(pixels, 0, 65535)))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = _on_white(image.convert("RGBA"))
    image = image.convert("RGB")
    if upright is not None:
        image = image.transpose(upright)
    return np.array(image)


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _sixteen_to_eight(pixels: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded: 65535 / 255 is exactly 257."""
    return ((pixels.astype(np.int64) + 128) // 257).astype(np.uint8)


def _exif_orientation(exif) -> int:
    """Tag 0x0112 of the first directory, 1 (upright) where there is none or the block is damaged.

    Read by hand because a photo with damaged EXIF is still a photo, while Pillow's reader warns or raises on it.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == 0x0112:
                return value if kind == 3 else 1
    except struct.error:
        return 1
    return 1


def _from_array(array: np.ndarray, max_pixels: int) -> np.ndarray:
    name = f"<array {array.shape} {array.dtype}>"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(name, "expected shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA")
    if array.size == 0:
        raise ImageError(name, "has no pixels")
    _check_pixels(name, (array.shape[1], array.shape[0]), max_pixels)
    if array.dtype == np.uint16:
        array = _sixteen_to_eight(array)
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also catches NaN
            raise ImageError(name, f"expected floating point pixels in [0, 1], got {array.min()} to {array.max()}")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(name, "expected uint8, uint16 or floating point in [0, 1]")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    elif array.shape[2] == 4:
        array = np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(array))))
    return np.ascontiguousarray(array)


def encode_image(image: np.ndarray, format: str = "PNG", quality: int = 95) -> bytes:
    """An image (anything `load_image` takes as an array) as the bytes of a JPEG, PNG, WEBP, BMP or GIF file.

    `quality` is for JPEG and WebP.
    """
    pixels = load_image(image)
    buffer = io.BytesIO()
    options = {"quality": quality} if format in ("JPEG", "WEBP") else {}
    try:
        Image.fromarray(pixels).save(buffer, format=format, **options)
    except (OSError, ValueError, KeyError, struct.error) as error:
        # An unknown format, or a side longer than the format allows.
        raise ImageError(f"<array {image.shape} {image.dtype}>", f"cannot be written as {format}: {error}") from error
    return buffer.getvalue()


def save_image(path: str | os.PathLike, image: np.ndarray, quality: int = 95) -> None:
    """Write an image to a file, all or nothing; its suffix says the format (.jpg, .png, .webp, .bmp, .gif).

    Raises
    ------
    ImageError
        Unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    format = _SUFFIX_FORMATS.get(path.suffix.lower())
    if format is None:
        raise ImageError(str(path), f"expected one of the suffixes {', '.join(IMAGE_SUFFIXES)} to write an image")
    data = encode_image(image, format, quality)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ImageError(str(path), f"cannot be written: {error}") from error


def iter_image_files(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """The image files that files, folders and glob patterns name, each once, in the order given.

    A folder gives all files below it with one of `IMAGE_SUFFIXES`, sorted by path; hidden ones are left out. A named
    file is kept whatever its suffix, and so is one that does not exist: `load_image` then says so.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[str, None] = {}
    for path in map(os.fsdecode, paths):
        if Path(path).is_dir():
            found.update(dict.fromkeys(_folder_images(path)))
        elif glob.has_magic(path) and not Path(path).exists():
            # Path.glob takes no absolute pattern.
            matches = sorted(match for match in glob.glob(path, recursive=True) if Path(match).is_file())  # noqa: PTH207
            found.update(dict.fromkeys(matches or [path]))
        else:
            found[path] = None
    return list(found)


def _folder_images(folder: str) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [
            str(Path(parent, name))
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(files)
