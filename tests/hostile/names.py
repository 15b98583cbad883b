"""Names that shells, terminals and file systems stumble over, and what lies in folders and is no file."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from .cases import SIGNATURE, Case, Expected, Made, PassedOver, Refused, case, color, header, pillow

WHOLE = Made(color())


def named_files() -> list[Case]:
    return [*odd_names(), *hidden_files()]


def odd_names() -> Iterator[Case]:
    data = pillow(color(), "PNG")
    for name in (
        b"two words.png",
        b"  spaces around .png",
        b"quotes'\"`$(touch pwned).png",
        b"semicolon; rm -rf x.png",
        b"-rf.png",
        b"--scale.png",
        b"%s%n{0}{name}[red]bold[/red].png",
        b"a..b.png",
        b"...png",
        b"new\nline.png",
        b"tab\there.png",
        b"carriage\rreturn.png",
        b"\x1b[31mred\x1b]0;title\x07.png",
        b"bell\x07.png",
        b"back\\slash.png",
        b"CON.png",
        b"\xff\xfe not utf-8.png",
        b"\xed\xa0\x80 half a pair.png",
        "crème brûlée, composed.png".encode(),
        "cre\u0300me bru\u0302le\u0301e, decomposed.png".encode(),
        "\N{PARTY POPPER}\N{ZERO WIDTH JOINER}.png".encode(),
        "right-to-left \N{RIGHT-TO-LEFT OVERRIDE}gnp.exe.png".encode(),
        b"n" * 251 + b".png",
    ):
        hidden = name.startswith(b".")
        yield Case(b"names/" + name, data, PassedOver() if hidden else WHOLE)
    for name in (
        b"Case.png",
        b"case.png",
        "\u00e9.png".encode(),
        "e\u0301.png".encode(),
    ):  # one name elsewhere
        yield Case(b"pairs/" + name, data, WHOLE)
    yield Case(b"names/new\nline\x1b[2J/below.png", data, WHOLE)
    yield Case(b"names/" + b"d" * 255 + b"/" + b"e" * 255 + b"/deep.png", data, WHOLE)
    yield Case(b"names/folder.png/inside.png", data, WHOLE)
    yield Case(b"names/\x1b[31mred.jpg", b"no picture", Refused("not a PNG"))
    yield Case(b"names/failed\ndone all.jpg", b"no picture", Refused("not a PNG"))
    yield Case(b"names/\xff\xff.jpg", b"no picture", Refused("not a PNG"))
    # Its output needs a suffix, for which there is no room.
    yield Case(b"names/" + b"s" * 255, data, Refused("too long"))


def hidden_files() -> Iterator[Case]:
    data = pillow(color(), "PNG")
    yield case("hidden/.hidden.png", data, PassedOver())
    yield case("hidden/.folder/inside.png", data, PassedOver())
    yield case("hidden/._of-a-mac.png", b"\0\5\x16\7\0\2\0\0Mac OS X", PassedOver())
    yield case("hidden/.DS_Store", b"\0\0\0\1Bud1", PassedOver())
    yield case("hidden/Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), PassedOver())
    yield case("hidden/desktop.ini", b"[.ShellClassInfo]\r\n", PassedOver())


def special_files() -> list[Case]:
    """Made by `make_special`."""
    expected: dict[str, Expected] = {
        "symlink.png": WHOLE,
        "symlink-to-nothing.png": Refused("symlink-to-nothing.png"),
        "symlink-to-itself.png": Refused("symlink-to-itself.png"),
        "symlink-to-zeros.png": PassedOver(),
        "pipe.png": PassedOver(),  # whoever opens it waits for ever
        "socket.png": PassedOver(),
        "zeros-of-1-tb.png": Refused("not a PNG"),
        "signature-and-zeros-of-1-tb.png": Refused("signature-and-zeros"),
        "picture-and-zeros-of-1-tb.png": Refused("bytes are more"),
        "forbidden.png": Refused("Permission denied"),
        "loop": PassedOver(),
    }
    if os.geteuid() == 0 and sys.platform != "linux":
        del expected["forbidden.png"]  # root may read anything; on Linux `obey_modes` takes that away
    return [case(f"special/{name}", None, what) for name, what in expected.items()]


def make_special(path: Path) -> None:
    """Make one of them."""
    whole = pillow(color(), "PNG")
    match path.name:
        case "symlink.png":
            outside = path.parent.parent.parent / "outside.png"
            outside.write_bytes(whole)
            path.symlink_to(outside)
        case "symlink-to-nothing.png":
            path.symlink_to("nothing-of-that-name")
        case "symlink-to-itself.png":
            path.symlink_to(path.name)
        case "symlink-to-zeros.png":
            path.symlink_to("/dev/zero")
        case "pipe.png":
            os.mkfifo(path)
        case "socket.png":
            _make_socket(path)
        case "forbidden.png":
            path.write_bytes(whole)
            path.chmod(0)
        case "loop":
            path.symlink_to("..")
        case _:
            begins = {"z": b"", "s": SIGNATURE + header(9, 9), "p": whole}[path.name[0]]
            with path.open("wb") as file:
                file.write(begins)
                file.truncate(2**40)


def _make_socket(path: Path) -> None:
    """By its short name, since a socket's path is at most 107 bytes."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
