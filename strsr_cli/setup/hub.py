"""The questions to huggingface.co (or HF_ENDPOINT): listings of repositories, and files.

Every failure of the network becomes one line. The library huggingface_hub is imported on the first question.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.published import Published
from strsr_models.errors import StrsrError, WeightsError

from ..system.atomic import whole_file
from ..system.console import first_line
from ..system.refusals import exclusive, put_in_place
from ..system.terminal import takes_escapes

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
SECONDS = 20.0  # to wait for an answer
COPY = 2**24  # bytes that are copied at a time
COMMIT, GIT_BLOB, SHA256 = (re.compile(f"[0-9a-f]{{{digits}}}") for digits in (40, 40, 64))


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository that is to be fetched."""

    name: str  # in the folder of the models folder
    path: str  # in the repository
    size: int  # bytes
    sha256: str | None  # of large files
    git_blob: str | None  # of small files; one of the two is there


@dataclass(frozen=True)
class Listing:
    """The files that are wanted of a repository at one commit."""

    published: Published
    revision: str  # a commit
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


def endpoint() -> str:
    """Return the address to ask, which is a mirror's where HF_ENDPOINT names one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def forbidden_by() -> str:
    """Return the variable by which the environment forbids the network, "" where none does."""
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return ""


def refuse_offline() -> None:
    """Raise WeightsError when the environment forbids the network."""
    if name := forbidden_by():
        raise WeightsError(f"offline ({name} is set): nothing can be pulled; unset it to pull")


def look_up(published: Published, revision: str | None, text_encoder: bool) -> Listing:
    """Return the commit, licence and wanted files of a repository. Raises WeightsError."""
    refuse_offline()
    with one_line_errors(published.repository):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint()).model_info(
            published.repository, revision=revision, files_metadata=True, timeout=SECONDS
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    wanted = choose(published, list(siblings), text_encoder)
    commit = str(info.sha or "")
    if not COMMIT.fullmatch(commit):
        raise WeightsError(
            f"{published.repository}: {endpoint()} names no commit; it does not answer as the hub does"
        )
    files = [
        _listed(name, siblings[path]) or _asked_for(published.repository, commit, name, path)
        for name, path in sorted(wanted.items())
    ]
    card: Any = info.card_data
    licence = (card and (card.get("license_name") or card.get("license"))) or published.licence
    return Listing(published=published, revision=commit, licence=str(licence), files=tuple(files))


def _listed(name: str, sibling: Any) -> RemoteFile | None:
    """Return a file as a listing has it, None where it lacks what the file is checked by."""
    large = sibling.lfs
    size = sibling.size if large is None else large.size
    sha256 = None if large is None else _hash(large.sha256, SHA256)
    git_blob = _hash(sibling.blob_id, GIT_BLOB) if large is None else None
    if not isinstance(size, int) or not (sha256 or git_blob):
        return None
    return RemoteFile(name=name, path=sibling.rfilename, size=size, sha256=sha256, git_blob=git_blob)


def _hash(text: str | None, kind: re.Pattern[str]) -> str | None:
    return text if text and kind.fullmatch(text) else None


def _asked_for(repository: str, commit: str, name: str, path: str) -> RemoteFile:
    """Return a file as its own address describes it, where the listing of a mirror has no sizes or hashes.

    Raises WeightsError where nothing says what the file is to be: it could not be told from an error page.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with one_line_errors(repository):
        url = hf_hub_url(repository, path, revision=commit, endpoint=endpoint())
        described = get_hf_file_metadata(url, timeout=SECONDS)
    sha256, git_blob = _hash(described.etag, SHA256), _hash(described.etag, GIT_BLOB)
    if described.size is None or not (sha256 or git_blob):
        raise WeightsError(
            f"{repository}: {endpoint()} tells neither size nor hash of {path}, so that what comes could not be "
            "checked; ask huggingface.co itself, or another mirror (HF_ENDPOINT)"
        )
    return RemoteFile(name=name, path=path, size=described.size, sha256=sha256, git_blob=git_blob)


def choose(published: Published, paths: list[str], text_encoder: bool) -> dict[str, str]:
    """Return {name in the folder: path in the repository} of the files needed. Raises WeightsError if one is missing.

    StrSR's repository holds files of one name for both families; wherever they lie, the family's word
    is in their path.
    """
    if published.word:
        return {part: _find_part(published, part, paths) for part in published.parts}
    patterns = published.files + (published.text_encoder if text_encoder else ())
    wanted = {path: path for path in paths if any(_fits(path, pattern) for pattern in patterns)}
    if published.one_of:
        first = next((name for name in published.one_of if name in paths), None)
        if first is not None:
            wanted[first] = first
    folders = [part for part in published.parts if part != "."]
    lacking = [part for part in folders if not any(path.startswith(f"{part}/") for path in wanted)]
    if lacking or not any(path.endswith((".safetensors", ".bin")) for path in wanted):
        what = ", ".join(lacking) or "weights"
        raise WeightsError(f"{published.repository}: lists no {what}; it is not laid out as it was published")
    return wanted


def _fits(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _find_part(published: Published, part: str, paths: list[str]) -> str:
    """Return the path of a part in a repository that holds several families. Raises WeightsError."""
    matches = [
        path
        for path in paths
        if path.endswith(part) and published.word in re.sub("[^a-z0-9]", "", path.lower())
    ]
    exact = [path for path in matches if path.split("/")[-2:] == [published.folder, part]]
    chosen = exact if len(exact) == 1 else matches
    if len(chosen) != 1:
        listed = ", ".join(matches or paths[:20]) or "nothing"
        raise WeightsError(
            f"{published.repository}: cannot tell which file is {published.folder}/{part} (listed: {listed}); "
            f"put it there by hand"
        )
    return chosen[0]


def fetch(listing: Listing, file: RemoteFile, target: Path, cache: Path | None, again: bool) -> None:
    """Bring one file to `target` by huggingface_hub. Raises WeightsError, OSError.

    cache: the folder of its cache, where the file stays and gets `target` as a second name; None: nothing is left
    there. again: whether what lies in the cache is damaged. A line that breaks is taken up by bytes, as long as the
    process lives.
    """
    from filelock import Timeout
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not takes_escapes(sys.stderr):
        disable_progress_bars()
    repository = listing.published.repository
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.hub")
    place = {"local_dir": beside} if cache is None else {"cache_dir": cache}
    try:
        with exclusive(lock_of(target), timeout=0), one_line_errors(repository):
            path = hf_hub_download(
                repository,
                file.path,
                revision=listing.revision,
                endpoint=endpoint(),
                etag_timeout=SECONDS,
                force_download=again,
                **place,
            )
            if cache is None:
                put_in_place(Path(path), target)
            else:
                give_name(Path(path).resolve(), target)
    except Timeout as error:
        raise WeightsError(f"{target}: another pull is fetching it; wait for that one") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def lock_of(target: Path) -> Path:
    """Return the lock file of a file that is being fetched."""
    return target.with_name(f"{target.name}.lock")


def give_name(source: Path, target: Path) -> None:
    """Give a file a second name, which takes no space; on another disk, a copy. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with whole_file(target) as file, source.open("rb") as original:
            shutil.copyfileobj(original, file, COPY)


@contextlib.contextmanager
def one_line_errors(repository: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into a WeightsError of one line."""
    from huggingface_hub import errors

    where = f"{endpoint()}/{repository}"
    try:
        yield
    except (StrsrError, MemoryError):
        raise
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{repository}: its licence must be accepted first: at {where}, then log in by `hf auth login` "
            f"or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{repository}: has no such revision; see {where}/commits/main") from error
    except (errors.RepositoryNotFoundError, errors.DisabledRepoError) as error:
        raise WeightsError(
            f"{repository}: not at {endpoint()} (any more), or not for everyone: look at {where}; "
            f"files from elsewhere can be put into the models folder by hand"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        # The library's words for a hub that does not answer; what it did answer stands behind them.
        raise WeightsError(
            f"{repository}: cannot be pulled from {endpoint()} ({reason_behind(error)}); files that are whole are "
            "kept, the same command goes on"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise WeightsError(
            f"{repository}: {endpoint()} answers with status {status}; try again later"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            # It is an error of the disk, not of the network.
            raise
        reason = first_line(error, skip_blank=True)
        raise WeightsError(
            f"{repository}: cannot be pulled from {endpoint()} ({reason}); files that are whole are kept, the "
            f"same command goes on"
        ) from error


def reason_behind(error: BaseException) -> str:
    """Return the first line of the error that another one came from, or of itself."""
    response = getattr(error.__cause__, "response", None)
    if response is not None:
        return f"status {response.status_code}"
    return first_line(error.__cause__ or error, skip_blank=True)
