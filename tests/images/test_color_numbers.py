"""Colours that files state by number, in PNG's chunks and AVIF's boxes: used, carried along, or told of."""

from __future__ import annotations

import struct
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from strsr_cli.images.color.restorer import network_input
from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image, read_frame
from strsr_cli.images.write import EncodeSettings, encode_image

from ..helpers.image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB_PRIMARIES,
    chunks_of,
    gray_profile,
    matrix_profile,
    matrix_to_xyz,
    with_chunks,
)

BT2020 = (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)
SMPTE_C = (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)
OWN = matrix_profile(ADOBE_RGB[0], 1.4)


def colors(depth: int = 8) -> np.ndarray:
    values = np.random.default_rng(7).integers(20, 236, (12, 10, 3))
    return (values * 257).astype(np.uint16) if depth == 16 else values.astype(np.uint8)


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray | None = None, icc: bytes | None = None) -> bytes:
    color = colors() if pixels is None else pixels
    color = color[..., None] if color.ndim == 2 else color
    return with_chunks(encode_image(Picture(color, None, icc, "PNG"), "png", EncodeSettings()), *chunks)


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, matrix, full])


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(primaries: tuple, white: tuple[float, float] = (0.3127, 0.3290)) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(v * 100_000) for point in (white, *primaries) for v in point))


def srgb_curve(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(values: np.ndarray, primaries: tuple, light: np.ndarray) -> np.ndarray:
    """What a colour of those primaries and that light is in sRGB, clipped."""
    linear = light @ (np.linalg.inv(matrix_to_xyz(SRGB_PRIMARIES)) @ matrix_to_xyz(primaries)).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def by_littlecms(picture: Picture) -> np.ndarray:
    """What LittleCMS makes of a picture's colours in sRGB, in [0, 1]."""
    assert picture.icc is not None
    own = ImageCms.ImageCmsProfile(BytesIO(picture.icc))
    image = Image.fromarray(picture.rgb8() if picture.color.shape[2] == 3 else picture.color[..., 0])
    exact = ImageCms.Flags.NOOPTIMIZE
    shown = ImageCms.profileToProfile(
        image, own, ImageCms.createProfile("sRGB"), 1, outputMode="RGB", flags=exact
    )
    return np.asarray(shown) / 255


TRUTHS = {
    "linear": ([gama(1.0)], SRGB_PRIMARIES, lambda v: v),
    "gamma": ([gama(1 / 1.8)], SRGB_PRIMARIES, lambda v: v**1.8),
    "adobe": ([gama(256 / 563), chrm(ADOBE_RGB[0])], ADOBE_RGB[0], lambda v: v ** (563 / 256)),
    "primaries-alone": ([chrm(ADOBE_RGB[0])], ADOBE_RGB[0], srgb_curve),
    "p3": ([cicp(12, 13)], DISPLAY_P3[0], srgb_curve),
    "bt2020": ([cicp(9, 14)], BT2020, srgb_curve),
    "p3-linear": ([cicp(12, 8)], DISPLAY_P3[0], lambda v: v),
    "ntsc-gamma": ([cicp(6, 4)], SMPTE_C, lambda v: v**2.2),
    "gamma-2.8": ([cicp(1, 5)], SRGB_PRIMARIES, lambda v: v**2.8),
    "cinema-curve": ([cicp(12, 17)], DISPLAY_P3[0], lambda v: v**2.6),
    "hdtv-of-1988": (
        [cicp(1, 7)],
        SRGB_PRIMARIES,
        lambda v: np.where(v < 0.0912, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45)),
    ),
    "logarithm": ([cicp(1, 9)], SRGB_PRIMARIES, lambda v: 10 ** (2 * (v - 1))),
    "narrow": (
        [cicp(1, 13, full=0)],
        SRGB_PRIMARIES,
        lambda v: srgb_curve(((v * 255 - 16) / 219).clip(0, 1)),
    ),
}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", TRUTHS)
def test_a_png_gets_the_profile_of_its_numbers(name: str, depth: int) -> None:
    chunks, primaries, curve = TRUTHS[name]
    picture = decode_image(png(*chunks, pixels=colors(depth)), "x")
    values = colors() / 255
    expected = to_srgb(values, primaries, curve(values))
    assert np.abs(by_littlecms(picture) - expected).max() < 1.6 / 255
    assert picture.color_chunks == tuple(chunks)
    np.testing.assert_array_equal(picture.color, colors(depth))
    shown = network_input(picture)[0].permute(1, 2, 0).numpy()
    assert np.abs(shown - expected).mean() < 3 / 255


@pytest.mark.parametrize("name", ["linear", "gamma", "p3-linear", "ntsc-gamma", "narrow"])
def test_a_gray_png_gets_a_gray_profile(name: str) -> None:
    chunks, _, curve = TRUTHS[name]
    gray = np.arange(20, 236, dtype=np.uint8).reshape(12, 18)
    picture = decode_image(png(*chunks, pixels=gray), "x")
    assert picture.icc is not None
    assert picture.icc[16:20] == b"GRAY"
    expected = to_srgb(gray, SRGB_PRIMARIES, np.repeat(curve(gray / 255)[..., None], 3, 2))
    assert np.abs(by_littlecms(picture) - expected).max() < 1.6 / 255


@pytest.mark.parametrize(
    "chunks",
    [
        [cicp(1, 13)],
        [cicp(1, 1)],
        [(b"sRGB", b"\0"), gama(1.0), chrm(BT2020)],
        [gama(0.45455)],
        [gama(0.4545), chrm(SRGB_PRIMARIES)],
        [chrm(SRGB_PRIMARIES)],
    ],
    ids=["cicp", "video", "srgb", "gamma", "gamma-and-primaries", "primaries"],
)
def test_srgb_by_number_is_srgb(chunks: list, caplog: pytest.LogCaptureFixture) -> None:
    picture = decode_image(png(*chunks), "x")
    assert picture.icc is None
    kept = picture.color_chunks
    assert kept == tuple(chunks[:1] if chunks[0][0] == b"sRGB" else chunks)
    made = chunks_of(encode_image(picture, "png", EncodeSettings()))
    assert b"iCCP" not in made
    assert all(made[kind] == body for kind, body in kept)
    assert not caplog.records


def test_precedence_is_that_of_the_standard() -> None:
    chunks = [cicp(12, 13), (b"sRGB", b"\1"), gama(1.0), chrm(BT2020)]
    every = decode_image(png(*chunks, icc=OWN), "x")
    assert every.color_chunks == (cicp(12, 13),)
    assert every.icc not in (None, OWN)
    without_cicp = decode_image(png(*chunks[1:], icc=OWN), "x")
    assert (without_cicp.icc, without_cicp.color_chunks) == (OWN, ())
    without_profile = decode_image(png(*chunks[1:]), "x")
    assert (without_profile.icc, without_profile.color_chunks) == (None, (chunks[1],))
    last = decode_image(png(*chunks[2:]), "x")
    assert last.icc is not None
    assert last.color_chunks == (gama(1.0), chrm(BT2020))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("name", ["adobe", "p3"])
def test_colours_by_number_reach_every_format(kind: str, name: str) -> None:
    chunks, _, _ = TRUTHS[name]
    picture = decode_image(png(*chunks), "x")
    data = encode_image(picture, kind, EncodeSettings())
    again = decode_image(data, "y")
    assert again.icc == picture.icc
    if kind == "png":
        made = chunks_of(data)
        assert [made[chunk] for chunk, _ in chunks] == [body for _, body in chunks]
        order = list(made)
        assert order.index(chunks[0][0]) < order.index(b"iCCP") < order.index(b"IDAT")


# --- HDR ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58069), (18, 0.75)], ids=["PQ", "HLG"])
def test_hdr_is_kept_and_shown_toned_down(
    transfer: int, white: float, caplog: pytest.LogCaptureFixture
) -> None:
    """white: the number of paper's white, 203 nits, by ITU-R BT.2408."""
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16)[None, :, None].repeat(3, 2).repeat(4, 0)
    light = (b"mDCV", bytes(range(24))), (b"cLLI", bytes(range(8)))
    picture = decode_image(png(cicp(9, transfer), *light, pixels=ramp), "sunset.png")
    (record,) = caplog.records
    name = {16: "PQ", 18: "HLG"}[transfer]
    assert record.getMessage().startswith(f"sunset.png: HDR ({name}): kept as it is")
    np.testing.assert_array_equal(picture.color, ramp)
    made = chunks_of(encode_image(picture, "png", EncodeSettings()))
    assert (made[b"cICP"], made[b"mDCV"], made[b"cLLI"]) == (
        bytes([9, transfer, 0, 1]),
        light[0][1],
        light[1][1],
    )
    shown = network_input(picture)[0, 0, 0].numpy()
    assert all(one <= two + 1e-3 for one, two in pairwise(shown))
    assert shown[0] < 0.02
    assert shown[-1] > 0.97
    # Paper is light, a fifth of its light is middle gray; without the chunk both would be mud.
    assert shown[round(white * 255)] == pytest.approx(0.88, abs=0.02)
    gray = {16: 0.4295, 18: 0.4398}[transfer]
    assert shown[round(gray * 255)] == pytest.approx(0.49, abs=0.03)


def test_hdr_profiles_say_what_they_stand_for() -> None:
    picture = decode_image(png(cicp(9, 16), pixels=colors(16)), "x")
    assert picture.icc is not None
    assert b"cicp\0\0\0\0\x09\x10\0\1" in picture.icc


# --- numbers of no use -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (cicp(3, 13), "primaries 3 are not known here"),
        (cicp(12, 2), "transfer 2 is not known here"),
        (cicp(12, 99), "transfer 99 is not known here"),
        (cicp(9, 16, matrix=9), "cannot be YCbCr"),
        ((b"cICP", b"\x09\x10"), "2 bytes in place of 4"),
        ((b"cICP", b"\x09\x10\0\1\0"), "5 bytes in place of 4"),
        (gama(0), "a gamma of 0"),
        ((b"gAMA", b"\xff\xff\xff\xff"), "a gamma of 42949.7"),
        ((b"gAMA", b"\0"), "gAMA, cHRM"),
        ((b"cHRM", bytes(32)), "span no colours"),
        ((b"cHRM", b"\xff" * 32), "span no colours"),
        ((b"cHRM", bytes(7)), "gAMA, cHRM"),
        (chrm(((0.3, 0.3), (0.3, 0.3), (0.3, 0.3))), "span no colours"),
        (chrm(SRGB_PRIMARIES, (0.3, 0.0)), "span no colours"),
    ],
)
def test_numbers_of_no_use_are_told_of(
    chunk: tuple[bytes, bytes], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = decode_image(png(chunk), "odd.png")
    assert (picture.icc, picture.color_chunks) == (None, ())
    (record,) = caplog.records
    assert record.getMessage().startswith("odd.png: its colours by number")
    assert reason in record.getMessage()


def test_numbers_of_no_use_leave_the_next_in_force(caplog: pytest.LogCaptureFixture) -> None:
    assert decode_image(png(cicp(99, 13), icc=OWN), "x").icc == OWN
    picture = decode_image(png(cicp(99, 13), gama(1.0)), "x")
    assert picture.color_chunks == (gama(1.0),)
    assert picture.icc is not None
    assert len(caplog.records) == 2


# --- AVIF --------------------------------------------------------------------------------------------


def avif(primaries: int, transfer: int, **options: object) -> bytes:
    """An AVIF that states its colours by number."""
    buffer = BytesIO()
    Image.fromarray(colors()).save(buffer, "AVIF", quality=100, **options)
    data = buffer.getvalue()
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def test_avif_states_colours_by_number() -> None:
    picture = decode_image(avif(12, 13), "x")
    expected = decode_image(png(cicp(12, 13)), "x")
    assert (picture.icc, picture.color_chunks) == (expected.icc, expected.color_chunks)
    assert decode_image(avif(9, 2), "x").color_chunks == (cicp(9, 13),)
    assert decode_image(avif(2, 8), "x").color_chunks == (cicp(1, 8),)
    for numbers in ((1, 13), (1, 1), (2, 2)):
        assert decode_image(avif(*numbers), "x").icc is None


def test_a_profile_of_avif_decides_before_its_numbers() -> None:
    """Where both are there, the numbers say only how pixels become RGB."""
    buffer = BytesIO()
    Image.fromarray(colors()).save(buffer, "AVIF", icc_profile=OWN)
    assert decode_image(buffer.getvalue(), "x").icc == OWN


def test_hdr_avif_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    picture = decode_image(avif(9, 16), "sunset.avif")
    assert picture.color_chunks == (cicp(9, 16),)
    assert caplog.records[0].getMessage().startswith("sunset.avif: HDR (PQ)")


def test_numbers_of_other_images_in_an_avif_do_not_count() -> None:
    """The properties of a file may hold those of an image beside the main one; here they stand first."""
    data = avif(1, 13)
    other = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 9, 16, 9, 128)
    assert len(other) == 19
    changed = bytearray(data)
    at = data.index(b"ipco")
    # The box of properties gets one more, which no image is associated with: all others move by one.
    changed[at + 4 : at + 4] = other
    for name in (b"ipco", b"iprp", b"meta"):
        place = data.index(name) - 4
        struct.pack_into(">I", changed, place, struct.unpack_from(">I", data, place)[0] + 19)
    ipma = changed.index(b"ipma") + 4
    entries = changed[ipma + 8 + 2]
    for at in range(ipma + 11, ipma + 11 + entries):
        changed[at] += 1
    from strsr_cli.images.codecs.avif import read_color_chunks

    assert read_color_chunks(BytesIO(data)) == read_color_chunks(BytesIO(bytes(changed)))


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_cut_boxes_state_nothing(cut: int) -> None:
    from strsr_cli.images.codecs.avif import read_color_chunks

    assert read_color_chunks(BytesIO(avif(12, 13)[:cut])) in ((), (cicp(12, 13),))


def test_frames_have_the_colours_of_their_file(tmp_path: Path) -> None:
    images = [Image.fromarray(colors()), Image.fromarray(colors()[::-1])]
    buffer = BytesIO()
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:])
    path = tmp_path / "clip.png"
    path.write_bytes(with_chunks(buffer.getvalue(), cicp(12, 13)))
    expected = decode_image(png(cicp(12, 13)), "x")
    for number in (1, 2):
        frame = read_frame(path, number)
        assert (frame.icc, frame.color_chunks) == (expected.icc, expected.color_chunks)


def test_a_gray_profile_in_png_needs_no_number() -> None:
    gray = np.full((4, 4), 9, np.uint8)
    picture = decode_image(png(gama(1.0), pixels=gray, icc=gray_profile(1.8)), "x")
    assert (picture.icc, picture.color_chunks) == (gray_profile(1.8), ())
