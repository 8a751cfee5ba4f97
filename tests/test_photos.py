"""Any photo comes out upright, RGB, 8 bits; what is no photo is named in one sentence."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from conftest import exif
from PIL import Image, ImageFile

from foodseg.common.errors import DataError
from foodseg.data import photos
from foodseg.data.foodseg103 import FaultError, decode_mask_file
from foodseg.data.photos import read_photo

RED, BLUE = (200, 30, 40), (20, 60, 210)


def two_halves(width=40, height=20) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def near(photo, place, colour, by=40) -> bool:
    pixel = photo.image.getpixel(place)
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= by


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


# How a camera stores the upright picture, by EXIF's orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_turned_photo_comes_out_upright(tmp_path, orientation, suffix):
    upright = two_halves()
    upright.paste((250, 250, 0), (0, 0, 10, 5))  # top left, so that a mirrored one shows
    stored = upright.transpose(STORED[orientation]) if orientation > 1 else upright
    options = {"quality": 95} if suffix in ("jpg", "webp") else {}
    path = save(stored, tmp_path / f"a.{suffix}", exif=exif(orientation), **options)
    photo = read_photo(path)
    assert photo.image.size == (40, 20) and photo.image.mode == "RGB"
    assert (photo.orientation, photo.turned) == (orientation, orientation > 1)
    assert near(photo, (3, 2), (250, 250, 0))
    assert near(photo, (15, 15), RED) and near(photo, (35, 15), BLUE)
    again = photos.upright(photo.image)  # what was turned is not turned again
    assert again.image.size == (40, 20) and again.orientation == 1


def test_an_ordinary_photo_has_the_pixels_that_the_evaluation_reads(tmp_path):
    path = save(two_halves(), tmp_path / "a.jpg", quality=90)
    image = Image.open(path).convert("RGB")
    for photo in (path, io.BytesIO(path.read_bytes())):
        assert np.array_equal(read_photo(photo).image, image)


def test_transparent_pixels_are_white_whatever_lies_under_them(tmp_path):
    image = two_halves().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[0, 255]], 20, 1).repeat(20, 0).astype(np.uint8)))
    palette = two_halves().quantize(4)
    palette.info["transparency"] = palette.getpixel((5, 5))
    for one, by in ((image, 0), (palette, 12)):
        photo = read_photo(save(one, tmp_path / "a.png"))
        assert near(photo, (5, 5), (255, 255, 255), 0) and near(photo, (30, 5), BLUE, by)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK"])
def test_other_colours_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    photo = read_photo(save(two_halves().convert(mode), tmp_path / f"a.{suffix}"))
    assert photo.image.mode == "RGB" and photo.image.size == (40, 20)
    if mode == "CMYK":
        assert near(photo, (5, 5), RED) and near(photo, (35, 5), BLUE)


def test_one_pixel_is_a_photo_and_sixteen_bits_are_scaled_not_cut(tmp_path):
    grey = np.full((1, 1), 128 * 257, dtype=np.uint16)
    photo = read_photo(save(Image.fromarray(grey), tmp_path / "a.png")).image
    assert photo.size == (1, 1) and photo.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    photo = read_photo(save(two_halves(), tmp_path / "a.jpg", exif=exif(orientation)))
    assert photo.image.size == (40, 20) and not photo.turned


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("place", [0, 2, 4, 8])
def test_damaged_exif_kills_no_photo(tmp_path, suffix, place):
    whole = exif(6).tobytes()
    damaged = whole[: 6 + place].ljust(len(whole), b"\xff")
    photo = read_photo(save(two_halves(), tmp_path / f"a.{suffix}", exif=damaged))
    assert photo.image.size == (40, 20) and not photo.turned and near(photo, (5, 5), RED)


def test_what_is_no_photo_is_named_with_its_fix(tmp_path):
    whole = save(two_halves(400, 400), tmp_path / "whole.png").read_bytes()
    for name, content, words in (
        ("none.jpg", None, "no such file"),
        (".", None, "a folder"),
        ("a.jpg", b"not a photo", "JPEG or PNG"),
        ("empty.png", b"", "JPEG or PNG"),
        ("cut.png", whole[: len(whole) // 2], "save it again"),
        ("floats.tif", Image.new("F", (2, 2)), "floating-point"),
    ):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content:
            content.save(path)
        with pytest.raises(DataError, match=words) as fault:
            read_photo(path)
        assert str(path) in str(fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "error",
    [struct.error("x"), KeyError("x"), IndexError("x"), zlib.error("x"), EOFError("x")]
    + [RuntimeError("x"), OverflowError("x"), AttributeError("x"), AssertionError("x")]
    + [SystemError("x"), MemoryError("x")],
    ids=repr,
)
def test_whatever_a_plugin_raises_names_the_file(tmp_path, monkeypatch, error):
    path = save(two_halves(), tmp_path / "a.png")

    def load(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(DataError, match=r"a.png: it can't be read \('?x'?\); save it again"):
        read_photo(path)
    with pytest.raises(FaultError, match="a.png, pixels: unreadable mask; it can't be read"):
        decode_mask_file(path.read_bytes(), "a.png")


def test_one_flipped_bit_of_an_avif_is_read_or_named(tmp_path):
    whole = save(two_halves(), tmp_path / "a.avif").read_bytes()
    outcomes = Counter()
    for bit in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file = io.BytesIO(flipped)
        file.name = "a.avif"
        try:
            outcomes[read_photo(file).image.mode] += 1
        except DataError:
            outcomes["refused"] += 1
    assert outcomes.keys() == {"RGB", "refused"}


def test_formats_are_named_and_no_other_program_is_started(tmp_path):
    for suffix in ("jpg", "png", "webp", "avif", "gif", "bmp", "tif", "jp2", "ppm"):
        assert read_photo(save(two_halves(), tmp_path / f"a.{suffix}")).image.size == (40, 20)
    for suffix in ("eps", "ico", "tga"):
        with pytest.raises(DataError, match="JPEG or PNG"):
            read_photo(save(two_halves(), tmp_path / f"a.{suffix}"))


def test_a_photo_without_end_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(two_halves(60, 60), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert read_photo(path).image.size == (60, 60)  # only warned of by Pillow, and not even that
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="scale it down"):
        read_photo(path)
