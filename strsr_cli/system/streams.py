"""Standard output and error whose failing costs messages and nothing else: full disks, closed streams, lost terminals."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


class MessageStream:
    """A text stream that goes silent at its first error, which it keeps; all else is the stream behind it.

    A pipe whose reader has gone still raises BrokenPipeError, by which commands end. `buffer` is the bytes' own
    stream, and raises what it raises: a picture that cannot be written there has failed.
    """

    def __init__(self, behind: Any, failure: OSError | None = None) -> None:
        """behind: the stream. failure: the error of the first word, for a stream that was closed from the start."""
        self._behind = behind
        self._fails_with = failure
        # What has kept words from being written.
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        if self.failure is None and text:
            self.failure = self._fails_with
        if self.failure is None:
            with self._keeping_failure():
                self._behind.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts, or lose them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Bring out what was written, or lose it."""
        if self.failure is None:
            with self._keeping_failure():
                self._behind.flush()

    @contextlib.contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not getattr(self._behind, "closed", False):
                # It is the text that is at fault.
                raise
            self.failure = (
                error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF))
            )
            self._silence()

    def _silence(self) -> None:
        """Send what the stream still holds to nowhere, so that Python does not fail with it at its exit."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._behind.fileno())
            os.close(nowhere)
            self._behind.flush()


@contextlib.contextmanager
def message_streams() -> Iterator[tuple[MessageStream, MessageStream]]:
    """Let standard output and error fail without raising; yield the two. They are given back at the end.

    A process that was started without them (`>&-`) gets empty ones: otherwise the next file that it opens would become
    its standard output. What is said to a closed standard output is lost, which is a failure; who closes standard
    error wants no messages.
    """
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    before = sys.stdout, sys.stderr
    out = MessageStream(before[0], OSError(errno.EBADF, os.strerror(errno.EBADF)) if closed else None)
    err = MessageStream(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before
