from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from strsr_cli.images.find import find_images
from strsr_cli.images.formats import OUTPUT_FORMATS
from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image, read_image, read_size
from strsr_cli.images.write import EncodeSettings, encode_image
from strsr_models import ImageError

from ..helpers.image_files import gray_profile

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def ramp(channels: int, dtype: type) -> np.ndarray:
    top = np.iinfo(dtype).max
    values = np.linspace(0, top, 12 * 10 * channels).reshape(12, 10, channels)
    return values.astype(dtype)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("profile", [False, True], ids=["plain", "icc"])
def test_lossless_formats_keep_everything(
    kind: str, dtype: type, channels: int, alpha: bool, profile: bool
) -> None:
    icc = {1: gray_profile(1.8), 3: SRGB}[channels] if profile else None
    picture = Picture(ramp(channels, dtype), ramp(1, dtype)[::-1] if alpha else None, icc, "PNG")
    back = decode_image(encode_image(picture, kind, EncodeSettings()), "x")
    np.testing.assert_array_equal(back.color, picture.color)
    assert back.color.dtype == dtype
    assert (back.alpha is None) == (not alpha)
    if picture.alpha is not None:
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    assert back.icc == icc


@pytest.mark.parametrize("kind", ["jpg", "webp", "bmp"])
def test_other_formats_keep_what_they_can(kind: str, photo: np.ndarray) -> None:
    back = decode_image(encode_image(Picture(photo, None, SRGB, "PNG"), kind, EncodeSettings()), "x")
    assert np.abs(back.color.astype(int) - photo).mean() < 4
    assert back.icc == (None if kind == "bmp" else SRGB)


def test_jpeg_is_written_without_chroma_subsampling(photo: np.ndarray) -> None:
    with Image.open(
        BytesIO(encode_image(Picture(photo, None, None, "PNG"), "jpg", EncodeSettings()))
    ) as image:
        assert {component[1:3] for component in image.layer} == {(1, 1)}  # type: ignore[attr-defined]


def test_transparency_goes_onto_white_where_there_is_none() -> None:
    color, alpha = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8)
    back = decode_image(encode_image(Picture(color, alpha, None, "PNG"), "bmp", EncodeSettings()), "x")
    assert back.color.min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_orientation_is_applied(orientation: int, deep: bool, tmp_path: Path) -> None:
    upright = ramp(3, np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.tif"
    if deep:
        deep_pixels = upright.astype(np.uint16) * 257
        tifffile.imwrite(path, deep_pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        Image.fromarray(upright).save(path, exif=exif)
    picture = read_image(path)
    expected = np.asarray(_turned(Image.fromarray(upright), orientation))
    np.testing.assert_array_equal(picture.rgb8(), expected)
    assert read_size(path) == expected.shape[:2]


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The EXIF standard's table, by Pillow's own names."""
    steps = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image if orientation == 1 else image.transpose(steps[orientation])


def test_sixteen_bit_png_keeps_its_low_bits(tmp_path: Path) -> None:
    pixels = ramp(3, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").color, pixels)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"hello, world", "not a PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC or JPEG XL image"),
        ("short.jpg", None, "cannot be decoded"),
    ],
)
def test_bad_files_are_named_with_their_reason(
    name: str, data: bytes | None, reason: str, tmp_path: Path, photo: np.ndarray
) -> None:
    path = tmp_path / name
    path.write_bytes(
        encode_image(Picture(photo, None, None, "PNG"), "jpg", EncodeSettings())[:2000]
        if data is None
        else data
    )
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert name in str(caught.value)
    assert reason in str(caught.value)


def test_a_format_that_cannot_hold_the_size_says_so() -> None:
    wide = Picture(np.zeros((1, 16_384, 3), np.uint8), None, None, "PNG")
    with pytest.raises(ImageError, match="more than WEBP can hold"):
        encode_image(wide, "webp", EncodeSettings())


def test_finding_looks_below_and_past_hidden_files(tmp_path: Path) -> None:
    for name in ("a.PNG", "b/c.jpeg", ".hidden.png", ".git/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == [tmp_path / "a.PNG", tmp_path / "b/c.jpeg"]


def test_formats_state_a_suffix_that_is_read() -> None:
    assert all(form.suffix.lstrip(".") == kind for kind, form in OUTPUT_FORMATS.items())
