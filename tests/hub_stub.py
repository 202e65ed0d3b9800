"""A Hugging Face Hub on this machine, as its real client meets it: listings, redirects to a store, ranges, refusals."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

from auricle.models import download, hub_files

LARGE_FILES = (".safetensors", ".bin", ".pt")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repository:
    """The files of each revision, and how the Hub answers for them."""

    revisions: dict[str, dict[str, bytes]]
    license: str | None = None
    gated: bool = False
    pull_requests: list[dict[str, object]] = field(default_factory=list)

    def commit(self, revision: str) -> str | None:
        """The commit of a revision or commit, None if there is no such."""
        commits = {
            name: hashlib.sha1(json.dumps([name, {k: git_sha1(v) for k, v in files.items()}]).encode()).hexdigest()
            for name, files in self.revisions.items()
        }
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)

    def propose(self, number: int, files: dict[str, bytes], author: str = hub_files.CONVERSION_AUTHOR) -> None:
        """Open a pull request of the usual title, with these files besides those of main."""
        self.revisions[f"refs/pr/{number}"] = {**self.revisions["main"], **files}
        row = {"num": number, "title": hub_files.CONVERSION_TITLE, "author": {"name": author}, "status": "open"}
        self.pull_requests.append({**row, "isPullRequest": True})


@dataclass
class Hub:
    """What the stub serves, what goes wrong, and what it was asked."""

    url: str = ""
    cache: Path = Path()
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, or any other path
    cut_after: list[int] = field(default_factory=list)  # the next large downloads send so many bytes, then hang up
    delay: float = 0.0
    status: int = 0  # answers everything with this status
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def add(self, name: str, files: dict[str, bytes], **options: object) -> Repository:
        self.repositories[name] = Repository({"main": files}, **options)  # type: ignore[arg-type]
        return self.repositories[name]

    def sent(self, start: str) -> list[tuple[str, str, str]]:
        """The requests for the store or for paths that start so."""
        return [row for row in self.requests if row[1].startswith(start)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        time.sleep(self.hub.delay)
        path = unquote(urlsplit(self.path).path)
        if self.hub.status:
            self._send(self.hub.status, b"")
        elif path.startswith("/store/"):
            self._store(path.removeprefix("/store/"))
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._resolve(path)

    do_HEAD = do_POST = do_GET

    def _api(self, path: str) -> None:
        name = "/".join(path.split("/")[:2])
        repository, rest = self.hub.repositories.get(name), path[len(name) + 1 :]
        if repository is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if rest == "discussions":
            query = parse_qs(urlsplit(self.path).query)
            assert query["type"] == ["pull_request"] and query["status"] == ["open"]
            rows = [{**row, "repo": {"name": name, "type": "model"}} for row in repository.pull_requests]
            return self._send(200, json.dumps({"discussions": rows, "count": len(rows), "start": 0}).encode())
        commit = repository.commit(rest.removeprefix("revision/") or "main")
        if commit is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for file, content in repository.files(commit).items():
            siblings.append({"rfilename": file, "size": len(content), "blobId": git_sha1(content)})
            if file.endswith(LARGE_FILES):
                sha256 = hashlib.sha256(content).hexdigest()
                siblings[-1]["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
        card = {"cardData": {"license": repository.license}} if repository.license else {}
        info = {"id": name, "sha": commit, "private": False, "gated": repository.gated, "siblings": siblings, **card}
        return self._send(200, json.dumps(info).encode())

    def _resolve(self, path: str) -> None:
        name, _, rest = path.lstrip("/").partition("/resolve/")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if repository.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        revision = next((key for key in (*repository.revisions, rest.split("/")[0]) if rest.startswith(f"{key}/")), "")
        commit = repository.commit(revision)
        content = repository.files(commit).get(rest[len(revision) + 1 :]) if commit is not None else None
        if content is None or commit is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'}
        if not rest.endswith(LARGE_FILES):
            return self._send(200, content, headers)
        sha256 = hashlib.sha256(content).hexdigest()
        self.hub.stored.setdefault(sha256, content)
        # Another host, as the Hub's store is.
        location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/store/{sha256}"
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "Location": location}
        return self._send(302, b"", {**headers, **linked})

    def _store(self, key: str) -> None:
        assert "Authorization" not in self.headers, "the token left the Hub"
        if key not in self.hub.stored:
            return self._send(404, b"")
        content, start = self.hub.stored[key], 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._send(416, b"")
        cut = self.hub.cut_after.pop(0) if self.hub.cut_after and self.command == "GET" else None
        ranges = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        return self._send(206 if start else 200, content[start:], ranges, cut)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


def serve(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the real client talks to, with a token and an empty cache."""
    hub = Hub(cache=folder / "hub")
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    patch.setenv("HF_TOKEN", "hf_secretsecretsecretsecretsecret")
    constants = huggingface_hub.constants
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(hub.cache),
        "HF_ASSETS_CACHE": str(folder / "assets"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in settings.items():
        patch.setattr(constants, name, value)
    patch.setattr(download, "RETRY_SECONDS", 0.0)
    hub_files.hub_model.cache_clear()
    yield hub
    hub_files.hub_model.cache_clear()
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()
