"""What a file says of how its pixels are to be seen: crops, their shape; and damage that decoders pass over."""

from __future__ import annotations

import random
import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as sk_data

from strsr_cli.images.codecs.avif import read_aperture
from strsr_cli.images.codecs.jpeg_damage import is_damaged
from strsr_cli.images.codecs.png import chunk
from strsr_cli.images.read import decode_image, read_image, read_size
from strsr_models import ImageError

from ..helpers.avif_files import avif_with

PHOTO = np.ascontiguousarray(sk_data.astronaut()[:120, :141])


def saved(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


# --- crops and shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_avif_is_cropped_before_it_is_turned(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    whole = saved(PHOTO, "AVIF", quality=97, exif=exif)
    # 100x60 px whose centre lies 10.5 px to the left of the image's, and 5 px below.
    data = avif_with(whole, b"clap", struct.pack(">8i", 100, 1, 60, 1, -21, 2, 5, 1))
    (tmp_path / "a.avif").write_bytes(data)
    upright = decode_image(whole, "x").color
    stored = upright if orientation == 1 else np.rot90(upright)
    cut = stored[35:95, 10:110]
    expected = cut if orientation == 1 else np.rot90(cut, -1)
    picture = read_image(tmp_path / "a.avif")
    np.testing.assert_array_equal(picture.color, expected)
    assert read_size(tmp_path / "a.avif") == picture.color.shape[:2]


@pytest.mark.parametrize(
    "numbers",
    [
        (100, 1, 60, 1, -30, 1, 0, 1),  # beyond the left edge
        (100, 1, 60, 1, 0, 1, 0, 1),  # between pixels
        (0, 1, 60, 1, 0, 1, 0, 1),
        (100, 0, 60, 1, 0, 1, 0, 1),
    ],
)
def test_a_crop_that_cannot_be_is_told(numbers: tuple, caplog: pytest.LogCaptureFixture) -> None:
    data = avif_with(saved(PHOTO, "AVIF", quality=97), b"clap", struct.pack(">8i", *numbers))
    assert decode_image(data, "a.avif").color.shape == PHOTO.shape
    assert caplog.messages == [
        "a.avif: its crop does not lie in the image by whole pixels: the whole image is used"
    ]


def test_cut_avif_boxes_are_none() -> None:
    whole = avif_with(saved(PHOTO, "AVIF"), b"clap", struct.pack(">8i", 100, 1, 60, 1, -21, 2, 5, 1))
    rng = random.Random(2)
    for _ in range(300):
        data = bytearray(whole[: rng.randrange(16, 400)])
        data[rng.randrange(len(data))] = rng.randrange(256)
        read_aperture(BytesIO(data), 141, 120)


def test_pixels_that_are_not_square_are_told(caplog: pytest.LogCaptureFixture) -> None:
    png, jpeg, gif = saved(PHOTO, "PNG"), saved(PHOTO, "JPEG"), saved(PHOTO[..., 0], "GIF")
    at = jpeg.index(b"JFIF\0") + 7

    def phys(x: int, y: int, unit: int) -> bytes:
        return png[:33] + chunk(b"pHYs", struct.pack(">IIB", x, y, unit)) + png[33:]

    for data, shape in (
        (phys(3, 2, 0), (2, 3)),
        (jpeg[:at] + struct.pack(">BHH", 0, 3, 2) + jpeg[at + 5 :], (2, 3)),
        (gif[:12] + bytes([49 + 64]) + gif[13:], (128, 64)),
        (avif_with(saved(PHOTO, "AVIF"), b"pasp", struct.pack(">II", 2, 3)), (2, 3)),
    ):
        caplog.clear()
        assert decode_image(data, "x").color.shape[:2] == PHOTO.shape[:2]
        assert len(caplog.messages) == 1
        assert f"x: its pixels are not square ({shape[0]} wide to {shape[1]} high)" in caplog.messages[0]
    caplog.clear()
    # With a unit, the resolution is carried along, and the shape with it.
    assert decode_image(phys(3000, 2000, 1), "x").metadata.dpi == (76.2, 50.8)
    for data in (phys(2, 2, 0), phys(0, 2, 0), jpeg, gif):
        decode_image(data, "x")
    assert caplog.messages == []


def test_a_png_for_iphones_alone_is_named() -> None:
    png = saved(PHOTO, "PNG")
    with pytest.raises(ImageError, match=r"\(CgBI\).*revert-iphone-optimizations"):
        decode_image(png[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + png[8:], "x")


# --- damage ----------------------------------------------------------------------------------------

KINDS = [{}, {"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}]


@pytest.mark.parametrize("options", [*KINDS, {"progressive": True}])
def test_sound_jpegs_are_not_called_damaged(options: dict, caplog: pytest.LogCaptureFixture) -> None:
    for pixels in (PHOTO, PHOTO[..., 0], PHOTO[:1, :1], np.full((64, 70, 3), 90, np.uint8)):
        for quality in (5, 75, 100):
            for subsampling in (0, 1, 2):
                data = saved(pixels, "JPEG", quality=quality, subsampling=subsampling, **options)
                assert not is_damaged(data)
                assert not is_damaged(data[:-2] + b"\xff\xff\xff\xd9 and more")
    decode_image(data, "x")
    assert caplog.messages == []


@pytest.mark.parametrize("options", KINDS)
def test_damaged_jpeg_scans_are_told(options: dict, caplog: pytest.LogCaptureFixture) -> None:
    whole = saved(PHOTO, "JPEG", quality=90, **options)
    middle = len(whole) * 2 // 3
    for data in (
        whole[:middle] + bytes(200) + whole[middle + 200 :],
        whole[:middle] + whole[middle + 200 :],
        whole[:middle] + whole[middle - 200 :],
        whole[:middle] + b"\xff\xd9",
    ):
        caplog.clear()
        assert decode_image(data, "a.jpg").color.shape == PHOTO.shape
        assert caplog.messages == ["a.jpg: its pixels are damaged: from some place on they may be wrong"]


def test_progressive_jpegs_without_their_last_scans_are_told(caplog: pytest.LogCaptureFixture) -> None:
    whole = saved(PHOTO, "JPEG", quality=90, progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", whole)]
    assert len(scans) > 5
    for at in scans[2:]:
        caplog.clear()
        decode_image(whole[:at] + b"\xff\xd9", "a.jpg")
        assert caplog.messages == ["a.jpg: its pixels are damaged: from some place on they may be wrong"]
