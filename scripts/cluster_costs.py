"""What one slow worker costs a batch, by fixed parts and by a queue: python scripts/cluster_costs.py [--slow 3].

Nothing is run: images of one megapixel, workers that take --pace seconds for one, and one of them --slow times as long.
Lost is the share of all workers' time, by what they could have done in it, in which they had nothing to do.
"""

from __future__ import annotations

import argparse

from strsr_cli.system.console import duration_text
from strsr_cli.upscale.engines.chunks import Chunks
from strsr_cli.upscale.engines.costs import simulate


def main() -> None:
    """Print a table of the ways to share out a list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.1, help="seconds for an output megapixel")
    parser.add_argument("--slow", type=float, default=3.0, help="how many times as long one worker takes")
    args = parser.parse_args()
    paces = [args.pace] * (args.workers - 1) + [args.pace * args.slow]
    # All of them together, if none ever waited.
    best = args.images / sum(1 / pace for pace in paces)
    part = -(-args.images // args.workers)
    by_queue, chunks, _ = simulate(Chunks([1.0] * args.images, args.workers), paces)
    print(f"{args.images} images, {args.workers} workers, one of them {args.slow:g} times as slow")
    print("| shared out by | ready after | lost |\n|---|---|---|")
    for name, seconds in (
        ("fixed parts (`--shard`)", part * max(paces)),
        (f"a queue of {chunks} chunks (`--engine ray`)", by_queue),
    ):
        print(f"| {name} | {duration_text(seconds)} | {100 * (1 - best / seconds):.1f} % |")


if __name__ == "__main__":
    main()
