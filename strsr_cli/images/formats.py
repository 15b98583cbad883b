"""The file formats: their names, how their files begin, and what they can hold. Opens no files."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass

from strsr_models.errors import ImageError
from strsr_models.packages import install_command

QUALITY = 95  # of outputs, unless --quality says otherwise
PNG_COMPRESSION = 1  # of outputs, unless --png-compression says otherwise
MAX_PIXELS = 2**28  # of an input, unless --max-pixels says otherwise: 268 million, 0.8 GB as 8-bit RGB

# Suffixes of formats that are read and written -> keys of OUTPUT_FORMATS.
FORMAT_BY_SUFFIX = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jfif": "jpg",
    ".webp": "webp",
    ".tif": "tif",
    ".tiff": "tif",
    ".bmp": "bmp",
    ".avif": "avif",
}
# Suffixes of formats that are only read; `--format keep` makes PNG of them, which loses nothing.
READ_ONLY_SUFFIXES = (".gif", ".apng", ".heic", ".heif", ".hif", ".jxl")
# Suffixes of images, and of what else image programs write, that strsr neither reads nor writes. OUTPUT with one of
# them is a mistake, and no folder.
_OTHER_IMAGES = (
    "jpe jpg2 jif jfi jpx jpf jp2 j2k j2c jpc jpm jpt jph jhc jls jps pns mpo jxr wdp hdp jng mng jbig jbig2 jbg "
    "bpg flif qoi avci avcs avifs heics heifs ico cur ani icns icb vda vst tga targa pcx dcx pcd dib rle wbmp "
    "pbm pgm ppm pnm pam pfm phm xbm xpm xwd ras sun sgi rgb rgba bgr bgra gray graya cmyk yuv uyvy ycbcr bw pix "
    "pic pict pct mac msp otb palm pxr cin dpx hdr exr rgbe rgbm rad dds ktx ktx2 basis blp vtf ftc ftu astc pvr "
    "fit fits fts fli flc dcm dicom nii ndpi svs vms vmu scn mrxs svslide bif dz szi grib bufr viff vicar xv vips "
    "fax g3 g4 cals iff ilbm lbm im iim img gbr pat cut wpg avs mtv art djvu djv cgm dwg dxf emf wmf emz wmz "
    "eps epsf epsi ept ps ps2 ps3 pdf ai svg svgz cdr psd psb psp pspimage pdn xcf kra ora clip mdp sai sai2 "
    "procreate afphoto afdesign sketch fig raw gifv webm"
)
OTHER_IMAGE_SUFFIXES = frozenset(f".{name}" for name in _OTHER_IMAGES.split())
READABLE = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC or JPEG XL"
# Pillow's names of the formats that it reads by itself.
PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
# Formats that packages add to Pillow -> their modules, the first that is there is used, and strsr's extra.
PLUGINS = {"HEIF": (("pillow_heif", "pi_heif"), "heic"), "JXL": (("pillow_jxl",), "jxl")}
HEAD = 64  # bytes of a file's beginning that `sniff` looks at
BMP_HEADERS = [bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124)]


@dataclass(frozen=True)
class OutputFormat:
    """A file format that can be written, and what it can hold. side, area: largest in px, or None.

    gray: whether it holds gray pixels as such, with a profile of gray.
    """

    pillow: str
    suffix: str
    alpha: bool
    deep: bool  # 16 bits
    floats: bool = False
    gray: bool = True
    profile: bool = True
    side: int | None = None
    area: int | None = None


OUTPUT_FORMATS = {
    "png": OutputFormat("PNG", ".png", alpha=True, deep=True),
    # JPEG itself ends at 65,535; libjpeg, which nearly everything writes and reads it by, ends here.
    "jpg": OutputFormat("JPEG", ".jpg", alpha=False, deep=False, side=65_500),
    "webp": OutputFormat("WEBP", ".webp", alpha=True, deep=False, gray=False, side=16_383),
    "tif": OutputFormat("TIFF", ".tif", alpha=True, deep=True, floats=True),
    "bmp": OutputFormat("BMP", ".bmp", alpha=False, deep=False, profile=False, area=(2**32 - 2**16) // 3),
    # AV1 itself ends at 65,536; what libavif reads ends here, and so do most programs.
    "avif": OutputFormat("AVIF", ".avif", alpha=True, deep=False, gray=False, side=32_768, area=2**28),
}


def sniff(head: bytes) -> str | None:
    """Name a file's format, of PILLOW_FORMATS or PLUGINS, by its first HEAD bytes; None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JXL"
    # Two letters are too little, as a text may begin so: the size of BMP's header must be a known one.
    if head.startswith(b"BM") and head[14:18] in BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(8, min(head[3], len(head)), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "HEIF"
    return None


def load_reader(kind: str, name: str) -> None:
    """Make Pillow read a format that `sniff` names; ImageError says how to get a package that is missing."""
    if kind not in PLUGINS:
        return
    modules, extra = PLUGINS[kind]
    plugin = None
    for module in modules:
        # One that is broken is as good as none.
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            break
    if plugin is None:
        title = {"HEIF": "a HEIC", "JXL": "a JPEG XL"}[kind]
        raise ImageError(f"{name}: {title} image; to read it: {install_command(f'strsr[{extra}]')}")
    if kind == "HEIF":
        plugin.register_heif_opener()


def check_fits(kind: str, height: int, width: int) -> None:
    """Raise ImageError unless the format `kind`, a key of OUTPUT_FORMATS, can hold so many px."""
    form = OUTPUT_FORMATS[kind]
    limit = None
    if form.side is not None and max(height, width) > form.side:
        limit = f"{form.side:,} px a side"
    elif form.area is not None and height * width > form.area:
        limit = f"{form.area:,} px in all"
    if limit is not None:
        raise ImageError(
            f"an output of {width}x{height} px is more than {form.pillow} can hold ({limit}); "
            "use --format png or tif, or a smaller --scale"
        )


def check_pixels(height: int, width: int, limit: int, name: str) -> None:
    """Raise ImageError when an input has more than `limit` px, or none."""
    if height < 1 or width < 1:
        raise ImageError(f"{name}: cannot be decoded: its header says {width}x{height} px")
    if height * width > limit:
        raise ImageError(
            f"{name}: {width}x{height} px is more than --max-pixels {limit}; raise it if you trust the file"
        )
