"""EXIF, XMP and profiles through every format and back, as exiftool reads them before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, encode_image

from ..helpers.image_files import ADOBE_RGB, matrix_profile
from ..helpers.metadata_files import generated_exif, jpeg_with, png_with, tiff_of, tiff_with, xmp_packet

PIXELS = (np.mgrid[:20, :24].sum(0)[..., None] * np.array([3, 2, 4])).astype(np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257
FLOATS = (PIXELS / 255).astype(np.float32)
ICC = matrix_profile(*ADOBE_RGB)
XMP = xmp_packet(
    'dc:source="José\'s album" xmp:Rating="4" photoshop:City="Köln" exif:FNumber="28/10"',
    "<dc:subject><rdf:Bag><rdf:li>eins</rdf:li><rdf:li>zwei</rdf:li></rdf:Bag></dc:subject>"
    '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Über</rdf:li></rdf:Alt></dc:title>',
    dc="http://purl.org/dc/elements/1.1/",
    xmp="http://ns.adobe.com/xap/1.0/",
    photoshop="http://ns.adobe.com/photoshop/1.0/",
    exif="http://ns.adobe.com/exif/1.0/",
)
SOURCES = ("png", "deep.png", "jpg", "webp", "tif", "deep.tif", "float.tif", "avif")
# What is ours to change: orientation and sizes, and the place of a resolution.
OURS = {"IFD0:Orientation", "ExifIFD:ExifImageWidth", "ExifIFD:ExifImageHeight"}
GROUPS = ("IFD0", "ExifIFD", "GPS", "InteropIFD", "XMP", "ICC")
# Tags of a TIFF file's first directory that say how its pixels lie.
LAYOUT = {
    "BitsPerSample", "Compression", "ImageHeight", "ImageWidth", "PhotometricInterpretation", "PlanarConfiguration",
    "Predictor", "RowsPerStrip", "SampleFormat", "SamplesPerPixel", "StripByteCounts", "StripOffsets",
    "SubfileType", "XResolution", "YResolution", "ResolutionUnit",
}  # fmt: skip


def source(kind: str, order: str, seed: int) -> bytes:
    """A file with generated EXIF, XMP and a profile, put together without the code that is tested."""
    tiff = kind.endswith("tif")
    parts = generated_exif(order, seed, private=not tiff)
    first = parts.pop("first")
    if tiff:
        pixels = {"tif": PIXELS, "deep.tif": DEEP, "float.tif": FLOATS}[kind]
        return tiff_with(pixels, order, [*first, (700, 1, XMP), (34675, 7, ICC)], **parts)
    exif = tiff_of(order, first, **parts)
    if kind.endswith("png"):
        import zlib

        chunks = [(b"iCCP", b"x\0\0" + zlib.compress(ICC)), (b"eXIf", exif)]
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
        return png_with(DEEP if kind == "deep.png" else PIXELS, *chunks)
    if kind == "jpg":
        packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP
        profile = b"ICC_PROFILE\0\1\1" + ICC
        return jpeg_with(PIXELS, (0xE1, b"Exif\0\0" + exif), (0xE1, packet), (0xE2, profile))
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind.upper(), exif=exif, xmp=XMP, icc_profile=ICC, quality=90)
    return buffer.getvalue()


def made(data: bytes, target: str) -> bytes:
    """The picture of a file, twice as large, in another format and depth."""
    picture = decode_image(data, "x")
    color = picture.color.repeat(2, 0).repeat(2, 1)
    shown = color / {"uint8": 255, "uint16": 65_535, "float32": 1}[color.dtype.name]
    if target == "float.tif":
        color = shown.astype(np.float32)
    elif target.startswith("deep"):
        color = np.rint(shown * 65_535).astype(np.uint16)
    else:
        color = np.rint(shown * 255).astype(np.uint8)
    large = Picture(color, None, picture.icc, picture.format, picture.metadata)
    return encode_image(large, target.rpartition(".")[2], EncodeSettings())


def tags_of(folder: Path) -> dict[str, dict[str, object]]:
    """What exiftool reads of all files of a folder, raw numbers and bytes, tags of nobody's too."""
    command = ["exiftool", "-j", "-G1", "-b", "-n", "-u", "-a", *map(str, sorted(folder.iterdir()))]
    reports = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {
        Path(report["SourceFile"]).name: {
            key: value
            for key, value in report.items()
            if key.startswith(GROUPS) and key not in OURS and not _is_layout(key)
        }
        for report in reports
    }


def _is_layout(key: str) -> bool:
    group, _, name = key.partition(":")
    return group == "IFD0" and name in LAYOUT


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (libimage-exiftool-perl)")
def test_metadata_comes_back_to_the_bit_in_every_format(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    for order in "<>":
        for seed, kind in enumerate(SOURCES):
            name = f"{'little' if order == '<' else 'big'}-{kind}"
            data = source(kind, order, seed)
            (before / name).write_bytes(data)
            for target in SOURCES:
                (after / f"{name}-to-{target}").write_bytes(made(data, target))
    read, written = tags_of(before), tags_of(after)
    compared = 0
    for name, tags in written.items():
        expected = read[name.partition("-to-")[0]]
        different = {
            key: (expected.get(key), tags.get(key))
            for key in {*expected, *tags}
            if expected.get(key) != tags.get(key)
        }
        assert not different, f"{name}: {different}"
        compared += len(expected)
    print(f"\n{compared} tags of {len(written)} files compared")
    assert len(written) == 128
    assert compared > 15_000
