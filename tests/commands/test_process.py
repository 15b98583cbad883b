"""The process of the command: what is still done at its end, and what is left out."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
import strsr_cli.__main__, strsr_cli.app

class Module:
    def __del__(self): print("taken apart")

def late():
    time.sleep(0.2)
    print("thread")

def app(**options):
    atexit.register(print, "atexit")
    threading.Thread(target=late).start()
    command(**options)

command, strsr_cli.app.app, last = strsr_cli.app.app, app, Module()
sys.argv = ["strsr", *{arguments!r}]
strsr_cli.__main__.main()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["upscale", "no-such-file.png"], 2)])
def test_the_process_ends_once_threads_and_atexit_have(arguments: list[str], code: int) -> None:
    program = PROGRAM.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == code
    assert run.stdout.splitlines()[-2:] == ["thread", "atexit"]


def test_an_error_of_our_own_keeps_its_traceback_and_code() -> None:
    program = (
        "import strsr_cli.__main__, strsr_cli.app\n"
        "def app(**options): raise LookupError('a bug')\n"
        "strsr_cli.app.app = app\n"
        "strsr_cli.__main__.main()"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "LookupError: a bug"
