"""What it takes to plan a million objects: `strsr upscale s3://... s3://... --dry-run` on a generated listing.

A server on loopback answers as S3 does, with pages of 1,000 keys that exist nowhere else. Prints seconds and the peak
of memory of the command, which runs in a process of its own.

    python scripts/list_million.py [COUNT]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = 1000
ENTRY = (
    "<Contents><Key>photos/{folder:04}/IMG_{number:07}.jpg</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class Listing(BaseHTTPRequestHandler):
    """Answers list_objects_v2: COUNT keys below photos/, none elsewhere."""

    protocol_version = "HTTP/1.1"
    count = 10**6

    def do_GET(self) -> None:
        """Answer one page."""
        query = parse_qs(urlsplit(self.path).query)
        prefix = query.get("prefix", [""])[0]
        begin = int(query.get("continuation-token", ["0"])[0])
        total = self.count if prefix == "photos/" else 0
        end = min(begin + PAGE, total)
        entries = "".join(
            ENTRY.format(folder=number // 5000, number=number, size=2_000_000 + number)
            for number in range(begin, end)
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < total else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>{end - begin}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{entries}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Say that there is no such object."""
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Start the server, run the command, print what it took."""
    if len(sys.argv) > 1:
        Listing.count = int(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [
        sys.executable,
        "-m",
        "strsr_cli",
        "upscale",
        "s3://bucket/photos",
        "s3://bucket/out",
        "--dry-run",
    ]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--json"], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    last, lines = b"", 0
    for line in process.stdout:
        last, lines = line, lines + 1
    code = process.wait()
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{Listing.count:,} keys: exit code {code}, {seconds:.0f} s, of which {used.ru_utime + used.ru_stime:.0f} s on "
        f"a processor; {used.ru_maxrss / 1024:.0f} MB at most; {lines:,} events"
    )
    print(last.decode().strip())


if __name__ == "__main__":
    main()
