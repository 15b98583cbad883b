"""Kinds of files with colours: depth, profile, gray, palette, alpha, inks, floats, colours by number.

Each kind makes a file of a scene, light in sRGB's primaries: float (h, w, 3) in [0, 1]. Where readers of
colours cannot be trusted with the file itself, a reference says in their words what it means.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from .image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB_PRIMARIES,
    bmp_with_alpha,
    gray_profile,
    matrix_profile,
    matrix_to_xyz,
    press_profile,
    with_chunks,
)

BT2020 = (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)
SRGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Primaries, and a power or sRGB's own curve.
SRGB, ADOBE, P3 = (SRGB_PRIMARIES, None), ADOBE_RGB, DISPLAY_P3
P3_SRGB, WIDE, WIDE_SRGB, LINEAR = (P3[0], None), (BT2020, 1.8), (BT2020, None), (SRGB_PRIMARIES, 1.0)
Space = tuple[Any, float | None]
Scene = np.ndarray


@dataclass(frozen=True)
class Kind:
    """name: also the files', with the suffix. out: the format to write, where it is not the file's own."""

    name: str
    suffix: str
    make: Callable[[Scene], bytes]
    reference: tuple[str, Callable[[Scene], bytes]] | None = None
    out: str | None = None


def numbers(scene: Scene, space: Space, levels: int = 255) -> np.ndarray:
    """A scene's numbers in a space, rounded to so many levels; 0: floats."""
    primaries, gamma = space
    light = scene @ (np.linalg.inv(matrix_to_xyz(primaries)) @ matrix_to_xyz(SRGB_PRIMARIES)).T
    light = light.clip(0, 1)
    if gamma is None:
        values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    else:
        values = light ** (1 / gamma)
    if not levels:
        return values.astype(np.float32)
    return np.rint(values * levels).astype(np.uint8 if levels < 256 else np.uint16)


def gray_numbers(scene: Scene, gamma: float | None, levels: int = 255) -> np.ndarray:
    light = (scene @ np.array([0.2126, 0.7152, 0.0722]))[..., None].repeat(3, 2)
    return numbers(light, (SRGB_PRIMARIES, gamma), levels)[..., 0]


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    """The same with transparency that hides nothing: from half of it to none."""
    top = np.iinfo(pixels.dtype).max
    alpha = np.linspace(0.5, 1, pixels.shape[1])[None, :, None].repeat(len(pixels), 0) * top
    return np.concatenate([pixels, alpha.astype(pixels.dtype)], axis=2)


# --- files -------------------------------------------------------------------------------------------


def pillow(pixels: np.ndarray, form: str, icc: bytes | None = None, mode: str | None = None) -> bytes:
    options: dict[str, Any] = {} if icc is None else {"icc_profile": icc}
    if form == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    elif form == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif form == "AVIF":
        options |= {"quality": 100, "subsampling": "4:4:4"}
    image = Image.fromarray(pixels)
    buffer = BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, form, **options)
    return buffer.getvalue()


def png16(pixels: np.ndarray, *chunks: tuple[bytes, bytes], icc: bytes | None = None) -> bytes:
    ordered = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    _, data = cv2.imencode(".png", ordered)
    if icc is not None:
        chunks += ((b"iCCP", b"x\0\0" + zlib.compress(icc)),)
    return with_chunks(bytes(data), *chunks)


def tif(pixels: np.ndarray, icc: bytes | None = None) -> bytes:
    buffer = BytesIO()
    options: dict[str, Any] = {"photometric": "minisblack" if pixels.ndim == 2 else "rgb", "iccprofile": icc}
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def avif_by_number(pixels: np.ndarray, primaries: int, transfer: int) -> bytes:
    data = pillow(pixels, "AVIF")
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def inks(scene: Scene, form: str, icc: bytes | None) -> bytes:
    return pillow(numbers(scene, SRGB), form, icc, mode="CMYK")


# --- kinds -------------------------------------------------------------------------------------------


def color_kinds() -> Iterator[Kind]:
    """All kinds; the first is the plain one that photos are compared with."""
    yield Kind("png-8", ".png", lambda scene: pillow(numbers(scene, SRGB), "PNG"))
    yield from _by_profile()
    yield from _with_alpha()
    yield from _grays()
    yield from _palettes()
    yield from _of_inks()
    yield from _floats()
    yield from _by_number()
    yield from _to_other_formats()


def _plain_float(scene: Scene) -> bytes:
    return tif(numbers(scene, SRGB, 0))


def _by_profile() -> Iterator[Kind]:
    spaces = (("", SRGB, None), ("-srgb", SRGB, SRGB_ICC), ("-adobe", ADOBE, matrix_profile(*ADOBE)))
    spaces += (("-p3", P3, matrix_profile(*P3)), ("-wide", WIDE, matrix_profile(*WIDE)))  # type: ignore[arg-type]
    for name, space, icc in spaces:
        if name:
            yield Kind(f"png-8{name}", ".png", lambda s, x=space, i=icc: pillow(numbers(s, x), "PNG", i))
        yield Kind(f"png-16{name}", ".png", lambda s, x=space, i=icc: png16(numbers(s, x, 65_535), icc=i))
        yield Kind(f"tif-8{name}", ".tif", lambda s, x=space, i=icc: tif(numbers(s, x), i))
        yield Kind(f"tif-16{name}", ".tif", lambda s, x=space, i=icc: tif(numbers(s, x, 65_535), i))
        for form in ("JPEG", "WEBP", "AVIF"):
            suffix = {"JPEG": ".jpg", "WEBP": ".webp", "AVIF": ".avif"}[form]
            make = lambda s, x=space, i=icc, f=form: pillow(numbers(s, x), f, i)
            # WebP's own loss is too large in wide spaces.
            yield Kind(suffix[1:] + name, suffix, make, out="png" if form == "WEBP" and name else None)
    linear = matrix_profile(*LINEAR)
    yield Kind("png-16-linear", ".png", lambda scene: png16(numbers(scene, LINEAR, 65_535), icc=linear))
    yield Kind("tif-16-linear", ".tif", lambda scene: tif(numbers(scene, LINEAR, 65_535), linear))
    yield Kind("bmp-8", ".bmp", lambda scene: pillow(numbers(scene, SRGB), "BMP"))


def _with_alpha() -> Iterator[Kind]:
    adobe, p3 = matrix_profile(*ADOBE), matrix_profile(*P3)
    for form, suffix in (("PNG", ".png"), ("WEBP", ".webp"), ("AVIF", ".avif")):
        make = lambda s, f=form: pillow(with_alpha(numbers(s, P3)), f, p3)
        yield Kind(f"alpha-{suffix[1:]}-p3", suffix, make, out="png" if form == "WEBP" else None)
    yield Kind(
        "alpha-png-16-adobe", ".png", lambda s: png16(with_alpha(numbers(s, ADOBE, 65_535)), icc=adobe)
    )
    yield Kind("alpha-tif-8-adobe", ".tif", lambda s: tif(with_alpha(numbers(s, ADOBE)), adobe))
    yield Kind("alpha-tif-16-adobe", ".tif", lambda s: tif(with_alpha(numbers(s, ADOBE, 65_535)), adobe))
    empty = np.zeros((1, 1, 1), np.uint8)
    yield Kind(
        "alpha-of-nothing-bmp",
        ".bmp",
        lambda s: bmp_with_alpha(
            np.dstack([numbers(s, SRGB), np.broadcast_to(empty, (*s.shape[:2], 1))]), 124
        ),
        (".png", lambda s: pillow(numbers(s, SRGB), "PNG")),
    )


def _grays() -> Iterator[Kind]:
    for gamma in (1.0, 1.8, 2.6):
        icc = gray_profile(gamma)
        yield Kind(
            f"gray-png-16-{gamma}", ".png", lambda s, g=gamma, i=icc: png16(gray_numbers(s, g, 65_535), icc=i)
        )
        yield Kind(
            f"gray-tif-16-{gamma}", ".tif", lambda s, g=gamma, i=icc: tif(gray_numbers(s, g, 65_535), i)
        )
    icc = gray_profile(1.8)
    yield Kind("gray-png", ".png", lambda s: pillow(gray_numbers(s, None), "PNG"))
    yield Kind("gray-png-16", ".png", lambda s: png16(gray_numbers(s, None, 65_535)))
    yield Kind("gray-jpg", ".jpg", lambda s: pillow(gray_numbers(s, None), "JPEG"))
    yield Kind("gray-png-1.8", ".png", lambda s: pillow(gray_numbers(s, 1.8), "PNG", icc))
    yield Kind("gray-jpg-1.8", ".jpg", lambda s: pillow(gray_numbers(s, 1.8), "JPEG", icc))
    yield Kind(
        "gray-alpha-png-1.8",
        ".png",
        lambda s: pillow(with_alpha(gray_numbers(s, 1.8)[..., None]), "PNG", icc),
    )
    # Readers refuse gray pixels with a profile of RGB: what they mean is the same in equal channels.
    adobe = matrix_profile(*ADOBE)
    for form, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tif")):
        yield Kind(
            f"gray-{suffix[1:]}-of-rgb",
            suffix,
            lambda s, f=form: pillow(gray_numbers(s, ADOBE[1]), f, adobe),
            (".png", lambda s: pillow(gray_numbers(s, ADOBE[1])[..., None].repeat(3, 2), "PNG", adobe)),
        )


def _palettes() -> Iterator[Kind]:
    def reduced(pixels: np.ndarray) -> Image.Image:
        return Image.fromarray(pixels).quantize(200, dither=Image.Dither.NONE)

    def saved(image: Image.Image, **options: Any) -> bytes:
        buffer = BytesIO()
        image.save(buffer, "PNG", **options)
        return buffer.getvalue()

    adobe = matrix_profile(*ADOBE)
    yield Kind("palette", ".png", lambda s: saved(reduced(numbers(s, SRGB))))
    yield Kind("palette-adobe", ".png", lambda s: saved(reduced(numbers(s, ADOBE)), icc_profile=adobe))
    yield Kind(
        "palette-of-grays-adobe",
        ".png",
        lambda s: saved(Image.fromarray(gray_numbers(s, ADOBE[1])).convert("P"), icc_profile=adobe),
    )


def _of_inks() -> Iterator[Kind]:
    icc = press_profile()
    for form, suffix in (("JPEG", ".jpg"), ("TIFF", ".tif")):
        yield Kind(f"cmyk-{suffix[1:]}-press", suffix, lambda s, f=form: inks(s, f, icc))
        yield Kind(
            f"cmyk-{suffix[1:]}",
            suffix,
            lambda s, f=form: inks(s, f, None),
            (".png", lambda s: pillow(numbers(s, SRGB), "PNG")),
        )


def _floats() -> Iterator[Kind]:
    for name, space in (("", SRGB), ("-adobe", ADOBE), ("-linear", LINEAR)):
        icc = matrix_profile(*space) if name else None  # type: ignore[arg-type]
        yield Kind(f"tif-float{name}", ".tif", lambda s, x=space, i=icc: tif(numbers(s, x, 0), i))
    yield Kind(
        "tif-half", ".tif", lambda s: tif(numbers(s, SRGB, 0).astype(np.float16)), (".tif", _plain_float)
    )
    yield Kind("gray-tif-float", ".tif", lambda s: tif(gray_numbers(s, None, 0)))


def _by_number() -> Iterator[Kind]:
    def cicp(primaries: int, transfer: int, full: int = 1) -> tuple[bytes, bytes]:
        return b"cICP", bytes([primaries, transfer, 0, full])

    def gamma(value: float) -> tuple[bytes, bytes]:
        return b"gAMA", struct.pack(">I", round(100_000 / value))

    adobe = b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    made: tuple[tuple[str, Space, list[tuple[bytes, bytes]]], ...] = (
        ("srgb-chunk", SRGB, [(b"sRGB", b"\0")]),
        ("gamma-2.2", (SRGB_PRIMARIES, 2.2), [cicp(1, 4)]),
        ("gama-1.8", (SRGB_PRIMARIES, 1.8), [gamma(1.8)]),
        ("gama-linear", LINEAR, [gamma(1.0)]),
        ("gama-chrm-adobe", ADOBE, [gamma(ADOBE[1]), adobe]),
        ("chrm-adobe", (ADOBE[0], None), [adobe]),
        ("cicp-p3", P3_SRGB, [cicp(12, 13)]),
        ("cicp-bt2020", WIDE_SRGB, [cicp(9, 14)]),
        ("cicp-linear", LINEAR, [cicp(1, 8)]),
    )
    for name, space, chunks in made:
        # Readers that know no numbers are given the same pixels with a profile, or with sRGB's numbers.
        reference = (".tif", lambda s, x=space: _referred(s, x))
        make = lambda s, x=space, c=chunks: png16(numbers(s, x, 65_535), *c)
        yield Kind(f"png-16-{name}", ".png", make, reference)
    p3 = (".tif", lambda s: _referred(s, P3_SRGB))
    yield Kind(
        "png-8-cicp-p3", ".png", lambda s: with_chunks(pillow(numbers(s, P3_SRGB), "PNG"), cicp(12, 13)), p3
    )
    avif = lambda s: avif_by_number(numbers(s, P3_SRGB), 12, 13)
    yield Kind("avif-nclx-p3", ".avif", avif, (".tif", lambda s: _p3_light(avif(s))))
    gray = (".png", lambda s: png16(gray_numbers(s, 1.8, 65_535), icc=gray_profile(1.8)))
    yield Kind("gray-png-16-gama", ".png", lambda s: png16(gray_numbers(s, 1.8, 65_535), gamma(1.8)), gray)


def _referred(scene: Scene, space: Space) -> bytes:
    """The scene in 16 bits with a profile: the space's own, or, of sRGB's curve, in light itself."""
    if space[1] is None:
        linear = (space[0], 1.0)
        return tif(numbers(scene, linear, 65_535), matrix_profile(*linear))
    return tif(numbers(scene, space, 65_535), matrix_profile(space[0], space[1]))


def _p3_light(data: bytes) -> bytes:
    """The pixels of a file in the primaries of Display P3 and the curve of sRGB, as 16 bits of light."""
    with Image.open(BytesIO(data)) as image:
        values = np.asarray(image.convert("RGB")) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return tif(np.rint(light * 65_535).astype(np.uint16), matrix_profile(P3[0], 1.0))


def _to_other_formats() -> Iterator[Kind]:
    p3, gray = matrix_profile(*P3), gray_profile(1.8)
    for out in ("bmp", "jpg", "webp", "avif", "tif"):
        yield Kind(f"png-8-to-{out}", ".png", lambda s: pillow(numbers(s, SRGB), "PNG"), out=out)
        yield Kind(f"png-8-p3-to-{out}", ".png", lambda s: pillow(numbers(s, P3), "PNG", p3), out=out)
        yield Kind(
            f"gray-png-1.8-to-{out}", ".png", lambda s: pillow(gray_numbers(s, 1.8), "PNG", gray), out=out
        )
    yield Kind(
        "png-16-cicp-p3-to-jpg",
        ".png",
        lambda s: png16(numbers(s, P3_SRGB, 65_535), (b"cICP", bytes([12, 13, 0, 1]))),
        (".tif", lambda s: _referred(s, P3_SRGB)),
        out="jpg",
    )
