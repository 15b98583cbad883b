"""What help pages show first: commands to type, and the options that most people want."""

from __future__ import annotations

# By the name of the command: what is typed, and what it does.
EXAMPLES = {
    "strsr": [
        ("strsr upscale photo.jpg large.png", "one photo, four times larger"),
        ("strsr upscale photos/ large/ --scale 2", "a folder, with all below it"),
        ("strsr doctor", "what this machine can do"),
    ],
    "upscale": [
        ("strsr upscale photo.jpg large.png", "one photo, four times larger"),
        ("strsr upscale photos/ large/ --scale 2", "a folder, with all below it"),
        ("strsr upscale scans/ out/ --longest 4096", "all of one size"),
    ],
    "train": [
        ("strsr train --data photos/ --out run/", "begins, or goes on where it was stopped"),
        ("strsr train --data photos/ --preview p.png", "only what the network would see"),
    ],
    "distill": [
        ("strsr distill --data photos/ --dry-run", "only settings, sizes and memory"),
    ],
    "export": [("strsr export run/ weights/", "then: strsr upscale ... --weights weights/")],
    "fft-inspect": [
        ("strsr fft-inspect large/", "a table of all images"),
        ("strsr fft-inspect large.png --out sheet.png", "a picture of the spectrum"),
        ("strsr fft-inspect large/ --fail-above 3", "for scripts: exit code 1 above 3 dB"),
    ],
    "evaluate": [("strsr evaluate out/ --against originals/", "a table of all pairs")],
    "bench": [("strsr bench --runs 1 --images 10", "a quick look")],
    "serve": [
        ("strsr serve --open", "the page, in your browser"),
        ("curl -F image=@photo.jpg -F scale=2 localhost:8377/upscale -o large.png", "without a page"),
    ],
    "models": [
        ("strsr models list", "what exists, and what is here"),
        ("strsr models pull zimage", "all that --model zimage needs"),
    ],
}

# By the name of the command: the parameters on its short page, in this order; commands that are not here have
# one page.
COMMON = {
    "upscale": [
        "scale",
        "longest",
        "format",
        "quality",
        "fidelity",
        "model",
        "device",
        "overwrite",
        "dry_run",
        "check_grid",
        "report",
        "quiet",
        "verbose",
        "help",
    ]
}
