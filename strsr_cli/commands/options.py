"""Every option of every command, once: its type, its name and its help. Imports nothing heavy.

A command's signature names them and gives their defaults. The order in a signature is the order of the panels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from strsr_models.errors import UsageError

from .pages import show_all_options

# The subjects of options, which are headings of the page of --help-all.
SIZE, MODEL, OUTPUT, INPUT = "Size of outputs", "Model", "Output files", "What is taken"
CHECKS, RUNS, MACHINES = "Checks and reports", "Second runs", "Several machines"
SPEED, BIG, TALK = "Speed and memory", "Large models: zimage and flux2", "Messages"

SIDE = 256  # px of the pictures that bench makes
PARTS = ("start-up", "batches", "stages", "roofline")  # of bench


def option(*names: str, panel: str | None = None, **settings: Any) -> Any:
    """A typer option in a panel of the help page."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


# --- of several commands ---------------------------------------------------------------------------

Scale = Annotated[float, option("--scale", "-s", metavar="X", help="How many times larger, 1 to 16.")]
UpscaleScale = Annotated[
    float | None,
    option("--scale", "-s", metavar="X", help="How many times larger, 1 to 16; default: 4.", panel=SIZE),
]
Longest = Annotated[
    str | None,
    option(
        metavar="PX[>|<]",
        help="In place of --scale: px of the longer side, exactly. In quotes: '4096>' reduces larger images, '4096<' keeps their size; "
        "else they fail.",
        panel=SIZE,
    ),
]
Shortest = Annotated[str | None, option(metavar="PX[>|<]", help="Of the shorter side.", panel=SIZE)]
Width = Annotated[
    str | None,
    option(metavar="PX[>|<]", help="With --height: the image fits into that box.", panel=SIZE),
]
Height = Annotated[str | None, option(metavar="PX[>|<]", help="See --width.", panel=SIZE)]
Cover = Annotated[
    bool, option("--cover", help="The image covers the box of --width and --height.", panel=SIZE)
]
Megapixels = Annotated[
    str | None, option(metavar="X[>|<]", help="Of the whole image, in millions.", panel=SIZE)
]
Json = Annotated[bool, option("--json", help="One JSON object on standard output.")]
ModelsDir = Annotated[
    Path | None,
    option(metavar="DIR", help="The models folder; default: STRSR_MODELS_DIR, else the user's cache."),
]

HelpAll = Annotated[
    bool,
    option(
        "--help-all",
        callback=show_all_options,
        is_eager=True,
        help="Show all options, by subject, and exit.",
    ),
]

# --- upscale ---------------------------------------------------------------------------------------

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="An image, a folder (with all below it), a URL (s3:// ...), or - for standard input; or several.",
    ),
]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="OUTPUT",
        help="The last argument: a folder; an image file, when INPUT is one image; s3:// or gs://; or - for standard output.",
    ),
]
Model = Annotated[
    str, option(metavar="lite|zimage|flux2", help="Which model restores: lite, zimage or flux2.", panel=MODEL)
]
Weights = Annotated[
    Path | None,
    option(
        metavar="DIR|hf:OWNER/NAME[@REVISION]",
        help="Weights in place of the model's own (zimage, flux2: an adapter): a folder of them, of a run, or a "
        "repository on huggingface.co.",
        panel=MODEL,
    ),
]
Steps = Annotated[
    int,
    option(
        metavar="1..100",
        min=1,
        max=100,
        help="Euler steps of the network; more than 1 is for weights trained by stage flow.",
        panel=MODEL,
    ),
]
Fidelity = Annotated[
    float,
    option(
        metavar="0..1",
        min=0,
        max=1,
        help="Of lite: 0 is the sharper picture, 1 the one nearer to the truth, with less that is made up.",
        panel=MODEL,
    ),
]
Draft = Annotated[
    bool,
    option(
        "--draft",
        help="Of lite, below --scale 4: compute at the output's own size, which is 4 times faster at 2, and softer.",
        panel=MODEL,
    ),
]
Format = Annotated[
    Literal["keep", "png", "jpg", "webp", "tif", "bmp", "avif"],
    option(
        metavar="keep|png|jpg|webp|tif|bmp|avif",
        help="keep: the input's format (GIF, HEIC, JPEG XL: png); png on standard output.",
        panel=OUTPUT,
    ),
]
Quality = Annotated[
    int,
    option(
        min=1, max=100, metavar="1..100", help="Of JPEG, AVIF (both always 4:4:4) and WebP.", panel=OUTPUT
    ),
]
PngCompression = Annotated[
    int, option(metavar="0..5", min=0, max=5, help="0: none, fastest; 5: smallest, slow.", panel=OUTPUT)
]
Strip = Annotated[
    bool, option("--strip", help="Drop EXIF, XMP and resolution; keep the colour profile.", panel=OUTPUT)
]
Provenance = Annotated[
    bool,
    option(
        "--provenance",
        help="Say in the output's EXIF (Software) what made it: version, model, hash of its weights, scale.",
        panel=OUTPUT,
    ),
]
KeepTimes = Annotated[
    bool,
    option("--keep-times", help="Give outputs the times of their inputs' files.", panel=OUTPUT),
]
InPlaceSuffix = Annotated[
    str | None,
    option(
        metavar="TEXT",
        help="Write beside the inputs, with this at the end of names (_x4: photo_x4.jpg); no OUTPUT is needed.",
        panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool, option("--overwrite", help="Make outputs that exist again, not skip them.", panel=RUNS)
]
Replace = Annotated[
    bool,
    option(
        "--replace",
        help="Where OUTPUT is one image file that exists: overwrite it, even if strsr has not made it.",
        panel=RUNS,
    ),
]
UpscaleDryRun = Annotated[
    bool,
    option("--dry-run", help="Only say what would be made, how large and how long.", panel=CHECKS),
]
NoSpaceCheck = Annotated[
    bool,
    option("--no-space-check", help="Begin even if the disk looks too small for all.", panel=CHECKS),
]
CheckGrid = Annotated[
    bool,
    option("--check-grid", help="Look for a printed grid in each output, and warn.", panel=CHECKS),
]
GridLimit = Annotated[
    float | None,
    option(
        metavar="DB",
        help="Warn above this score, with --check-grid; default: as `strsr fft-inspect` judges.",
        panel=CHECKS,
    ),
]
UpscaleMaxPixels = Annotated[
    int, option(metavar="N", min=1, help="Refuse larger inputs unread.", panel=INPUT)
]
Frames = Annotated[
    Literal["first", "all"],
    option(
        metavar="first|all",
        help="Of animations and TIFFs of several pages; all: each becomes an output, clip_0001.png and so on.",
        panel=INPUT,
    ),
]
FilesFrom = Annotated[
    str | None,
    option(
        metavar="FILE|-",
        help="Only the images of this list, one a line, relative to the folder INPUT.",
        panel=INPUT,
    ),
]
Files0From = Annotated[
    str | None,
    option(metavar="FILE|-", help="The same, each ended by NUL: for find -print0.", panel=INPUT),
]
RetryFailed = Annotated[
    bool, option("--retry-failed", help="Only the images that failed the last time.", panel=RUNS)
]
NoJournal = Annotated[
    bool,
    option("--no-journal", help="Keep no record of what was made; skip all outputs that exist.", panel=RUNS),
]
ShardText = Annotated[
    str | None,
    option(
        metavar="K/N|auto/N",
        help="Only part K of N; default: as torchrun, srun, AWS Batch or Kubernetes say, else all.",
        panel=MACHINES,
    ),
]
Steal = Annotated[
    bool,
    option(
        "--steal",
        help="After the own part, make what other parts have left; only if all write into one shared OUTPUT.",
        panel=MACHINES,
    ),
]
Watch = Annotated[
    bool,
    option(
        "--watch",
        help="Go on with files that arrive in the folder INPUT, once they are whole; ^C ends.",
        panel=RUNS,
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    option(
        metavar="local|ray",
        help="Who makes the images of a folder: this process, or workers of a Ray cluster.",
        panel=MACHINES,
    ),
]
RayWorkers = Annotated[
    int | None,
    option(
        "--workers",
        metavar="N",
        min=1,
        max=10_000,
        help="With --engine ray; default: one for each GPU, or for each four CPUs.",
        panel=MACHINES,
    ),
]
GpusPerWorker = Annotated[
    float | None,
    option(
        metavar="N", min=0, max=64, help="With --engine ray; default: 1 where there are any.", panel=MACHINES
    ),
]
Tile = Annotated[
    str, option(metavar="auto|N", help="Largest tile side, in pixels of what the network makes.", panel=SPEED)
]
Overlap = Annotated[
    int | None,
    option(metavar="N", help="Overlap of tiles in the same pixels; default: the model's.", panel=SPEED),
]
Device = Annotated[
    str,
    option(
        metavar="auto|cpu|cuda[:N]|mps",
        help="Where to compute; several share the work: cuda:0,cuda:1.",
        panel=SPEED,
    ),
]
Precision = Annotated[
    Literal["auto", "fp16", "bf16", "fp32", "int8"],
    option(
        metavar="auto|fp16|bf16|fp32|int8",
        help="auto: fp16 on CUDA, bf16 on CPUs made for it, else fp32; zimage, flux2: bf16 (older GPUs: fp16) on CUDA, else fp32. int8: lite on CPUs by OpenVINO, up to twice as fast as fp32.",
        panel=SPEED,
    ),
]
Batch = Annotated[
    str,
    option(
        metavar="auto|N",
        help="Tiles computed at once, of one or several images; auto: what fits a GPU's memory, one on a CPU.",
        panel=SPEED,
    ),
]
Jobs = Annotated[
    int | None,
    option(
        metavar="N",
        min=1,
        help="Images read, and written, at a time beside the network; default: half of the cores.",
        panel=SPEED,
    ),
]
Compile = Annotated[
    bool,
    option(
        "--compile",
        help="Compile the network first: takes minutes the first time, pays for long batches.",
        panel=SPEED,
    ),
]
Backend = Annotated[
    Literal["auto", "torch", "openvino"],
    option(
        metavar="auto|torch|openvino",
        help="What computes lite's tiles on a CPU; auto: OpenVINO, the faster one, where it is installed, or what STRSR_BACKEND says.",
        panel=SPEED,
    ),
]
JsonEvents = Annotated[
    bool, option("--json", help="One JSON object per event on standard output.", panel=TALK)
]
Quiet = Annotated[bool, option("--quiet", "-q", help="Print failures only.", panel=TALK)]
Verbose = Annotated[bool, option("--verbose", "-v", help="Print every step.", panel=TALK)]
ReportPage = Annotated[
    Path | None,
    option(
        metavar="FILE.html",
        help="Write a page to look at and to show: before and after, sizes, failures, settings; one file.",
        panel=CHECKS,
    ),
]
BigModelsDir = Annotated[
    Path | None,
    option(
        metavar="DIR",
        help="Folder of the published checkpoints; default: STRSR_MODELS_DIR, else in the user's cache.",
        panel=BIG,
    ),
]
Conditioning = Annotated[
    Literal["vlm", "text", "none"] | None,
    option(
        metavar="vlm|text|none",
        help="What tells the model what it sees: a vision-language model, a prompt, or nothing (default: vlm).",
        panel=BIG,
    ),
]
Prompt = Annotated[
    str | None,
    option(metavar="TEXT", help="What is in the images, in words; implies --conditioning text.", panel=BIG),
]
PromptFrom = Annotated[
    Path | None,
    option(
        metavar="FOLDER",
        help="Folder with a prompt for each image, photo.txt for photo.jpg; an image without one gets that of --prompt, or fails.",
        panel=BIG,
    ),
]
LoraScale = Annotated[
    float | None,
    option(
        metavar="0..1.5",
        help="Fidelity against generation: 0 is the base model, 1 as trained (the default).",
        panel=BIG,
    ),
]
Offload = Annotated[
    Literal["auto", "none", "model", "sequential"] | None,
    option(
        metavar="auto|none|model|sequential",
        help="What waits in main memory: networks in turn, or each layer; auto: by free GPU memory (the default).",
        panel=BIG,
    ),
]
Quantize = Annotated[
    Literal["none", "int8", "int4"] | None,
    option(
        metavar="none|int8|int4",
        help="Round the transformer's weights; needs torchao (default: none).",
        panel=BIG,
    ),
]
NoTokenCache = Annotated[
    bool,
    option("--no-token-cache", help="Neither use nor keep what was understood of images.", panel=BIG),
]

# --- train, distill, export ------------------------------------------------------------------------

Data = Annotated[list[Path], option(metavar="DIR", help="Folder of good photos; may be given several times.")]
RunFolder = Annotated[
    Path | None, option(metavar="DIR", help="Folder of the run; the same command resumes what is there.")
]
ConfigFile = Annotated[Path | None, option(metavar="FILE.toml", help="TOML file with settings.")]
Settings = Annotated[
    list[str] | None,
    option(metavar="KEY=VALUE", help="One setting; may be repeated; --dry-run lists them all."),
]
Preview = Annotated[
    Path | None,
    option(metavar="SHEET.png", help="Only draw what the network would see: rows of hq | lq."),
]
DryRun = Annotated[
    bool, option("--dry-run", help="Print resolved settings, sizes and memory; write nothing.")
]
Student = Annotated[
    str, option(metavar="RUN|lite|zimage|flux2", help="What is taught: a run's weights, or a model.")
]
MakePairs = Annotated[
    int | None,
    option(metavar="N", help="Only make N pairs with teachers' outputs, in the folder of setting pairs."),
]
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a run of train or distill, or of weights; lite: the embedded ones."
    ),
]
ExportFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="OUT", help="New folder for its weights; with --push or --onnx it may be left out."
    ),
]
Push = Annotated[
    str | None,
    option(
        metavar="OWNER/NAME", help="Push the weights, with a model card, to a repository on huggingface.co."
    ),
]
Onnx = Annotated[
    Path | None,
    option(metavar="FILE", help="Write lite's network as one ONNX file, too."),
]
Licence = Annotated[
    str, option("--licence", "--license", metavar="ID", help="With --push: apache-2.0, cc-by-4.0, other ...")
]
Datasets = Annotated[
    list[str] | None,
    option(
        "--dataset",
        metavar="OWNER/NAME",
        help="With --push: what it was trained on; may be given several times.",
    ),
]
Faithful = Annotated[
    Path | None,
    option(
        metavar="RUN2",
        help="A run that went on from these weights towards the photos themselves: the other end of --fidelity.",
    ),
]

RangePictures = Annotated[
    Path | None,
    option(
        metavar="PICTURES",
        help="A folder of pictures such as will be enlarged: lite's weights are measured on them for --precision int8.",
    ),
]

# --- fft-inspect -----------------------------------------------------------------------------------

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or folders with all below.")]
Against = Annotated[
    Path | None,
    option(
        metavar="PATH",
        help="Reference or input to compare with: one image, or a folder of images of the same names.",
    ),
]
Lattice = Annotated[str, option(metavar="N,N,...", help="Periods to look for, in pixels.")]
SheetPath = Annotated[
    Path | None,
    option(metavar="FILE.png|FOLDER", help="Draw a sheet; of several images one each, and a summary."),
]
JsonPerImage = Annotated[bool, option("--json", help="One JSON object per image on standard output.")]
FailAbove = Annotated[
    float | None, option(metavar="DB", help="Exit with 1 when a score is higher than this.")
]
Channel = Annotated[
    Literal["luma", "r", "g", "b"], option(metavar="luma|r|g|b", help="What of the colours is looked at.")
]
Crop = Annotated[
    str | None, option(metavar="X,Y,W,H", help="Look at this part of each image only, in pixels.")
]
InspectMaxPixels = Annotated[int, option(metavar="N", min=1, help="Refuse larger images unread.")]

# --- evaluate ------------------------------------------------------------------------------------

Evaluated = Annotated[Path, typer.Argument(metavar="OUT", help="A folder of outputs, or one image.")]
Reference = Annotated[
    Path,
    option(
        "--against", metavar="REFERENCE", help="The folder of references, or one image; of the same size."
    ),
]
Border = Annotated[
    int, option(metavar="PX", min=0, help="Leave out so many pixels at each edge; papers on x4: 4.")
]
LpipsNet = Annotated[
    Literal["auto", "alex", "vgg", "squeeze", "none"],
    option(
        metavar="auto|alex|vgg|squeeze|none",
        help="The network of LPIPS; auto: the first of these whose weights are here, else none.",
    ),
]
LpipsWeights = Annotated[
    Path | None,
    option(
        metavar="FILE",
        help="torchvision's ImageNet weights of that network; default: where torch.hub keeps them.",
    ),
]

# --- bench -----------------------------------------------------------------------------------------

BenchModel = Annotated[str, option(metavar="lite|zimage|flux2", help="Which model: lite, zimage or flux2.")]
BenchWeights = Annotated[
    Path | None,
    option(metavar="DIR|hf:OWNER/NAME[@REVISION]", help="Weights in place of the model's own."),
]
BenchDevice = Annotated[str, option(metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")]
ServeBackend = Annotated[
    Literal["auto", "torch", "openvino"],
    option(metavar="auto|torch|openvino", help="As of `strsr upscale`."),
]
BenchBackend = Annotated[
    Literal["auto", "torch", "openvino", "both"],
    option(
        metavar="auto|torch|openvino|both",
        help="As of `strsr upscale`; both: OpenVINO and, in turns with it, PyTorch.",
    ),
]
BenchPrecision = Annotated[
    Literal["auto", "fp16", "bf16", "fp32", "int8"],
    option(metavar="auto|fp16|bf16|fp32|int8", help="As of `strsr upscale`."),
]
Repeats = Annotated[int, option(metavar="N", min=1, max=100, help="Runs of each measurement.")]
Images = Annotated[int, option(metavar="N", min=1, max=100_000, help="How many pictures.")]
Size = Annotated[
    int | None,
    option(metavar="PX", min=16, max=4096, help=f"Side of the pictures that are made (default: {SIDE})."),
]
OwnPictures = Annotated[
    Path | None,
    option(metavar="DIR", help="Own pictures, the first --images of them, in place of made ones."),
]
Batches = Annotated[
    str,
    option(
        metavar="auto|N,N,...",
        help="Tiles at once, to time one after the other; auto: 1 on CPUs, where tiles of a batch come in turn, else 1 to 32.",
    ),
]
Skip = Annotated[str, option(metavar="PART,...", help=f"Leave out some of {', '.join(PARTS)}.")]
JsonFigures = Annotated[
    bool, option("--json", help="One JSON object with all raw figures on standard output.")
]

# --- serve -----------------------------------------------------------------------------------------

Port = Annotated[
    int, option(metavar="N", min=0, max=65535, help="Port of this machine; 0: any that is free.")
]
OpenBrowser = Annotated[bool, option("--open", help="Open the page in the browser.")]
MaxUpload = Annotated[
    int, option(metavar="MB", min=1, max=100_000, help="Refuse pictures of more megabytes.")
]
ServeMaxPixels = Annotated[int, option(metavar="N", min=1, help="Refuse pictures of more pixels.")]

# --- models ----------------------------------------------------------------------------------------

PublishedName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="zimage, flux2 (all that they need), or one name of `strsr models list`."
    ),
]
Revision = Annotated[str | None, option(metavar="COMMIT|TAG", help="Of the repository; default: its newest.")]
TextEncoder = Annotated[
    bool,
    option("--text-encoder", help="The base model's text encoder too (8 GB), for conditioning by text."),
]


def models_root(models_dir: Path | None) -> Path:
    """The folder that --models-dir means."""
    from strsr_models.checkpoints.homes import expand_home
    from strsr_models.checkpoints.locations import default_models_dir

    return default_models_dir() if models_dir is None else expand_home(models_dir, "--models-dir")


def need_out(out: Path | None) -> Path:
    """--out of a run, which only previews and dry runs do without. Raises UsageError."""
    if out is None:
        raise UsageError("--out is missing: the folder of the run")
    return out
