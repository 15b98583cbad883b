"""Remote places (s3://, gs://, hf://, http(s)://) and the objects in them: listed, read whole, put whole.

fsspec and its file systems do the talking, with retries of their own; they are imported when the first URL is used.
Nothing of theirs leaves this file: an object is a RemoteFile, and what goes wrong is an ImageError that names it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from strsr_models.errors import ImageError, StrsrError, UsageError, first_line
from strsr_models.packages import install_command

# What must be imported for a scheme, and what installs it.
PACKAGES = {
    "s3": ("s3fs", "strsr[remote]"),
    "gs": ("gcsfs", "strsr[gs]"),
    "hf": ("huggingface_hub", "strsr[remote]"),
    "http": ("aiohttp", "strsr[remote]"),
    "https": ("aiohttp", "strsr[remote]"),
}
# Schemes of stores that take objects, with the name that their library has for an object's own metadata.
WRITABLE = {"s3": "Metadata", "gs": "metadata"}
WEB = ("http", "https")

# Names of errors, in libraries that need not be installed.
NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
}
UNREACHABLE = {
    "TransportError",
    "ConnectionError",
    "TimeoutError",
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ClientConnectorError",
    "FSTimeoutError",
}


# What gives a process credentials, and what says where a store is, by scheme.
LOG_IN = {
    "s3": "set those of the store, such as AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "gs": "log in (gcloud auth application-default login), or set GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "log in (hf auth login), or set HF_TOKEN",
    "http": "pages that ask for a password cannot be read",
    "https": "pages that ask for a password cannot be read",
}
ENDPOINTS = {
    "s3": ", and AWS_ENDPOINT_URL if it is set",
    "gs": ", and STORAGE_EMULATOR_HOST if it is set",
    "hf": ", and HF_ENDPOINT if it is set",
}


@dataclass(frozen=True)
class Place:
    """A prefix below which objects lie. url: without a slash at its end."""

    url: str

    @property
    def scheme(self) -> str:
        """What stands before ://, in small letters."""
        return self.url.partition("://")[0]

    @property
    def files(self) -> Any:
        """fsspec's file system of this place. Raises UsageError where a package is missing."""
        return _file_system(self.scheme, self.url)

    def path(self, key: str = "") -> str:
        """Return what the file system calls an object, or the place itself."""
        root = self.url if self.scheme in WEB else self.url.partition("://")[2]
        return f"{root}/{key}" if key else root

    def objects(self) -> Iterator[RemoteFile]:
        """Yield all objects below, page by page where the store has pages. Raises ImageError."""
        start = len(self.path()) + 1
        with reaching(self.url):
            for info in self._listed():
                key = info["name"][start:]
                # Some tools mark folders by empty objects with a slash at their end.
                if key and not key.endswith("/"):
                    yield _file_of(self, key, info)

    def _listed(self) -> Iterator[dict[str, Any]]:
        if self.scheme == "s3":
            yield from self._s3_objects()
        elif self.scheme == "gs":
            yield from self._gs_objects()
        elif self.scheme == "hf":
            yield from self.files.find(self.path(), detail=True).values()
        else:
            for _, _, infos in self.files.walk(self.path(), detail=True, on_error="raise"):
                yield from infos.values()

    def _s3_objects(self) -> Iterator[dict[str, Any]]:
        files = self.files
        bucket, key, _ = files.split_path(self.path())
        request = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
        while True:
            page = files.call_s3("list_objects_v2", **request)
            for info in page.get("Contents", ()):
                yield {**info, "name": f"{bucket}/{info['Key']}"}
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _gs_objects(self) -> Iterator[dict[str, Any]]:
        bucket, _, key = self.path().partition("/")
        request = {
            "prefix": f"{key}/" if key else "",
            "fields": "nextPageToken,items(name,size,md5Hash,etag,updated)",
        }
        while True:
            page = self.files.call("GET", "b/{}/o", bucket, json_out=True, **request)
            for info in page.get("items", ()):
                updated = datetime.fromisoformat(info["updated"].replace("Z", "+00:00"))
                yield {**info, "name": f"{bucket}/{info['name']}", "mtime": updated}
            if not page.get("nextPageToken"):
                return
            request["pageToken"] = page["nextPageToken"]

    def look(self, key: str) -> RemoteFile | None:
        """Return an object as it is now; None where there is none. Raises ImageError."""
        with reaching(f"{self.url}/{key}"):
            try:
                info = self.files.info(self.path(key), **({"refresh": True} if self.scheme == "s3" else {}))
            except FileNotFoundError:
                return None
            return None if info["type"] == "directory" else _file_of(self, key, info)

    def metadata(self, key: str) -> dict[str, str]:
        """Return an object's own metadata; none where there is no object. Raises ImageError."""
        with reaching(f"{self.url}/{key}"):
            try:
                if self.scheme == "s3":
                    return cast("dict[str, str]", self.files.metadata(self.path(key), refresh=True))
                return dict(self.files.info(self.path(key)).get("metadata") or {})
            except FileNotFoundError:
                return {}

    def read(self, key: str) -> bytes:
        """Return all bytes of an object. Raises ImageError."""
        with reaching(f"{self.url}/{key}"):
            return cast(bytes, self.files.cat_file(self.path(key)))

    def read_all(self, keys: list[str]) -> Iterator[bytes]:
        """Yield the bytes of many small objects, read several at a time. Raises ImageError."""
        with reaching(self.url):
            for begin in range(0, len(keys), 64):
                paths = [self.path(key) for key in keys[begin : begin + 64]]
                contents = self.files.cat(paths, on_error="return")
                for path in paths:
                    data = contents[path]
                    if isinstance(data, FileNotFoundError):
                        continue
                    if isinstance(data, Exception):
                        raise data
                    yield data

    def put(self, key: str, data: bytes, new: bool = False) -> bool:
        """Put a small object. new: only where there is none; returns whether it was put. Raises ImageError."""
        with reaching(f"{self.url}/{key}"):
            return self._put(lambda how: self.files.pipe_file(self.path(key), data, **how), new, None)

    def put_file(self, key: str, path: Path, metadata: dict[str, str], replaced: RemoteFile | None) -> bool:
        """Put a local file as an object, at once, with metadata of its own. Raises ImageError.

        replaced: the object that it takes the place of, or None where there is none; where the store can tell that
        another one is there by now, nothing is put. Returns whether it was put.
        """
        own = {WRITABLE[self.scheme]: metadata}
        with reaching(f"{self.url}/{key}"):
            return self._put(
                lambda how: self.files.put_file(str(path), self.path(key), **own, **how),
                replaced is None,
                replaced,
            )

    def _put(self, put: Any, new: bool, replaced: RemoteFile | None) -> bool:
        how: dict[str, str] = {}
        if new:
            how["mode"] = "create"
        elif replaced is not None and self.scheme == "s3" and replaced.tag:
            how["IfMatch"] = f'"{replaced.tag}"'
        for last in (False, False, True):
            try:
                put(how)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                code = _code_of(error)
                if code == "PreconditionFailed":
                    return False
                # Two puts of one name at once: the second try meets what the other one has put.
                if last or code != "ConditionalRequestConflict":
                    raise
        return False

    def remove(self, key: str) -> None:
        """Remove an object, if it is there. Raises ImageError."""
        with reaching(f"{self.url}/{key}"), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.path(key))

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object of a place, as it was when it was listed; its name has the properties of a path's.

    key: its name in the place. size: in bytes, None where the place does not tell. tag: its ETag, or the MD5 of its
    content where the store says that; "" where it has neither.
    """

    place: Place
    key: str
    size: int | None = None
    mtime_ns: int = 0
    tag: str = ""

    @property
    def relative(self) -> str:
        """The name below the place; addresses of the web in letters, and without what stands behind ?."""
        name = unquote(urlsplit(self.key).path) if self.place.scheme in WEB else self.key
        # A name that begins with a slash would be a path of its own.
        return name.lstrip("/")

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.relative.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix with its dot, as of a path."""
        stem, dot, suffix = self.name.rpartition(".")
        return dot + suffix if stem and suffix else ""

    @property
    def identity(self) -> str:
        """What is another text when the content is another one, as far as the place tells without being read."""
        return f"etag:{self.tag}" if self.tag else f"size and time:{self.size} {self.mtime_ns}"

    def read(self, most: int) -> bytes:
        """Return all bytes. Raises ImageError, for an object of more than `most` bytes before it is read."""
        # Names in lists have no sizes, and websites need not tell theirs.
        size = self.size if self.size is not None else getattr(self.place.look(self.key), "size", None)
        if size is not None and size > most:
            raise ImageError(f"{self}: {size} bytes are more than --max-pixels allows to read ({most})")
        return self.place.read(self.key)

    def __str__(self) -> str:
        return f"{self.place.url}/{self.key}"


def place_of(url: str) -> tuple[Place, bool]:
    """Return the place that a URL names, and whether it ends in a slash. Raises UsageError for unknown schemes."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in PACKAGES:
        known = ", ".join(f"{name}://" for name in PACKAGES)
        raise UsageError(f"{url}: unknown kind of place; strsr knows {known}; files have no ://")
    if not rest.strip("/"):
        raise UsageError(f"{url}: names no {'bucket' if scheme in WRITABLE else 'place'}")
    return Place(f"{scheme}://{rest.rstrip('/')}"), rest.endswith("/")


def split_url(url: str) -> tuple[Place, str]:
    """Return the place above an object and the object's name in it. Raises UsageError where the URL has no name."""
    place, _ = place_of(url)
    address, mark, query = place.url.partition("?") if place.scheme in WEB else (place.url, "", "")
    above, _, name = address.rpartition("/")
    if above.endswith("/") or not name:
        raise UsageError(f"{url}: names no object")
    return Place(above), name + mark + query


@lru_cache(maxsize=8)
def _file_system(scheme: str, url: str) -> Any:
    """Return the file system of a scheme, without a memory of listings. Raises UsageError, StrsrError."""
    module, package = PACKAGES[scheme]
    try:
        fsspec = importlib.import_module("fsspec")
        importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{url}: needs a package that is not installed: {install_command(package)}"
        ) from error
    # It prints tracebacks of errors that it raises, too, and a warning for each request that is made without an account.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    with reaching(url):
        own = {"session": _s3_session()} if scheme == "s3" else {}
        return fsspec.filesystem(scheme, use_listings_cache=False, **own)


def _s3_session() -> Any:
    """Return a session of botocore that reads times fast: of its own way, a listing takes five times as long."""
    from aiobotocore.session import AioSession
    from botocore.utils import parse_timestamp

    def read_time(text: Any) -> Any:
        try:
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
        except (AttributeError, ValueError):
            # HEAD has times of another form.
            return parse_timestamp(text)

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    return session


def _file_of(place: Place, key: str, info: dict[str, Any]) -> RemoteFile:
    """Return an object from what its file system says of it."""
    md5 = info.get("md5Hash")
    tag = b64decode(md5).hex() if md5 else info.get("ETag") or info.get("etag") or info.get("blob_id") or ""
    size = info.get("size", info.get("Size"))
    time = info.get("LastModified") or info.get("mtime") or info.get("Last-Modified")
    return RemoteFile(place, key, None if size is None else int(size), _ns_of(time), str(tag).strip('"'))


def _ns_of(time: Any) -> int:
    """Return a time as ns since 1970; 0 where it is none."""
    if isinstance(time, str):
        try:
            time = parsedate_to_datetime(time)
        except ValueError:
            return 0
    return int(time.timestamp()) * 10**9 if isinstance(time, datetime) else 0


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into an ImageError that names the place and what to do."""
    try:
        yield
    except (StrsrError, MemoryError):
        raise
    except Exception as error:
        # Libraries of stores raise errors of many families.
        raise ImageError(f"{url}: {_reason(error, url.partition('://')[0])}") from error


def _reason(error: Exception, scheme: str) -> str:
    """Say what a place has refused, and what to do."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status", getattr(error, "code", None))
    line = re.sub(r"\s+", " ", first_line(error))
    if names & NO_CREDENTIALS:
        return f"no credentials ({line}); {LOG_IN[scheme]}"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"access denied ({line}); check the credentials and what they allow"
    if isinstance(error, FileNotFoundError) or status == 404:
        # The hub does not tell strangers that something private is there.
        private = f"; if it is private, {LOG_IN[scheme]}" if scheme == "hf" else ""
        return f"no such object or bucket; check the name{private}"
    if names & UNREACHABLE:
        return f"cannot be reached ({line}); check the network{ENDPOINTS.get(scheme, '')}"
    return f"the place says: {line}"


def _code_of(error: OSError) -> str:
    """Return the word by which S3 names an error; empty for errors of others."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
