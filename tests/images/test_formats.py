"""Formats in and out, as files of other programs and as the command meets them."""

from __future__ import annotations

import logging
import struct
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import Result

from strsr_cli.images.codecs.jxl import jxl_size
from strsr_cli.images.find import find_images
from strsr_cli.images.formats import OUTPUT_FORMATS, check_fits, sniff
from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, encode_image
from strsr_cli.upscale import stages
from strsr_models import ImageError

from ..helpers.image_files import ink_profile, small_files

Run = Callable[..., Result]


def png(depth: int, color_type: int, rows: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of rows of raw bytes (h, bytes), unfiltered; width by the rows' length."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    width = rows.shape[1] * 8 // (depth * channels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0))]
    parts += [(name.encode(), body) for name, body in chunks.items()]
    parts.append((b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*parts, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


# --- in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, [0, 255]), (2, [0, 85, 170, 255]), (4, list(range(0, 256, 17)))]
)
def test_gray_png_of_few_bits_is_read(depth: int, expected: list[int]) -> None:
    codes = np.arange(2**depth, dtype=np.uint8).repeat(8 // depth)
    bits = (codes[:, None] >> np.arange(depth)[::-1] & 1).ravel()
    picture = decode_image(png(depth, 0, np.packbits(bits)[None]), "x")
    assert picture.color.shape[2] == 1
    assert sorted(set(picture.color.ravel().tolist())) == expected


def test_png_with_a_transparent_gray_colour_or_index_is_read() -> None:
    rows = np.array([[0, 7, 9, 7]], np.uint8)
    for data in (
        png(8, 0, rows, tRNS=b"\0\7"),
        png(8, 3, rows, PLTE=bytes(range(30)), tRNS=bytes([255] * 7 + [0])),
        png(16, 0, rows.repeat(2, 1), tRNS=b"\7\7"),
        png(16, 2, rows.repeat(6, 1), tRNS=b"\7\7\7\7\7\7"),
    ):
        picture = decode_image(data, "x")
        assert picture.alpha is not None
        assert (picture.alpha.ravel() > 0).tolist() == [True, False, True, False]


def test_a_palette_of_grays_is_gray() -> None:
    data = png(8, 3, np.array([[0, 1]], np.uint8), PLTE=b"\x10\x10\x10\xe0\xe0\xe0")
    np.testing.assert_array_equal(decode_image(data, "x").color.ravel(), [16, 224])


def test_sixteen_bit_gray_with_alpha_stays_gray() -> None:
    rows = np.array([[0x1234, 0xFFFF, 0xABCD, 0x0102]], ">u2").view(np.uint8)
    picture = decode_image(png(16, 4, rows), "x")
    assert picture.color.ravel().tolist() == [0x1234, 0xABCD]
    assert picture.alpha is not None
    assert picture.alpha.ravel().tolist() == [0xFFFF, 0x0102]
    for kind in ("png", "tif"):
        again = decode_image(encode_image(picture, kind, EncodeSettings()), "x")
        np.testing.assert_array_equal(again.color, picture.color)
        np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("shape", [(300, 70, 1), (300, 70, 2), (300, 70, 3), (300, 70, 4)])
def test_sixteen_bit_png_is_read_by_others(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 65_536, shape).astype(np.uint16)
    color, alpha = (pixels[..., :-1], pixels[..., -1:]) if shape[2] in (2, 4) else (pixels, None)
    back = cv2.imdecode(
        np.frombuffer(encode_image(Picture(color, alpha, None, "PNG"), "png", EncodeSettings()), np.uint8),
        cv2.IMREAD_UNCHANGED,
    )
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[shape[2]]
    np.testing.assert_array_equal(back.reshape(*shape[:2], -1)[..., order], pixels)


def test_inks_become_the_colours_that_they_print() -> None:
    """Adobe writes CMYK JPEG inverted, and Pillow as Adobe does."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for data in (saved(red, "JPEG", quality=95), saved(red, "TIFF")):
        picture = decode_image(data, "x")
        assert np.abs(picture.color.astype(int) - [255, 0, 0]).max() < 12


def test_inks_have_the_colours_of_their_profile() -> None:
    inked = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):
        picture = decode_image(saved(inked, form, icc_profile=ink_profile((128, 208, 128))), "x")
        # L 50, a 80, b 0: a strong pink, which no arithmetic makes of cyan.
        assert picture.icc is None
        red, green, blue = picture.color[4, 4].tolist()
        assert red > 200
        assert green < 60
        assert 80 < blue < 160


@pytest.mark.parametrize("compression", [5, 8], ids=["lzw", "deflate"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_compressed_tiff_is_read(compression: int, dtype: type) -> None:
    pixels = (np.random.default_rng(0).random((20, 30, 3)) * (65_535 if dtype is np.uint16 else 1)).astype(
        dtype
    )
    _, data = cv2.imencode(".tif", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    picture = decode_image(data.tobytes(), "x")
    assert picture.color.dtype == dtype
    np.testing.assert_array_equal(picture.color, pixels)


def test_strange_tiff_is_read() -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 65_536, (3, 20, 30)).astype(np.uint16)
    picture = decode_image(tiff(planes, photometric="rgb", planarconfig="separate"), "x")
    np.testing.assert_array_equal(picture.color, planes.transpose(1, 2, 0))
    gray = planes[0]
    np.testing.assert_array_equal(
        decode_image(tiff(gray, photometric="miniswhite"), "x").color[..., 0], 65_535 - gray
    )
    half = np.full((4, 4, 4), 20_000, np.uint16)
    half[..., 3] = 32_768
    picture = decode_image(tiff(half, photometric="rgb", extrasamples=["assocalpha"]), "x")
    assert picture.color[0, 0].tolist() == [39_999] * 3
    assert decode_image(tiff(gray, photometric="minisblack", bigtiff=True), "x").color.shape == (20, 30, 1)
    tiled = rng.integers(0, 65_536, (40, 40, 3)).astype(np.uint16)
    picture = decode_image(tiff(tiled, photometric="rgb", tile=(16, 16), compression="zlib"), "x")
    np.testing.assert_array_equal(picture.color, tiled)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_of_every_size_are_read(dtype: type, channels: int) -> None:
    pixels = np.random.default_rng(0).random((10, 12, channels)).astype(dtype)
    data = tiff(pixels.squeeze(), photometric="minisblack" if channels == 1 else "rgb")
    picture = decode_image(data, "x")
    assert picture.color.dtype == np.float32
    np.testing.assert_array_equal(picture.color, pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((8, 8), np.int32), {}, "8 or 16 bits"),
        (np.full((8, 8), np.nan, np.float32), {}, "not finite"),
        (np.zeros((8, 8, 4), np.uint16), {"photometric": "separated"}, "save it as gray or RGB"),
        (np.zeros((8, 8, 3), np.uint8), {"photometric": "rgb", "subfiletype": 1}, "develop it first"),
    ],
)
def test_tiff_that_would_be_read_wrong_is_refused(pixels: np.ndarray, options: dict, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(tiff(pixels, **options), "x")


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "pages.tif"])
def test_the_first_of_many_frames_is_used_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    decode_image(small_files()[name], name)
    assert caplog.messages == [
        f"{name}: has {'several' if name == 'moving.png' else 2} frames, only the first is used"
    ]


@pytest.mark.parametrize(("kind", "extra"), [("HEIF", "heic"), ("JXL", "jxl")])
def test_formats_of_packages_that_are_missing_name_the_extra(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {"HEIF": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "JXL": b"\xff\x0a" + b"\0" * 20}
    assert sniff(heads[kind]) == kind
    for module in ("pillow_heif", "pi_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match=rf"pip install 'strsr\[{extra}\]'"):
        decode_image(heads[kind], "x")


def test_a_phone_s_heic_is_read_upright_with_its_exif() -> None:
    data = (Path(__file__).parents[1] / "helpers" / "phone.heic").read_bytes()
    assert sniff(data) == "HEIF"
    picture = decode_image(data, "phone.heic")
    # Stored lying, 64x48 px, with a red that grows downwards once it is turned, and a green to the left.
    y, x = np.mgrid[:64, 47:-1:-1]
    expected = np.stack([4 * y, 5 * x, 255 - 2 * y - 2 * x], axis=-1).clip(0, 255)
    assert picture.color.shape == (64, 48, 3)
    assert np.abs(picture.color.astype(int) - expected).mean() < 2
    assert picture.metadata.dpi == (300, 300)
    assert picture.metadata.exif is not None
    assert b"1999:12:31 23:59:58" in picture.metadata.exif
    damaged = data[: len(data) // 2]
    with pytest.raises(ImageError, match=r"phone.heic: cannot be decoded"):
        decode_image(damaged, "phone.heic")


@pytest.mark.parametrize(("kind", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_formats_of_other_packages_are_read(kind: str, module: str) -> None:
    plugin = pytest.importorskip(module)
    if kind == "HEIF":
        plugin.register_heif_opener()
    exif = Image.Exif()
    exif[271] = "Tester"
    picture = decode_image(saved(Image.new("RGB", (20, 10), (200, 30, 30)), kind, exif=exif.tobytes()), "x")
    assert picture.color.shape == (10, 20, 3)
    assert np.abs(picture.color.astype(int) - [200, 30, 30]).max() < 12
    assert picture.metadata.exif is not None
    assert b"Tester" in picture.metadata.exif


def test_text_that_begins_like_a_bitmap_is_none() -> None:
    assert sniff(b"BM is short for Bergmann, who wrote this letter") is None
    assert sniff(b"") is None


# --- names and content -----------------------------------------------------------------------------


def test_content_decides_where_names_do_not(
    strsr: Run, photo: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    image, source = Image.fromarray(photo[:20, :20]), tmp_path / "in"
    source.mkdir()
    image.save(source / "IMG_0001", "PNG")
    image.save(source / "scan.dat", "PNG")
    image.save(source / "IMG_2.JPG_large", "JPEG")
    image.save(source / "photo.jpg.bak", "JPEG")
    image.save(source / "camera.nef", "TIFF")
    image.save(source / "really-jpeg.png", "JPEG")
    image.save(source / "moving.gif")
    (source / "README").write_text("no image")
    names = ["IMG_0001", "IMG_2.JPG_large", "moving.gif", "really-jpeg.png", "scan.dat"]
    assert [path.name for path in find_images(source)] == names
    result = strsr("upscale", source, tmp_path / "out", "--scale", "2", "--weights", tiny_weights)
    assert result.exit_code == 0, result.output
    outputs = {path.name: sniff(path.read_bytes()) for path in (tmp_path / "out").glob("[!.]*")}
    whole = {"IMG_0001.png": "PNG", "moving.png": "PNG", "really-jpeg.png": "PNG"}
    assert outputs == {**whole, "IMG_2.jpg": "JPEG", "scan.png": "PNG"}
    single = strsr(
        "upscale", source / "photo.jpg.bak", tmp_path / "out", "--scale", "2", "--weights", tiny_weights
    )
    assert single.exit_code == 0, single.output
    assert sniff((tmp_path / "out" / "photo.jpg.jpg").read_bytes()) == "JPEG"


def test_avif_and_floats_come_out_as_they_went_in(
    strsr: Run, photo: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    Image.fromarray(photo[:20, :20]).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "f.tif", np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20))
    args = ("--scale", "2", "--weights", tiny_weights)
    assert strsr("upscale", tmp_path / "a.png", tmp_path / "out", "--format", "avif", *args).exit_code == 0
    assert strsr("upscale", tmp_path / "f.tif", tmp_path / "out", *args).exit_code == 0
    image = cv2.imread(str(tmp_path / "out" / "a.avif"))
    assert image is not None
    assert image.shape == (40, 40, 3)
    values = tifffile.imread(tmp_path / "out" / "f.tif")
    assert (values.dtype, values.shape) == (np.float32, (40, 40))


# --- limits ----------------------------------------------------------------------------------------


def test_large_inputs_are_refused_by_their_header(strsr: Run, tiny_weights: Path, tmp_path: Path) -> None:
    claim = png(8, 0, np.zeros((1, 1), np.uint8)).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 60_000, 60_000)
    )
    header = claim[12:29]
    (tmp_path / "bomb.png").write_bytes(claim[:29] + struct.pack(">I", zlib.crc32(header)) + claim[33:])
    result = strsr("upscale", tmp_path / "bomb.png", tmp_path / "out", "--weights", tiny_weights)
    assert result.exit_code == 1
    assert "60000x60000 px is more than --max-pixels 268435456" in result.stderr
    Image.new("L", (20, 20)).save(tmp_path / "small.png")
    result = strsr("upscale", tmp_path / "small.png", tmp_path / "out", "--max-pixels", "399")
    assert "20x20 px is more than --max-pixels 399" in result.stderr
    data = (tmp_path / "small.png").read_bytes()
    assert decode_image(data, "x", 400).color.shape == (20, 20, 1)
    with pytest.raises(ImageError, match="more than --max-pixels"):
        decode_image(data, "x", 399)


@pytest.mark.parametrize("name", ["jpg", "webp", "tif", "bmp", "avif", "still.gif"])
def test_formats_all_obey_the_limit(name: str) -> None:
    with pytest.raises(ImageError, match=r"12x10 px is more than --max-pixels 119"):
        decode_image(small_files()[name], "x", 119)


def jxl_header(*fields: tuple[int, int]) -> bytes:
    """A codestream's beginning: (value, bits) from the lowest bit on."""
    value = at = 0
    for number, bits in fields:
        value |= number << at
        at += bits
    return b"\xff\x0a" + value.to_bytes(14, "little")


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ([(1, 1), (3, 5), (1, 3)], (32, 32)),
        ([(1, 1), (3, 5), (0, 3), (9, 5)], (32, 80)),
        ([(0, 1), (0, 2), (299, 9), (5, 3)], (300, 533)),
        ([(0, 1), (1, 2), (4_999, 13), (0, 3), (3, 2), (99_999, 30)], (5_000, 100_000)),
    ],
)
def test_jpeg_xl_is_known_by_its_header(fields: list, size: tuple[int, int]) -> None:
    """Its package would decode it first."""
    bare = jxl_header(*fields)
    signature, kind = b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    part = b"\0\0\0\x1cjxlp\0\0\0\0" + bare
    for data in (bare, signature + kind + b"\0\0\0\0jxlc" + bare, signature + kind + part):
        assert jxl_size(BytesIO(data)) == size
    with pytest.raises(ValueError, match="damaged"):
        jxl_size(BytesIO(signature + kind + b"\0\0\0\0free"))


def test_jpeg_xl_says_its_size() -> None:
    pytest.importorskip("pillow_jxl")
    with pytest.raises(ImageError, match="80x32 px is more than --max-pixels 1000"):
        decode_image(jxl_header((1, 1), (3, 5), (0, 3), (9, 5)), "x", 1000)
    for size in ((8, 8), (64, 48), (301, 17), (1600, 900)):
        for exif in (None, Image.Exif().tobytes()):
            data = saved(Image.new("RGB", size), "JXL", **({} if exif is None else {"exif": exif}))
            assert jxl_size(BytesIO(data)) == size[::-1]


def test_pillows_own_limit_is_only_lifted_while_we_look() -> None:
    before, files = Image.MAX_IMAGE_PIXELS, small_files()
    with ThreadPoolExecutor(4) as pool:  # as training reads photos
        list(pool.map(lambda name: decode_image(files[name], name), [*files] * 4))
    assert before is not None
    assert before == Image.MAX_IMAGE_PIXELS


def test_outputs_that_a_format_cannot_hold_are_refused_early(
    strsr: Run, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is loaded for what cannot be written.
    monkeypatch.setattr(stages, "load_stages", lambda *_: pytest.fail("loaded"))
    Image.new("L", (8192, 1)).save(tmp_path / "wide.png")
    for kind, limit in (("webp", "16,383"), ("avif", "32,768"), ("jpg", "65,500")):
        scale = {"webp": "2", "avif": "5", "jpg": "9"}[kind]
        args = ("upscale", tmp_path / "wide.png", tmp_path / "out", "--format", kind, "--scale", scale)
        result = strsr(*args, "--weights", tiny_weights)
        assert result.exit_code == 1
        assert f"can hold ({limit} px a side); use --format png or tif, or a smaller --scale" in result.stderr
        assert "will fail" in strsr(*args, "--dry-run").stdout


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_the_largest_picture_that_fits_is_written(kind: str) -> None:
    form = OUTPUT_FORMATS[kind]
    check_fits(kind, 1, form.side or 1_000_000)
    if form.side is not None:
        data = encode_image(
            Picture(np.zeros((1, form.side, 1), np.uint8), None, None, "PNG"), kind, EncodeSettings(50)
        )
        assert decode_image(data, "x").color.shape == (1, form.side, 3 if kind == "webp" else 1)
    for too_large in ((1, (form.side or 0) + 1), (1 << 17, (form.area or 0) // (1 << 17) + 1)):
        if (form.side and too_large[0] == 1) or (form.area and too_large[0] > 1):
            with pytest.raises(ImageError, match="can hold"):
                check_fits(kind, *too_large)


def test_remarks_are_not_said_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    decode_image(small_files()["deep.tif"], "x")
    assert caplog.messages == []
