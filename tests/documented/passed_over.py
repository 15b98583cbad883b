"""What of the documentation is not run, and why: one list. Options of `strsr` are checked there too."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from .extract import Block, first_word

# A pattern of commands, and why they are not run. The first that is found in a command counts.
COMMANDS = (
    (r"\[(OPTIONS|-)|\.\.\.( |$|\n)|FILE\|-|key=value", "shows a form; its words are places to be filled"),
    (
        r"^(sudo|apt|apt-get|conda|brew|winget|pip|pipx|uv|uvx|git|docker|podman|kubectl|ray) ",
        "installs, or needs a service",
    ),
    (r"^make ", "makes an environment of its own, or runs all tests"),
    (r"^strsr models pull ", "downloads; tests/commands/test_models.py and test_judges.py run it"),
    (r"^strsr models (verify|path) ", "looks at what was pulled; tests/commands/test_models.py runs it"),
    (r"hf:|--push", "asks huggingface.co; tests/commands/test_hub_weights.py and test_push.py run it"),
    (r"\b(s3|gs|https?)://", "needs the network; tests/commands/test_object_stores.py runs it"),
    (
        r"^srun |SLURM_|/shared/|RAY_ADDRESS",
        "needs a cluster; tests/upscale/test_ray.py and tests/batch run it",
    ),
    (r"--device cuda|\$\(\(k - 1\)\)", "needs several GPUs"),
    (r"^strsr bench", "takes minutes; tests/commands/test_bench.py runs it small"),
    (
        r"--student zimage|--student flux2",
        "needs 40 GB of weights; tests/training/test_distill.py runs it small",
    ),
    (r"^strsr (serve|upscale .*--watch)", "goes on until it is stopped; its own tests run it"),
    (r"localhost:8377", "asks a server of strsr serve; tests/serving run it"),
    (r"^python scripts/(?!plot_runs)", "takes hours, or weights and photos that are not here"),
    (r"pytest", "runs tests"),
    (r"/data/", "names a folder of that machine"),
)
# A pattern of the place of blocks that are no commands but speak of strsr, or cannot be run, and why.
BLOCKS = (
    (r"docs/using/(many-machines|docker).*", "files for Slurm, Kubernetes, Ray or Docker"),
    (r"docs/developing/architecture\.md.*", "trees and ways of the data"),
    (r"docs/using/big-models\.md.* python", "needs 40 GB of weights; tests/models/pipelines run it small"),
    (r"docs/developing/grid-estimator\.md.* python", "is part of a program"),
    (r"docs/using/python\.md.* python", "tests/library/test_page.py runs all of them"),
)
# Exit codes other than 0 that are right, and why.
ENDS = (
    (r"--fail-above", (0, 1), "1 says that a score is higher"),
    (r"--against photos/", (0, 1), "1 says that outputs of the scratch folder have no input there"),
    (r"--retry-failed", (0, 2), "2 says that nothing has failed"),
)

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def why_not_run(command: str) -> str:
    """Why a command is passed over; empty for one that is run."""
    command = re.sub(r"\s#\s.*", "", command)
    for pattern, reason in COMMANDS:
        if re.search(pattern, command):
            return reason
    lacking = [
        word
        for word in _programs(command)
        if word not in ("cd", "for", "set", "export") and not shutil.which(word, path=PATH)
    ]
    return f"needs {', '.join(lacking)}" if lacking else ""


def _programs(command: str) -> list[str]:
    """The programs that a command starts, except strsr and python, which are always there."""
    parts = re.split(r"\|\||&&|[|;]", re.sub(r"'[^']*'|\"[^\"]*\"", "''", command))
    words = [first_word(part.strip()) for part in parts]
    return [
        word
        for word in words
        if re.fullmatch(r"[a-z][\w.-]*", word) and word not in ("strsr", "python", "do", "done", "wait")
    ]


def why_block_not_run(block: Block) -> str:
    """Why a block that is no block of commands is passed over; empty where no reason is known."""
    place = f"{block.where} {block.language}"
    return next((reason for pattern, reason in BLOCKS if re.fullmatch(pattern, place)), "")


def right_ends(command: str) -> tuple[int, ...]:
    """The exit codes that are right for a command."""
    return next((codes for pattern, codes, _ in ENDS if re.search(pattern, command)), (0,))
