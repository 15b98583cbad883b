"""TIFF of every kind of pixels: read to the bit, or refused by what it is, never read as other pixels."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from strsr_cli.images.read import decode_image, read_frame, read_image, read_size
from strsr_models import ImageError

from ..helpers.tiff_files import float_differences, integer_differences, lzw, packed, tiff_by_hand

SIZE = HEIGHT, WIDTH = 20, 24
RNG = np.random.default_rng(4)
COLOR = RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
DEEP = RNG.integers(0, 65_536, (*SIZE, 4)).astype("<u2")
FLOATS = RNG.random((*SIZE, 4)).astype("<f4")


def pixels_of(data: bytes) -> np.ndarray:
    picture = decode_image(data, "x")
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    return np.concatenate(parts, axis=2)


@pytest.mark.parametrize("planes", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("pack", [lzw, zlib.compress, bytes], ids=["lzw", "deflate", "plain"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["<u2", "<f2", "<f4", "<f8"])
def test_deep_pixels_are_read_to_the_bit(kind: str, channels: int, pack: object, planes: bool) -> None:
    pixels = (FLOATS if "f" in kind else DEEP)[..., :channels].astype(kind)
    compression = {lzw: 5, zlib.compress: 8, bytes: 1}[pack]  # type: ignore[index]
    predictor = 1 if pack is bytes else 3 if "f" in kind else 2
    differences = {1: np.ndarray.tobytes, 2: integer_differences, 3: float_differences}[predictor]
    parts = np.split(pixels, channels, axis=2) if planes else [pixels[:12], pixels[12:]]
    strips = [pack(differences(np.ascontiguousarray(part))) for part in parts]  # type: ignore[operator]
    data = tiff_by_hand(
        strips,
        SIZE,
        8 * pixels.dtype.itemsize,
        channels,
        1 if channels < 3 else 2,
        compression,
        (278, 4, [HEIGHT if planes else 12]),
        (284, 3, [2 if planes else 1]),
        (317, 3, [predictor]),
        (338, 3, [2] if channels in (2, 4) else []),
        (339, 3, [3 if "f" in kind else 1] * channels),
    )
    expected = pixels.astype(np.float32) if "f" in kind else pixels
    np.testing.assert_array_equal(pixels_of(data), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_tiles_beyond_the_edge_are_cut(order: str, dtype: type) -> None:
    pixels = (DEEP if dtype is np.uint16 else FLOATS)[..., :3].astype(dtype)
    for planar in ("contig", "separate"):
        buffer = BytesIO()
        with tifffile.TiffWriter(buffer, byteorder=order) as writer:  # type: ignore[arg-type]
            stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
            writer.write(
                np.ascontiguousarray(stored),
                photometric="rgb",
                planarconfig=planar,
                tile=(16, 16),
                compression="zlib",
                metadata=None,
            )
        np.testing.assert_array_equal(pixels_of(buffer.getvalue()), pixels)


@pytest.mark.parametrize("bits", [4, 6, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_depths_are_stretched(bits: int, channels: int) -> None:
    values = RNG.integers(0, 1 << bits, (*SIZE, channels))
    values[0, 0], values[0, 1] = 0, (1 << bits) - 1
    data = tiff_by_hand([packed(values, bits)], SIZE, bits, channels, 1 if channels == 1 else 2)
    top = 255 if bits <= 8 else 65_535
    np.testing.assert_array_equal(pixels_of(data), np.rint(values * top / ((1 << bits) - 1)))


def test_a_palette_of_sixteen_bits_is_looked_up() -> None:
    palette = RNG.integers(0, 65_536, (3, 65_536))
    indices = DEEP[..., 0]
    data = tiff_by_hand([indices.tobytes()], SIZE, 16, 1, 3, 1, (320, 3, palette.ravel().tolist()))
    np.testing.assert_array_equal(pixels_of(data), palette[:, indices].transpose(1, 2, 0))


def test_reversed_bits_and_undefined_numbers_are_read() -> None:
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in DEEP[..., :3].tobytes())
    data = tiff_by_hand([turned], SIZE, 16, 3, 2, 1, (266, 3, [2]))
    np.testing.assert_array_equal(pixels_of(data), DEEP[..., :3])
    data = tiff_by_hand([COLOR.tobytes()], SIZE, 8, 3, 2, 1, (339, 3, [4, 4, 4]))
    np.testing.assert_array_equal(pixels_of(data), COLOR)


@pytest.mark.parametrize("top", [255, 65_535])
def test_alpha_is_found_among_further_samples(top: int, caplog: pytest.LogCaptureFixture) -> None:
    five = DEEP[..., [0, 1, 2, 3, 0]] if top == 65_535 else COLOR[..., [0, 1, 2, 1, 0]]
    bits = 16 if top == 65_535 else 8
    data = tiff_by_hand([five.tobytes()], SIZE, bits, 5, 2, 1, (338, 3, [0, 2]))
    np.testing.assert_array_equal(pixels_of(data), five[..., [0, 1, 2, 4]])
    assert caplog.messages == ["x: has samples beside colours and alpha (1): dropped"]


def test_gray_and_alpha_in_planes_are_no_others_pixels() -> None:
    """Pillow reads the second plane where the first should be."""
    planes = [zlib.compress(np.ascontiguousarray(COLOR[..., n]).tobytes()) for n in (0, 1)]
    data = tiff_by_hand(planes, SIZE, 8, 2, 1, 8, (278, 4, [HEIGHT]), (284, 3, [2]), (338, 3, [2]))
    np.testing.assert_array_equal(pixels_of(data), COLOR[..., :2])


def test_missing_and_further_lengths_are_made_good() -> None:
    strips = [DEEP[:10, :, :3].tobytes(), DEEP[10:, :, :3].tobytes()]
    whole = [len(strip) for strip in strips]
    for lengths in ([], whole[:1], [*whole, 99, 99]):
        data = tiff_by_hand(strips, SIZE, 16, 3, 2, 1, (279, 4, lengths))
        np.testing.assert_array_equal(pixels_of(data), DEEP[..., :3])


@pytest.mark.parametrize(
    ("bits", "samples", "photometric", "more", "said"),
    [
        (8, 3, 2, [(339, 3, [2] * 3)], "RGB in 8-bit signed integers"),
        (16, 1, 1, [(339, 3, [2])], "gray in 16-bit signed integers"),
        (32, 1, 1, [], "gray in 32-bit integers"),
        (64, 1, 1, [(339, 3, [6])], "gray in 64-bit complex floats"),
        (32, 1, 1, [(339, 3, [5])], "gray in 32-bit complex integers"),
        (24, 3, 2, [(339, 3, [3] * 3)], "RGB in 24-bit floats"),
        (7, 1, 1, [], "gray in 7-bit integers"),
        ((5, 6, 5), 3, 2, [], "RGB in 5/6/5-bit integers"),
        (8, 5, 5, [(338, 3, [2])], r"inks \(CMYK\) and 1 more in 8-bit integers"),
        (16, 4, 5, [], r"inks \(CMYK\) in 16-bit integers"),
        (8, 4, 5, [(332, 3, [2])], r"inks \(CMYK\) in 8-bit integers"),
        (8, 3, 8, [], "CIELab in 8-bit integers"),
        (8, 3, 6, [(530, 3, [2, 2])], "YCbCr in 8-bit integers"),
        (16, 1, 32803, [], "a camera's sensor in 16-bit integers"),
        (16, 3, 32845, [(339, 3, [2] * 3)], "LogLuv in 16-bit signed integers"),
        (1, 1, 4, [], "a mask in 1-bit integers"),
        (8, 1, 1, [(259, 3, [4])], r"gray in 8-bit integers, compressed as fax \(CCITT\),"),
        (8, 3, 2, [(259, 3, [34712])], "RGB in 8-bit integers, compressed as JPEG 2000,"),
        (8, 3, 2, [(259, 3, [12345])], "RGB in 8-bit integers, compressed as 12345,"),
    ],
)
def test_what_is_not_read_says_what_it_is(
    bits: object, samples: int, photometric: int, more: list, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # As many bytes as YCbCr has with a quarter of the colours; enough for all others, but they are not looked at.
    data = tiff_by_hand([bytes(HEIGHT * WIDTH * 3 // 2)], SIZE, bits, samples, photometric, 1, *more)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=f"pixels of {said} are not read; save it as gray or RGB"):
        decode_image(data, "x")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="it is there")
def test_other_compressions_name_the_package() -> None:
    data = tiff_by_hand([bytes(99)], SIZE, 16, 3, 2, 34712)
    with pytest.raises(ImageError, match=r"compressed as JPEG 2000; to read it: pip install 'strsr\[tiff\]'"):
        decode_image(data, "x")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [5, 8])
def test_damaged_strips_print_nothing(bits: int, compression: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = tiff_by_hand([b"\x80\x7f" * 300], SIZE, bits, 3, 2, compression)
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode_image(data, "x")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_thumbnail_before_the_picture_is_passed_over(depth: type, tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", DEEP[..., :3].astype(depth)
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((5, 6, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
        writer.write(pixels, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(read_image(path).color, pixels)
    np.testing.assert_array_equal(read_frame(path, 1).color, pixels)
    assert read_size(path) == read_size(path, frame=1) == SIZE


def test_a_thumbnail_alone_is_no_picture() -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, COLOR, photometric="rgb", subfiletype=1, metadata=None)
    with pytest.raises(ImageError, match="all it has is a thumbnail"):
        decode_image(buffer.getvalue(), "x")


def test_pixels_of_two_to_one_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff_by_hand([COLOR.tobytes()], SIZE, 8, 3, 2, 1, (282, 3, [2]), (283, 3, [1]), (296, 3, [1]))
    decode_image(data, "x")
    assert len(caplog.messages) == 1
    assert "its pixels are not square (1 wide to 2 high)" in caplog.messages[0]
    assert Image.open(BytesIO(data)).size == (WIDTH, HEIGHT)
    assert struct.unpack_from("<H", data, 8) == (12,)
