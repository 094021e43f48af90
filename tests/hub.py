"""A model hub on 127.0.0.1 that answers as the real one does: files at a revision, gated, missing, broken, slow."""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What there is, and how it behaves.

    folders   "organisation/name" or "datasets/organisation/name" -> local folder of its files
    closed    name -> 401, which asks who is there, or 403, which says no
    cuts      file name -> how many more times its download breaks off after half
    delay     seconds before the bytes of a file come
    requested "METHOD name file" -> how often
    """

    folders: dict[str, Path] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    cuts: Counter = field(default_factory=Counter)
    delay: dict[str, float] = field(default_factory=dict)
    requested: Counter = field(default_factory=Counter)
    address: str = ""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers inside the block, at `hub.address`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        do_GET = do_HEAD = lambda self: answer(hub, self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()


def answer(hub: Hub, request: BaseHTTPRequestHandler) -> None:
    """One request: a file of a repository, or what the hub knows about the repository."""
    path = request.path.split("?")[0]
    if found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(/.*)?", path):
        name = found[2] if found[1] == "models" else f"datasets/{found[2]}"
        if refuse(hub, request, name):
            return
        if "/tree/" in (found[3] or ""):
            return send(request, 404, error="EntryNotFound")  # no folder of chat templates
        files = [{"rfilename": file.name} for file in sorted(hub.folders[name].iterdir())]
        return send(request, 200, json.dumps({"id": found[2], "sha": COMMIT, "siblings": files, "tags": []}).encode())
    found = re.fullmatch(r"/((?:datasets/)?[\w.-]+/[\w.-]+)/resolve/([\w.]+)/(.+)", path)
    if not found:
        return send(request, 404)
    name, revision, file = found.groups()
    hub.requested[f"{request.command} {name} {file}"] += 1
    if refuse(hub, request, name):
        return
    if revision not in ("main", COMMIT, hub.revisions.get(name)):
        return send(request, 404, error="RevisionNotFound")
    place = hub.folders[name] / file
    if not place.is_file():
        return send(request, 404, error="EntryNotFound")
    commit = hub.revisions.get(name, COMMIT)
    content = place.read_bytes()
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if request.command == "GET":
        time.sleep(hub.delay.get(file, 0))
    if start := re.match(r"bytes=(\d+)-", request.headers.get("Range", "")):
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return send(request, 206, content[first:], headers=headers)
    cut = request.command == "GET" and hub.cuts[file] > 0
    hub.cuts[file] -= cut
    send(request, 200, content, headers=headers, cut=cut)


def refuse(hub: Hub, request: BaseHTTPRequestHandler, name: str) -> bool:
    """Answer with an error if the repository is not for this visitor."""
    if name in hub.closed:
        send(request, hub.closed[name], error="GatedRepo", message=f"Access to model {name} is restricted.")
    elif name not in hub.folders:
        send(request, 401, error="RepoNotFound", message="Invalid username or password.")
    else:
        return False
    return True


def send(request, status: int, content: bytes = b"", headers=(), error: str = "", message: str = "", cut=False) -> None:
    request.send_response(status)
    for key, value in dict(headers).items():
        request.send_header(key, value)
    if error:
        request.send_header("X-Error-Code", error)
        request.send_header("X-Error-Message", message or error)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content[: len(content) // 2] if cut else content)
    if cut:
        request.close_connection = True
