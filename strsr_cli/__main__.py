"""`python -m strsr_cli` is `strsr`: the command line, and the end of its process."""

from __future__ import annotations

import atexit

from .system.signals import end_process


def main() -> None:
    """Run the command line, and end the process with its exit code.

    Python takes every module apart before it ends, which takes some tenths of a second once PyTorch is among them;
    here the process ends as soon as threads are waited for and the functions of atexit have run.
    """
    codes: list[int] = []
    # What is registered first runs last.
    atexit.register(leave, codes)
    from .app import app

    try:
        app(prog_name="strsr")
    except SystemExit as leaving:
        if isinstance(leaving.code, int):
            codes.append(leaving.code)
        raise


def leave(codes: list[int]) -> None:
    """End the process with the exit code that is given, at once; without one, do nothing."""
    if codes:
        end_process(codes[0])


if __name__ == "__main__":
    main()
