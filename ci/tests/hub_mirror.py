"""A small Hugging Face hub on loopback that misbehaves on purpose, file by file."""

import hashlib
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

COMMIT = "c0ffee" * 6 + "c0de"


@dataclass
class File:
    """A file and what goes wrong with it: `trouble` until it has happened `times` times."""

    data: bytes
    trouble: str = ""
    times: int = 1
    large: bool = True  # kept apart under its sha256, as the hub keeps large files
    happened: int = 0

    @property
    def etag(self) -> str:
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Mirror:
    """`files` by "owner/name/path". `url` is what HF_ENDPOINT must be while it runs."""

    files: dict[str, File]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # verb, path, range
    at_once: int = 0
    most_at_once: int = 0

    def __enter__(self) -> "Mirror":
        mirror, lock = self, threading.Lock()

        class Handler(_Handler):
            pass

        Handler.mirror, Handler.lock = mirror, lock
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def gets(self, path: str) -> list[str | None]:
        """The ranges asked for in the GET requests for a file."""
        return [r for verb, asked, r in self.requests if verb == "GET" and asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror
    lock: threading.Lock

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        path, file = self._file()
        if file is None:
            return
        if self._troubled(file, "head 503"):
            return self._refuse(503)
        if self._troubled(file, "head 429"):
            return self._refuse(429, {"Retry-After": "2"})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{file.etag}"'}
        if not file.large:
            return self._head(200, headers | {"Content-Length": str(len(file.data))})
        linked = {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        where = f"http://localhost:{self.server.server_port}/cdn/{quote(path)}"  # another host
        self._head(302, headers | linked | {"Location": where, "Content-Length": "0"})

    def do_GET(self) -> None:
        _, file = self._file()
        if file is None:
            return
        with self.lock:
            self.mirror.at_once += 1
            self.mirror.most_at_once = max(self.mirror.most_at_once, self.mirror.at_once)
        try:
            self._get(file)
        finally:
            with self.lock:
                self.mirror.at_once -= 1

    def _get(self, file: File) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and file.trouble != "cut, no ranges" else 0
        data = file.data[start:]
        half = len(data) // 2
        for status in (429, 500, 503):
            if self._troubled(file, f"get {status}"):
                return self._refuse(status, {"Retry-After": "2"})
        if self._troubled(file, "corrupt"):
            data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        elif self._troubled(file, "short"):
            data = data[:-100]
        elif self._troubled(file, "long"):
            data += b"x" * 100
        self._head(206 if start else 200, {
            "Content-Length": str(len(data)), "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {start}-{len(file.data) - 1}/{len(file.data)}",
        })  # fmt: skip
        if self._troubled(file, "cut") or self._troubled(file, "cut, no ranges"):
            self.wfile.write(data[:half])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self._troubled(file, "stall"):
            self.wfile.write(data[:half])
            time.sleep(3)
            self.close_connection = True
        elif self._troubled(file, "drip"):
            for i in range(0, len(data), len(data) // 20):
                self.wfile.write(data[i : i + len(data) // 20])
                time.sleep(0.05)
        else:
            if file.trouble == "slow":
                time.sleep(0.2)
            self.wfile.write(data)

    def _file(self) -> tuple[str, File | None]:
        found = re.fullmatch(
            r"/(?:datasets|cdn)/([^/]+/[^/]+)/(?:resolve/\w+/)?(.+)", unquote(self.path)
        )
        path = f"{found[1]}/{found[2]}" if found else self.path
        with self.lock:
            self.mirror.requests.append((self.command, path, self.headers.get("Range")))
        if path in self.mirror.files:
            return path, self.mirror.files[path]
        repositories = {"/".join(name.split("/")[:2]) for name in self.mirror.files}
        if found and found[1] == "gated/dataset":
            self._refuse(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask first."})
        elif found and found[1] in repositories:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
        return path, None

    def _troubled(self, file: File, trouble: str) -> bool:
        """Whether this trouble is due now; counts it."""
        with self.lock:
            due = file.trouble == trouble and file.happened < file.times
            file.happened += due
        return due

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._head(status, (headers or {}) | {"Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
