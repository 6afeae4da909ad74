"""The one door for images: what comes through, and what is turned away with which words."""

from __future__ import annotations

import io
import os
import socket
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin

from gluonface.errors import ImageError
from gluonface.image import encode_image, iter_image_files, load_image, save_image

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF"]


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def quadrants(width=60, height=40) -> np.ndarray:
    """Red, green / blue, white: every mirror and turn looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    image[height // 2 :, width // 2 :] = 255
    return image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height, depth=8, colour=2) -> bytes:
    """A PNG of that size with nothing in it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def why(source, **options) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)
    assert str(caught.value) == f"{caught.value.source}: {caught.value.reason}"
    return caught.value.reason


# What comes through


@pytest.mark.parametrize("format", FORMATS)
def test_red_is_red_in_every_format(format, tmp_path):
    red = np.zeros((32, 48, 3), np.uint8)
    red[..., 0] = 255
    data = encode_image(red, format)
    (tmp_path / "photo").write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), tmp_path / "photo", str(tmp_path / "photo")):
        image = load_image(source)
        assert image.shape == (32, 48, 3)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_formats_without_loss_give_every_pixel_back(format):
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_image(encode_image(image, format)), image)


@pytest.mark.parametrize("format", FORMATS)
def test_grey_becomes_three_equal_channels(format):
    image = load_image(encoded(Image.new("L", (20, 10), 77), format))
    assert image.shape == (10, 20, 3)
    assert np.abs(image.astype(int) - 77).max() <= 2


def test_black_and_white_bits_become_0_and_255():
    image = load_image(encoded(Image.fromarray(np.eye(9, dtype=bool))))
    np.testing.assert_array_equal(image[..., 1], np.eye(9, dtype=np.uint8) * 255)


@pytest.mark.parametrize(("mode", "format"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG")])
def test_what_is_transparent_lies_on_white(mode, format):
    pixels = np.zeros((16, 30, 4), np.uint8)
    pixels[:, 10:20, 3] = 128
    pixels[:, 20:, 3] = 255
    image = load_image(
        encoded(Image.fromarray(pixels).convert(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    )
    assert (image[:, :10] == 255).all()
    assert np.abs(image[:, 10:20].astype(int) - 127).max() <= 1
    assert (image[:, 20:] == 0).all()


def test_a_palette_is_looked_up_and_its_transparent_colour_lies_on_white():
    image = Image.new("P", (20, 10), 0)
    image.putpalette([10, 20, 30, 255, 0, 0])
    image.paste(1, (10, 0, 20, 10))
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(load_image(encoded(image, format))[0, [0, 19]], [[10, 20, 30], [255, 0, 0]])
        clear = load_image(encoded(image, format, transparency=0))
        np.testing.assert_array_equal(clear[0, [0, 19]], [[255, 255, 255], [255, 0, 0]])


@pytest.mark.parametrize(("mode", "key"), [("RGB", (9, 8, 7)), ("L", 9)])
def test_a_colour_declared_transparent_lies_on_white(mode, key):
    image = Image.new(mode, (6, 4), key)
    image.paste(0, (3, 0, 6, 4))
    loaded = load_image(encoded(image, "PNG", transparency=key))
    np.testing.assert_array_equal(loaded[0, [0, 5]], [[255, 255, 255], [0, 0, 0]])


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    for source in (encoded(Image.fromarray(ramp)), ramp):
        np.testing.assert_array_equal(load_image(source)[0, :, 0], np.arange(256))


def test_sixteen_bit_colour_is_scaled_and_not_clipped():
    row = np.array([[0, 0x4000, 0xFFFF], [0x8000, 0xFFFF, 0x0101]], ">u2")
    body = png_chunk(b"IDAT", zlib.compress(b"\0" + row.tobytes()))
    data = png_header(2, 1, depth=16)
    image = load_image(data[:33] + body + png_chunk(b"IEND", b""))
    assert np.abs(image[0].astype(int) - [[0, 64, 255], [128, 255, 1]]).max() <= 1


def test_cmyk_is_neither_swapped_nor_inverted():
    cmyk = Image.fromarray(quadrants()).convert("CMYK")
    image = load_image(encoded(cmyk, "JPEG", quality=95))
    for y, x, colour in ((8, 10, (255, 0, 0)), (8, 50, (0, 255, 0)), (32, 10, (0, 0, 255)), (32, 50, (255, 255, 255))):
        assert np.abs(image[y, x].astype(int) - colour).max() <= 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_in_exif_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x010F] = "some maker"
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(quadrants()), format, exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = load_image(data)
    assert image.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    np.testing.assert_array_equal(image, expected)


def test_orientation_6_turns_the_left_side_up():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(Image.fromarray(quadrants()), "JPEG", exif=exif))
    assert np.abs(image[3, 36].astype(int) - (255, 0, 0)).max() < 9  # the top left corner is at the top right now


def test_big_endian_exif_is_read_and_damaged_exif_does_no_harm():
    pixels = Image.fromarray(quadrants())
    big = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"
    assert load_image(encoded(pixels, "JPEG", exif=b"Exif\0\0" + big)).shape == (60, 40, 3)
    with warnings.catch_warnings():
        if hasattr(JpegImagePlugin.JpegImageFile, "_read_dpi_from_exif"):  # an older Pillow cannot be kept from it
            warnings.simplefilter("error")
        for block in (big[:12], big[:19], b"", b"II*\0\xff\xff\xff\x7f", b"junk", big.replace(b"\x06", b"\x63")):
            assert load_image(encoded(pixels, "JPEG", exif=b"Exif\0\0" + block)).shape == (40, 60, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(load_image(data)[4, 8].astype(int) - (255, 0, 0)).max() <= 3


def test_a_photo_of_several_pictures_from_a_phone_gives_the_first():
    Image.init()
    if "MPO" not in Image.SAVE_ALL:
        pytest.skip("this Pillow writes no MPO")
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(load_image(data)[4, 8].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (8000, 10)])
@pytest.mark.parametrize("format", FORMATS)
def test_degenerate_sizes_are_images(size, format):
    assert load_image(encoded(Image.new("RGB", size, "red"), format)).shape == (size[1], size[0], 3)


# Arrays


def test_an_rgb_array_comes_back_uncopied():
    image = quadrants()
    assert load_image(image) is image or np.shares_memory(load_image(image), image)


def test_arrays_of_other_layouts_become_rgb():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(load_image(grey), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(load_image(grey[..., None]), np.stack([grey] * 3, axis=-1))
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, :, 3] = 255
    np.testing.assert_array_equal(load_image(clear)[:, 0, 0], [0, 255])
    np.testing.assert_array_equal(load_image(quadrants()[:, ::-1]), quadrants()[:, ::-1])
    assert load_image(quadrants()[::2, ::-1]).flags.c_contiguous


def test_floating_point_in_0_1_is_scaled():
    values = np.array([[0, 0.5, 1]])
    assert load_image(values)[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(values.astype(np.float16)).dtype == np.uint8


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), "expected shape"),
        (np.zeros(5, np.uint8), "expected shape"),
        (np.zeros((2, 3, 4, 4), np.uint8), "expected shape"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), bool), "expected uint8, uint16 or floating point"),
        (np.zeros((4, 4), np.int64), "expected uint8, uint16 or floating point"),
        (np.full((4, 4), 200.0), r"floating point pixels in \[0, 1\], got 200.0 to 200.0"),
        (np.full((4, 4), np.nan), r"floating point pixels in \[0, 1\]"),
        (np.full((4, 4), -0.1), r"floating point pixels in \[0, 1\]"),
        (np.array([["a", "b"]]), "expected uint8"),
        (np.array([[None]]), "expected uint8"),
    ],
)
def test_arrays_that_are_no_image_are_turned_away(array, says):
    with pytest.raises(ImageError, match=says) as caught:
        load_image(array)
    assert str(array.shape) in caught.value.source


# What is turned away


def test_files_that_are_not_there_or_not_files_say_so(tmp_path):
    assert why(tmp_path / "nothing.jpg") == "no such file"
    assert why(tmp_path) == "is a folder, not an image file"
    assert why(tmp_path / "a\0b").startswith("cannot be read")
    assert why("x" * 5000).startswith("cannot be read")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert why(tmp_path / "s") == "is not a regular file"


def test_the_error_names_the_file(tmp_path):
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "nothing.jpg")
    assert caught.value.source == str(tmp_path / "nothing.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode_image(quadrants()))
    path.chmod(0)
    assert why(path) == "no permission to read it"


def test_a_denied_file_says_so(tmp_path, monkeypatch):
    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.png"
    path.write_bytes(encode_image(quadrants()))
    monkeypatch.setattr("pathlib.Path.open", deny)
    assert why(path) == "no permission to read it"


def test_empty_and_foreign_data_say_what_they_are(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert why(tmp_path / "empty.jpg") == "is empty"
    assert why(b"hello, this is text").startswith("is not an image of a format read here")
    assert why(b"RIFF\0\0\0\0WAVEfmt ").startswith("is not an image of a format read here")
    assert why(encoded(Image.new("RGB", (8, 8)), "TIFF")).endswith("(it looks like TIFF)")
    assert why(b"\0\0\0\x1cftypheic").endswith("(it looks like HEIC)")
    assert why(b"version https://git-lfs.github.com/spec/v1\n").endswith("(it looks like a Git LFS pointer)")


def test_things_that_are_no_source_say_what_was_expected():
    assert why(None) == "expected a path, bytes or a NumPy array"
    assert why([1, 2]) == "expected a path, bytes or a NumPy array"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_no_image(format, part):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode_image(noise, format)
    assert why(data[: int(len(data) * part)])


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_no_image_although_gluoncv_switches_pillow_to_accept_it(format, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode_image(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), format)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(why, [data[: int(len(data) * part)] for part in np.linspace(0.1, 0.9, 20)]))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # as it was found


def test_a_truncated_photo_says_so():
    data = encode_image(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    assert why(data[: len(data) // 2]).startswith("is damaged or truncated: image file is truncated")


# Limits


def test_the_pixel_limit_is_settable_and_names_the_size():
    data = encode_image(np.zeros((30, 40, 3), np.uint8))
    assert load_image(data, max_pixels=1200).shape == (30, 40, 3)
    assert why(data, max_pixels=1199) == "40 x 30 is 1200 pixels, more than the 1199 allowed (max_pixels)"
    assert "allowed (max_pixels)" in why(np.zeros((30, 40, 3), np.uint8), max_pixels=1199)


def test_the_byte_limit_holds_for_files_bytes_and_pipes(tmp_path):
    data = encode_image(quadrants())
    (tmp_path / "photo.png").write_bytes(data)
    assert load_image(tmp_path / "photo.png", max_bytes=len(data)).shape == (40, 60, 3)
    for source in (tmp_path / "photo.png", data):
        assert "allowed (max_bytes)" in why(source, max_bytes=len(data) - 1)
    for limit in (len(data), len(data) - 1):
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        try:
            if limit == len(data):
                assert load_image(f"/dev/fd/{reading}", max_bytes=limit).shape == (40, 60, 3)
            else:
                assert "allowed (max_bytes)" in why(f"/dev/fd/{reading}", max_bytes=limit)
        finally:
            os.close(reading)


def vp8x(width, height) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a"
        + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0)
        + b"\x08\0;",
        b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 60_000, 60_000, 3) + b"\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\2",
        vp8x(60_000, 60_000),
        b"RIFF\x20\0\0\0WEBPVP8L\x10\0\0\0\x2f" + (16_383 | 16_383 << 14).to_bytes(4, "little") + b"\0" * 20,
        b"RIFF\x20\0\0\0WEBPVP8 \x10\0\0\0\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + b"\0" * 20,
    ],
    ids=["png", "bmp", "gif", "jpeg", "webp", "webp lossless", "webp lossy"],
)
def test_a_small_file_that_declares_a_huge_image_is_refused_before_decoding(data):
    import tracemalloc

    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "allowed (max_pixels)" in why(data)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_pillows_own_limit_does_not_interfere(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in FORMATS:
            assert load_image(encode_image(quadrants(), format)).shape == (40, 60, 3)


# Writing


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif"])
def test_a_saved_image_comes_back(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    save_image(path, quadrants())
    assert np.abs(load_image(path).astype(int) - quadrants()).mean() < 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unknown_suffix_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ImageError, match="expected one of the suffixes"):
        save_image(tmp_path / "photo.tiff", quadrants())
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    save_image(path, quadrants())
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ImageError, match=r"cannot be written.*No space left"):
        save_image(path, np.zeros((5, 5, 3), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_writing_into_a_missing_folder_or_a_format_too_small_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="cannot be written"):
        save_image(tmp_path / "no" / "photo.png", quadrants())
    with pytest.raises(ImageError, match="cannot be written as WEBP"):
        encode_image(np.zeros((1, 20_000, 3), np.uint8), "WEBP")
    with pytest.raises(ImageError, match="cannot be written as XYZ"):
        encode_image(quadrants(), "XYZ")


# Listing


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/deep/d.bmp", ".git/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(folder, found):
    return [os.path.relpath(path, folder) for path in found]


def test_a_folder_gives_its_images_sorted_with_those_below(folder):
    assert names(folder, iter_image_files(folder)) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.bmp"]


def test_a_pattern_gives_what_it_matches(folder):
    assert names(folder, iter_image_files([f"{folder}/*.*"])) == ["a.PNG", "b.jpg", "notes.txt"]
    assert names(folder, iter_image_files([f"{folder}/**/*.webp"])) == ["sub/c.webp"]


def test_named_files_are_kept_in_order_and_once(folder):
    paths = [folder / "notes.txt", str(folder / "b.jpg"), folder, folder / "missing.jpg", folder / "*.nothing"]
    assert names(folder, iter_image_files(paths)) == [
        "notes.txt",
        "b.jpg",
        "a.PNG",
        "sub/c.webp",
        "sub/deep/d.bmp",
        "missing.jpg",
        "*.nothing",
    ]


def test_a_file_named_like_a_pattern_is_that_file(tmp_path):
    (tmp_path / "photo[1].jpg").write_bytes(b"x")
    assert names(tmp_path, iter_image_files(tmp_path / "photo[1].jpg")) == ["photo[1].jpg"]
