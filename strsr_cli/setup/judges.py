"""The judges of training among the published weights: torchvision's files, fetched by torch.hub to where it keeps them.

A file counts only once its SHA-256 begins as its name says.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.judges import GROUP, JUDGES, OF_LITE, SOURCE, Judge, hub_folder
from strsr_models.errors import WeightsError

from ..system.atomic import sha256_of
from ..system.console import Tell, first_line, size_text
from ..system.refusals import exclusive, put_in_place
from ..system.terminal import takes_escapes
from . import hub
from .store import check_room, size_of

TOLERANCE = 0.01  # of the sizes in the table, which are rounded
LICENCE = "BSD-3-Clause, as torchvision"
MIRROR = "STRSR_JUDGES_URL"  # the address in place of SOURCE, for mirrors


def named(name: str) -> tuple[Judge, ...]:
    """Return the judges that a name means; none where it is no judge's."""
    if name == GROUP:
        return tuple(JUDGES[judge] for judge in OF_LITE)
    return (JUDGES[name],) if name in JUDGES else ()


def describe() -> list[dict[str, Any]]:
    """Return what judges exist and which are here, for programs; files are not read for that."""
    folder = known_folder()
    return [
        {
            "name": judge.name,
            "state": _state(judge, size),
            "bytes": size or 0,
            "about_bytes": judge.size,
            "licence": LICENCE,
            "source": judge.url,
            "purpose": judge.purpose,
            "path": None if folder is None else str(folder / judge.file),
        }
        for judge in JUDGES.values()
        for size in [None if folder is None else size_of(folder / judge.file)]
    ]


def known_folder() -> Path | None:
    """Return torch.hub's folder of weights, None where nothing says where it is."""
    try:
        return hub_folder()
    except WeightsError:
        return None


def _state(judge: Judge, size: int | None) -> str:
    """Return what can be said of a file by its size alone: absent, incomplete or pulled."""
    if size is None:
        return "absent"
    return "pulled" if abs(size - judge.size) < TOLERANCE * judge.size else "incomplete"


def address() -> str:
    """Return the address that judges come from, which is a mirror's where the environment names one."""
    return (os.environ.get(MIRROR) or SOURCE).rstrip("/")


def pull(judges: Iterable[Judge], report: Tell) -> None:
    """Fetch those judges that are not there or not whole. Raises WeightsError."""
    hub.refuse_offline()
    wanted = [judge for judge in judges if not _already_there(judge, report)]
    try:
        hub_folder().mkdir(parents=True, exist_ok=True)
        check_room(hub_folder(), sum(judge.size for judge in wanted), "set TORCH_HOME to another folder")
        for judge in wanted:
            _fetch(judge, report)
    except OSError as error:
        where = error.filename or hub_folder()
        raise WeightsError(f"{where}: cannot be written ({error.strerror or error})") from error


def _already_there(judge: Judge, report: Tell) -> bool:
    """Whether a judge's file is there and whole, which is told."""
    fault = fault_of(judge)
    report(f"{judge.name}: {fault or 'is there already'}")
    return not fault


def fault_of(judge: Judge) -> str:
    """Return what is wrong with a judge's file, which is read for that; empty where it is whole."""
    if not judge.path.is_file():
        return "absent"
    return (
        ""
        if sha256_of(judge.path).startswith(judge.hash_prefix)
        else "damaged: its SHA-256 is not that of its name"
    )


def _fetch(judge: Judge, report: Tell) -> None:
    """Fetch one file by torch.hub, which puts it in its place once its hash is right. Raises WeightsError, OSError."""
    from filelock import Timeout

    lock = hub.lock_of(judge.path)
    report(f"{judge.name}: {size_text(judge.size)} from {address()}/{judge.file}, licence: {LICENCE}")
    try:
        with exclusive(lock, timeout=0):
            # What lies there is of a pull that was killed.
            gathered = judge.path.with_name(f".{judge.file}.pull")
            shutil.rmtree(gathered, ignore_errors=True)
            gathered.mkdir()
            try:
                _download(judge, gathered / judge.file)
                put_in_place(gathered / judge.file, judge.path)
            finally:
                shutil.rmtree(gathered, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise WeightsError(f"{judge.path}: another pull is fetching it; wait for that one") from error
    report(f"{judge.name}: whole, in {judge.path}")


def _download(judge: Judge, target: Path) -> None:
    """Have torch.hub download a judge to `target`; all that the network does is a WeightsError of one line."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError

    from torch.hub import download_url_to_file

    url = f"{address()}/{judge.file}"
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(hub.SECONDS)
    try:
        download_url_to_file(url, str(target), judge.hash_prefix, progress=takes_escapes(sys.stderr))
    except HTTPError as error:
        raise WeightsError(
            f"{judge.name}: {url} answers with status {error.code}; try again later"
        ) from error
    except RuntimeError as error:
        raise WeightsError(
            f"{judge.name}: what came from {url} is not the file (its SHA-256 is not that of its name); pull again, "
            "or look what stands between this machine and the network"
        ) from error
    except (URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError, ValueError) as error:
        reason = first_line(getattr(error, "reason", None) or error, skip_blank=True)
        raise WeightsError(
            f"{judge.name}: cannot be pulled from {url} ({reason}); try again later"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def verify(judges: Iterable[Judge], name: str, report: Tell) -> None:
    """Read judges' files and compare them with the hashes of their names. Raises WeightsError."""
    faults = {judge.name: fault_of(judge) for judge in judges}
    for judge, fault in faults.items():
        report(f"{judge}: {fault or 'whole'}")
    wrong = [f"{judge} {fault}" for judge, fault in faults.items() if fault]
    if wrong:
        raise WeightsError(f"{hub_folder()}: {'; '.join(wrong)}; to repair: strsr models pull {name}")


def path(judges: Iterable[Judge], name: str, report: Tell) -> None:
    """Print where judges' files are. Raises WeightsError if one is not there."""
    judges = list(judges)
    lacking = [judge.name for judge in judges if not judge.path.is_file()]
    if lacking:
        raise WeightsError(
            f"{hub_folder()}: {', '.join(lacking)} not there; get it by: strsr models pull {name}"
        )
    for judge in judges:
        report(str(judge.path))
