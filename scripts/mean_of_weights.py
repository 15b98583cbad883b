"""Write the mean of two folders of lite's weights that were trained from the same ones: often better than either.

    python scripts/mean_of_weights.py A B OUT [--share 0.5]

--share: that of B. OUT has B's other files, without ranges.json, which must be measured anew (`strsr export --ranges`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from finish_decoder import replace
from safetensors.torch import load_file

from strsr_models.checkpoints.locations import FAITHFUL_NAME, RANGES_NAME, WEIGHTS_NAME


def main() -> None:
    """Write the mean of model.safetensors, and of faithful.safetensors where both have one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("a", "b", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    args = parser.parse_args()
    shutil.copytree(args.b, args.out, ignore=shutil.ignore_patterns(RANGES_NAME))
    for name in (WEIGHTS_NAME, FAITHFUL_NAME):
        if (args.a / name).exists() and (args.b / name).exists():
            first, second = load_file(args.a / name), load_file(args.b / name)
            mean = {
                key: first[key].float().lerp(tensor.float(), args.share) for key, tensor in second.items()
            }
            replace(args.out / name, mean)


if __name__ == "__main__":
    main()
