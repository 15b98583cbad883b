"""Outputs written by bands: the same files however they were cut, and none that only looks finished."""

from __future__ import annotations

import errno
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from strsr_cli.images.codecs import jpeg, pillow_writer
from strsr_cli.images.formats import OUTPUT_FORMATS
from strsr_cli.images.metadata.carried import Metadata
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, RowLayout, write_image
from strsr_models import ImageError

DTYPES = [np.uint8, np.uint16, np.float32]


def smooth(height: int, width: int, channels: int, dtype: type = np.uint8) -> np.ndarray:
    """(height, width, channels) of waves and a little noise, over the whole range."""
    rng = np.random.default_rng(height * width + channels)
    y, x, c = np.mgrid[:height, :width, :channels]
    values = 0.5 + 0.45 * np.sin(y / 9 + c) * np.cos(x / 7) + 0.03 * rng.standard_normal(y.shape)
    values = values.clip(0, 1)
    return (values if dtype is np.float32 else values * np.iinfo(dtype).max).astype(dtype)


def written(kind: str, pixels: np.ndarray, cuts: list[int] | None = None, **options: int) -> bytes:
    """A file of pixels that come in bands which end at `cuts`."""
    file = BytesIO()
    bands = iter(np.split(pixels, cuts or []))
    write_image(file, kind, RowLayout(*pixels.shape, pixels.dtype), bands, EncodeSettings(**options))
    return file.getvalue()


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_do_not_depend_on_how_bands_were_cut(kind: str, channels: int, dtype: type) -> None:
    pixels = smooth(130, 40, channels, dtype)
    whole = written(kind, pixels)
    for rows in (1, 7, 64) if kind not in ("webp", "avif") else (7,):  # which gather them
        assert written(kind, pixels, list(range(rows, 130, rows))) == whole
    picture = decode_image(whole, "x")
    assert picture.color.shape[:2] == (130, 40)
    if kind in ("png", "tif"):
        expected = (
            pixels if dtype is not np.float32 or kind == "tif" else np.rint(pixels * np.float64(65_535))
        )
        again = (
            picture.color if picture.alpha is None else np.concatenate([picture.color, picture.alpha], axis=2)
        )
        np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("kind", ["png", "tif", "jpg", "bmp"])
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_jpeg_of_many_strips_comes_whole_by_any_cut(kind: str, data: st.DataObject) -> None:
    """The picture is several of the writers' own strips high."""
    height = data.draw(st.integers(1, 700))
    pixels = np.resize(smooth(64, 251, 3), (height, 251, 3))
    cuts = sorted(data.draw(st.lists(st.integers(0, height), max_size=6)))  # bands of no rows, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "JPEG_STRIP", 2**16)
        patch.setattr(pillow_writer, "BMP_STRIP", 2**14)
        assert written(kind, pixels, cuts) == written(kind, pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height", [64, 65, 128, 131, 700])
def test_joined_jpeg_has_the_pixels_of_a_whole_one(
    channels: int, height: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jpeg, "JPEG_STRIP", 1)  # 64 rows
    pixels = smooth(height, 251, channels)
    joined, buffer = written("jpg", pixels, quality=80), BytesIO()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(
        buffer, "JPEG", quality=80, subsampling=0
    )
    assert (b"\xff\xd7" in joined) == (height > 64)
    for decode in (
        lambda data: np.asarray(Image.open(BytesIO(data))),
        lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
    ):
        np.testing.assert_array_equal(decode(joined), decode(buffer.getvalue()))
    if (djpeg := shutil.which("djpeg")) is not None:
        (tmp_path / "x.jpg").write_bytes(joined)
        process = subprocess.run(
            [djpeg, "-outfile", "/dev/null", tmp_path / "x.jpg"], capture_output=True, check=False
        )
        assert (process.returncode, process.stderr) == (0, b"")


@pytest.mark.parametrize("compression", range(6))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_every_compression_keeps_the_pixels(compression: int, dtype: type) -> None:
    for channels in (1, 2, 3, 4):
        pixels = smooth(41, 33, channels, dtype)
        pixels[10:20] = 7
        data = written("png", pixels, png_compression=compression)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).reshape(41, 33, -1)
        order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        np.testing.assert_array_equal(image[..., order], pixels)


def test_png_compression_saves_bytes(photo: np.ndarray) -> None:
    sizes = [len(written("png", photo, png_compression=n)) for n in (0, 1, 5)]
    assert sizes[0] > photo.nbytes > sizes[1] > sizes[2]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 251])
def test_bitmaps_are_pillows(channels: int, width: int) -> None:
    pixels, buffer = smooth(11, width, channels), BytesIO()
    # No resolution is 0; Pillow's own 96 dpi would be made up.
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(buffer, "BMP", dpi=(0, 0))
    assert written("bmp", pixels) == buffer.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_tiff_is_read_by_other_readers(dtype: type, channels: int, order: bytes) -> None:
    pixels, file = smooth(300, 333, channels, dtype), BytesIO()
    exif = {b"II": b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"MM": b"MM\0*\0\0\0\x08\0\0\0\0\0\0"}[order]
    layout = RowLayout(*pixels.shape, dtype, metadata=Metadata(exif))
    write_image(file, "tif", layout, [pixels], EncodeSettings())
    assert file.getvalue()[:2] == order
    file.seek(0)
    np.testing.assert_array_equal(tifffile.imread(file).reshape(pixels.shape), pixels)
    # OpenCV does not read two channels, and multiplies 8-bit colours by alpha.
    if channels != 2 and (channels, dtype) != (4, np.uint8):
        image = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
        order_of = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        np.testing.assert_array_equal(image.reshape(pixels.shape)[..., order_of], pixels)


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_errors_of_bands_arrive_and_no_file_is_complete(kind: str) -> None:
    class Lost(OSError):
        pass

    def bands() -> Iterator[np.ndarray]:
        yield pixels[:300]
        raise Lost("the network has stopped")

    pixels, file = smooth(600, 333, 3), BytesIO()
    with pytest.raises(Lost, match="has stopped"):
        write_image(file, kind, RowLayout(*pixels.shape, pixels.dtype), bands(), EncodeSettings())
    with pytest.raises(ImageError):
        decode_image(file.getvalue(), "x")


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
@pytest.mark.parametrize("rows", [299, 301, 0])
def test_bands_that_are_not_the_picture_are_an_error(kind: str, rows: int) -> None:
    pixels = smooth(rows, 20, 3)
    with pytest.raises(ImageError, match="for a picture of 300"):
        write_image(BytesIO(), kind, RowLayout(300, 20, 3, np.uint8), [pixels], EncodeSettings())
    with pytest.raises(ImageError, match="a band of uint8"):
        write_image(BytesIO(), kind, RowLayout(300, 20, 4, np.uint8), [pixels], EncodeSettings())


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_a_full_disk_is_the_files_error_and_not_the_pictures(kind: str) -> None:
    class Full(BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def writelines(self, lines: object) -> None:
            self.write(next(iter(lines)))  # type: ignore[call-overload]

    with pytest.raises(OSError, match="No space left"):
        write_image(Full(), kind, RowLayout(9, 9, 3, np.uint8), [smooth(9, 9, 3)], EncodeSettings())


def test_threads_write_at_the_same_time() -> None:
    pixels = smooth(900, 333, 3)
    alone = {kind: written(kind, pixels) for kind in ("png", "tif", "jpg", "bmp", "webp")}
    with ThreadPoolExecutor(8) as pool:
        outputs = pool.map(lambda kind: (kind, written(kind, pixels)), [*alone] * 4)
    assert all(data == alone[kind] for kind, data in outputs)


def test_the_provenance_that_a_bitmap_cannot_hold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    layout = RowLayout(4, 4, 3, np.uint8, metadata=Metadata(software="strsr"))
    write_image(BytesIO(), "bmp", layout, [smooth(4, 4, 3)], EncodeSettings())
    assert caplog.messages == ["BMP has no place for --provenance: the file does not say what made it"]


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp"])
def test_memory_does_not_grow_with_the_picture(kind: str, tmp_path: Path) -> None:
    band = smooth(64, 1000, 3)
    peaks = []
    for count in (100, 300):  # of bands: 19 and 58 MB
        layout = RowLayout(64 * count, 1000, 3, np.uint8)
        with open(tmp_path / "x", "w+b") as file:
            tracemalloc.start()
            write_image(file, kind, layout, (band for _ in range(count)), EncodeSettings())
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20
    assert peaks[1] < 30 * 2**20
