"""A Hub on this machine: what the model and data libraries ask of huggingface.co, answered from memory over HTTP.

Repositories have branches and commits, may be gated or private, and keep large files apart, as the real Hub does:
a small file is redirected to `/api/resolve-cache`, a large one to the store that holds it by its hash.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".gz")  # what .gitattributes keeps in LFS
TOKEN = "hf_" + "ThisIsNoRealToken"  # opens every gated and private repository
Files = Mapping[str, bytes]


@dataclass
class Repository:
    kind: str  # models or datasets
    name: str
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, tag or hash names."""
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    authorization: str | None
    status: int


class Hub:
    """Starts on a free port of 127.0.0.1; `endpoint` is what HF_ENDPOINT has to be."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self._serve(0)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.store = f"http://localhost:{self._server.server_port}/store"  # another host, as far as clients can tell

    def _serve(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(
        self,
        name: str,
        files: Files | Path,
        *,
        kind: str = "models",
        gated: bool = False,
        private: bool = False,
        revision: str = "main",
    ) -> str:
        """Commit `files`, or a folder's, as the new tip of a branch; returns the commit."""
        if isinstance(files, Path):
            files = {str(f.relative_to(files)): f.read_bytes() for f in sorted(files.rglob("*")) if f.is_file()}
        repository = self.repositories.setdefault((kind, name), Repository(kind, name))
        repository.gated, repository.private = gated, private
        digest = hashlib.sha1(name.encode())
        for path, content in files.items():
            digest.update(path.encode() + b"\0" + content)
        commit = digest.hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[revision] = commit
        return commit

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens at the endpoint: connections are refused."""
        port = self._server.server_port
        self._server.shutdown()
        self._server.server_close()
        try:
            yield
        finally:
            self._serve(port)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        served = hub

    return Handler


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0, so that no connection outlives its answer and `down` is down."""

    served: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        """The address is /api/KIND/OWNER/NAME/WHAT..., /OWNER/NAME/resolve/... or /datasets/OWNER/NAME/resolve/..."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == [""]:
            self._send(200, b"the front page")
        elif parts[0] == "store":
            self._send(200, _stored(self.served, parts[1]))
        elif parts[0] == "api" and parts[1] == "resolve-cache":
            _, _, kind, owner, name, commit, *file = parts
            content = self.served.repositories[kind, f"{owner}/{name}"].commits[commit]["/".join(file)]
            self._send(200, content, _headers(commit, content))
        elif parts[0] == "api" and parts[1] in ("models", "datasets") and len(parts) >= 4:
            self._with_repository(parts[1], "/".join(parts[2:4]), parts[4:], body)
        elif parts[0] == "datasets":
            self._with_repository("datasets", "/".join(parts[1:3]), parts[3:], body)
        elif parts[0] == "api":
            self._refuse(404, "", "Not Found")
        else:
            self._with_repository("models", "/".join(parts[:2]), parts[2:], body)

    def _with_repository(self, kind: str, name: str, rest: list[str], body: bytes) -> None:
        repository = self.served.repositories.get((kind, name))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            # Whether it exists is no stranger's business.
            return self._refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        what, revision, file = ([*rest, *[""] * 3])[0], ([*rest, "main"])[1] if len(rest) > 1 else "main", rest[2:]
        commit = repository.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what in ("", "revision"):
            return self._send_json(_info(repository, commit))
        if what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = _tree(repository.commits[commit], "/".join(file), recursive)
            return self._send_json(entries) if entries else self._refuse(404, "EntryNotFound", "no such folder")
        if what == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", []) if body[:1] != b"{" else json.loads(body)["paths"]
            whole = _tree(repository.commits[commit], "", True)
            return self._send_json([entry for entry in whole if entry["path"] in wanted])
        if what == "resolve":
            return self._resolve(repository, commit, "/".join(file), known)
        return self._refuse(404, "", "Not Found")

    def _resolve(self, repository: Repository, commit: str, file: str, known: bool) -> None:
        if repository.gated and not known:
            told = f"Access to model {repository.name} is restricted. You must be authenticated to access it."
            return self._refuse(401, "GatedRepo", told)
        content = repository.commits[commit].get(file)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = _headers(commit, content)
        if file.endswith(LARGE):
            sha = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha}"'}
            return self._send(302, b"", headers | linked | {"Location": f"{self.served.store}/{sha}"})
        cached = f"/api/resolve-cache/{repository.kind}/{repository.name}/{commit}/{quote(file)}"
        return self._send(307, b"", headers | {"Location": cached})

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        request = Request(self.command, self.path, self.headers.get("Authorization"), status)
        self.served.requests.append(request)
        start, end = _range(self.headers.get("Range"), len(content))
        partial = status == 200 and (start, end) != (0, len(content))
        self.send_response(206 if partial else status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[start:end])


def _range(header: str | None, size: int) -> tuple[int, int]:
    """What `bytes=a-b` asks for, as a slice."""
    if header is None or not header.startswith("bytes="):
        return 0, size
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last) + 1) if last else size


def _headers(commit: str, content: bytes) -> dict[str, str]:
    return {"X-Repo-Commit": commit, "ETag": f'"{_blob(content)}"', "Accept-Ranges": "bytes"}


def _blob(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _stored(hub: Hub, sha: str) -> bytes:
    files = (c for r in hub.repositories.values() for files in r.commits.values() for c in files.values())
    return next(content for content in files if hashlib.sha256(content).hexdigest() == sha)


def _info(repository: Repository, commit: str) -> dict[str, object]:
    return {
        "_id": "0" * 24,
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in repository.commits[commit]],
    }


def _tree(files: Files, under: str, recursive: bool) -> list[dict[str, object]]:
    """The files and folders below `under`, the way the Hub lists them."""
    prefix = f"{under}/" if under else ""
    entries: dict[str, dict[str, object]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        folders = path.removeprefix(prefix).split("/")[:-1]
        for depth in range(1, len(folders) + 1) if recursive else range(1, min(2, len(folders) + 1)):
            folder = prefix + "/".join(folders[:depth])
            entries[folder] = {"type": "directory", "oid": _blob(folder.encode()), "size": 0, "path": folder}
        if recursive or not folders:
            entries[path] = {"type": "file", "oid": _blob(content), "size": len(content), "path": path}
            if path.endswith(LARGE):
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 132}
                entries[path]["lfs"] = lfs
    return list(entries.values())
