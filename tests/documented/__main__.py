"""`python -m tests.documented [PAGE...]`: run the commands of pages, and say what became of each."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .extract import pages
from .runner import check_page, copy_of
from .scratch import make_scratch


def main(names: list[str]) -> int:
    """Check pages; return 1 if anything is wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        template = make_scratch(Path(folder) / "template")
        for number, page in enumerate(names or pages()):
            for outcome in check_page(page, copy_of(template, Path(folder) / str(number))):
                word = "WRONG" if outcome.fault else "passed over" if outcome.passed_over else "ran"
                lines = outcome.text.splitlines()
                print(f"{outcome.where}: {word}: {lines[0]}{' ...' if len(lines) > 1 else ''}", flush=True)
                if outcome.fault or outcome.passed_over:
                    print(f"    {outcome.fault or outcome.passed_over}", flush=True)
                wrong += bool(outcome.fault)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
