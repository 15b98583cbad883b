"""XMP: what it says of the old file is taken out, turned with the pixels, or scaled with them.

docs/using/formats.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterator

from .markup import Element, Span, Value, change, decode_packet, encode_packet, parse_elements

# What is taken out, attribute or element: sizes, orientation and kinds of the old file's pixels ...
OF_THE_FILE = {
    "tiff:Orientation",
    "tiff:ImageWidth",
    "tiff:ImageLength",
    "tiff:BitsPerSample",
    "tiff:Compression",
    "tiff:PhotometricInterpretation",
    "tiff:SamplesPerPixel",
    "tiff:PlanarConfiguration",
    "tiff:YCbCrSubSampling",
    "tiff:YCbCrPositioning",
    "tiff:NativeDigest",
    "exif:NativeDigest",
    "exif:PixelXDimension",
    "exif:PixelYDimension",
    "exif:FocalPlaneXResolution",
    "exif:FocalPlaneYResolution",
    "exif:FocalPlaneResolutionUnit",
    "exif:SubjectArea",
    "exif:SubjectLocation",
    "photoshop:ColorMode",
    "photoshop:ICCProfile",
    "xmp:Thumbnails",
    "dc:format",
}
# ... and pointers to what stands behind a picture or beside it -> what is gone with them.
GAIN_MAP, DEPTH_MAP, VIDEO, SOUND = "gain map", "depth map", "video", "sound"
EXTENSION, SECOND_IMAGE = "extended XMP", "second image"
POINTERS = {
    "hdrgm": GAIN_MAP,
    "HDRGainMap": GAIN_MAP,
    "apdi": None,
    "depthData": DEPTH_MAP,
    "GDepth": DEPTH_MAP,
    "GFocus": DEPTH_MAP,
    "Device": DEPTH_MAP,
    "GImage": SECOND_IMAGE,
    "GAudio": SOUND,
    "Container": None,
    "GCamera:MotionPhoto": VIDEO,
    "GCamera:MicroVideo": VIDEO,
    "xmpNote:HasExtendedXMP": EXTENSION,
}
MOTION = ("GCamera:MotionPhoto", "GCamera:MicroVideo")
SEMANTICS = {"GainMap": GAIN_MAP, "Depth": DEPTH_MAP, "MotionPhoto": VIDEO}
# Sizes and places of a panorama's parts in px.
PANORAMA = "GPano"
ACROSS = (
    "GPano:FullPanoWidthPixels",
    "GPano:CroppedAreaImageWidthPixels",
    "GPano:CroppedAreaLeftPixels",
    "GPano:LargestValidInteriorRectLeft",
    "GPano:LargestValidInteriorRectWidth",
)
DOWN = (
    "GPano:FullPanoHeightPixels",
    "GPano:CroppedAreaImageHeightPixels",
    "GPano:CroppedAreaTopPixels",
    "GPano:LargestValidInteriorRectTop",
    "GPano:LargestValidInteriorRectHeight",
)
Edit = tuple[Span, str]


def xmp_orientation(packet: bytes | None) -> int | None:
    """Return the orientation, 1 to 8, that a packet states; None where it states none."""
    text = "" if packet is None else decode_packet(packet)
    if "Orientation" not in text:
        return None
    for element in parse_elements(text):
        value = element.values.get("tiff:Orientation")
        if value is not None and value.text.strip() in "12345678" and len(value.text.strip()) == 1:
            return int(value.text)
    return None


def clean_xmp(packet: bytes, orientation: int) -> tuple[bytes, set[str]]:
    """Return a packet without what is not true of other pixels, its regions turned upright; and what is lost.

    orientation: 1 to 8, by which the pixels are turned. Lost are things that the packet points to, such as
    "gain map".
    """
    text = decode_packet(packet)
    elements = parse_elements(text)
    lost: set[str] = set()
    edits: list[Edit] = []
    for element in elements:
        edits += _removals(element, lost, turned=orientation != 1)
    if orientation != 1:
        edits += _turn_regions(elements, orientation)
    return encode_packet(change(text, edits)), lost


def _removals(element: Element, lost: set[str], turned: bool) -> Iterator[Edit]:
    """Give the removals of an element and of its attributes."""
    semantic = element.values.get("Item:Semantic")
    if semantic is not None and semantic.text in SEMANTICS:
        lost.add(SEMANTICS[semantic.text])
    if element.span is not None and _goes(element.name, turned):
        _note_loss(element.name, None, lost)
        yield element.span, ""
    for name, value in element.values.items():
        if _goes(name, turned):
            _note_loss(name, value, lost)
            yield value.whole, ""


def _goes(name: str, turned: bool) -> bool:
    """Whether what is called so is taken out. turned: whether pixels are, which no panorama survives."""
    prefix = name.partition(":")[0]
    motion = name.startswith(MOTION)
    return (
        name in OF_THE_FILE
        or name in POINTERS
        or prefix in POINTERS
        or motion
        or (turned and prefix == PANORAMA)
    )


def _note_loss(name: str, value: Value | None, lost: set[str]) -> None:
    """Add what something that is called so points to; a value of 0 says that there is none."""
    what = POINTERS.get(name) or POINTERS.get(name.partition(":")[0])
    if name.partition(":")[0] == PANORAMA:
        what = "panorama's sizes, as its pixels are turned"
    if what is not None and (value is None or value.text.strip() not in ("0", "")):
        lost.add(what)


def scale_xmp(packet: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Return a packet whose numbers of px are those of the enlarged picture. old, new: (height, width)."""
    text = decode_packet(packet)
    edits: list[Edit] = []
    for element in parse_elements(text):
        for names, side in ((ACROSS, 1), (DOWN, 0)):
            for name in names:
                edits += _scaled(element, name, new[side] / old[side])
        if element.applied and _says(element, "stDim:unit", "pixel", otherwise=True):
            edits += _scaled(element, "stDim:w", new[1] / old[1])
            edits += _scaled(element, "stDim:h", new[0] / old[0])
        if _says(element, "stArea:unit", "pixel"):
            for name, side in (("x", 1), ("w", 1), ("d", 1), ("y", 0), ("h", 0)):
                edits += _scaled(element, f"stArea:{name}", new[side] / old[side], whole=False)
        if _says(element, "Iptc4xmpExt:rbUnit", "pixel"):
            for name, side in (("rbX", 1), ("rbW", 1), ("rbRx", 1), ("rbY", 0), ("rbH", 0)):
                edits += _scaled(element, f"Iptc4xmpExt:{name}", new[side] / old[side], whole=False)
    return encode_packet(change(text, edits))


def _says(element: Element, name: str, word: str, otherwise: bool = False) -> bool:
    """Whether a value is that word. otherwise: the answer where it is missing."""
    value = element.values.get(name)
    return otherwise if value is None else value.text.strip() == word


def _scaled(element: Element, name: str, factor: float, whole: bool = True) -> Iterator[Edit]:
    """Give the edit that multiplies a value, where it is a number. whole: whether it is one of px."""
    value = element.values.get(name)
    number = None if value is None else _number(value.text)
    if value is not None and number is not None:
        yield value.span, str(round(number * factor)) if whole else _text_of(number * factor)


def _number(text: str) -> float | None:
    """Return a text as a number; None where it is none that can be calculated with."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None


def _text_of(number: float) -> str:
    """Return a number as XMP has it: up to six digits behind the point, without zeros at the end."""
    return f"{number:.6f}".rstrip("0").rstrip(".") or "0"


# --- regions: faces, pets, codes ---------------------------------------------------------------------
# Their places count in the stored picture, before its orientation is applied.


def _turn_regions(elements: list[Element], orientation: int) -> Iterator[Edit]:
    """Give the edits that turn rectangles, shares of the picture, upright; and the size that they are of."""
    for element in elements:
        values = element.values
        area = [values.get(f"stArea:{name}") for name in "xywh"]
        if not _says(element, "stArea:unit", "pixel"):
            yield from _turn_values(area, orientation, centred=True)
        rectangle = values.get("MPReg:Rectangle")
        if rectangle is not None:
            numbers = [_number(part) for part in rectangle.text.split(",")]
            if len(numbers) == 4 and None not in numbers:
                turned = _turn([number or 0 for number in numbers], orientation, centred=False)
                yield rectangle.span, ", ".join(map(_text_of, turned))
        if _says(element, "Iptc4xmpExt:rbUnit", "relative"):
            box = [values.get(f"Iptc4xmpExt:{name}") for name in ("rbX", "rbY", "rbW", "rbH")]
            yield from _turn_values(box, orientation, centred=False)
        if orientation >= 5 and element.applied:
            yield from _swap(values.get("stDim:w"), values.get("stDim:h"))


def _turn_values(values: list[Value | None], orientation: int, centred: bool) -> Iterator[Edit]:
    """Give the edits of a rectangle whose four numbers stand apart; a circle's or a point's are x and y."""
    numbers = [0.0 if value is None else _number(value.text) for value in values]
    if values[0] is None or values[1] is None or None in numbers:
        return
    turned = _turn([number or 0 for number in numbers], orientation, centred)
    for value, number in zip(values, turned, strict=True):
        if value is not None:
            yield value.span, _text_of(number)


def _turn(rectangle: list[float], orientation: int, centred: bool) -> list[float]:
    """Turn x, y, width and height, shares of the picture, as its pixels are turned.

    centred: whether x and y are the middle, and not the left upper corner.
    """
    x, y, w, h = rectangle
    if not centred:
        x, y = x + w / 2, y + h / 2
    if orientation >= 5:
        x, y, w, h = y, x, h, w
    if orientation in (2, 3, 6, 7):
        x = 1 - x
    if orientation in (3, 4, 7, 8):
        y = 1 - y
    if not centred:
        x, y = x - w / 2, y - h / 2
    return [x, y, w, h]


def _swap(one: Value | None, other: Value | None) -> Iterator[Edit]:
    """Give the edits that exchange two values."""
    if one is not None and other is not None:
        yield one.span, other.text
        yield other.span, one.text
