"""A stand-in for the Hugging Face hub's HTTP interface: what an upload without Xet asks of it, kept in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_stand_in"
LARGE = 10_000  # bytes from which a file is sent by LFS


@dataclass
class Hub:
    """Files by (repository, revision) and path. `refuse` is a part of a path at which every request fails."""

    address: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)  # private or not
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: str | None = None


@contextmanager
def serving() -> Iterator[Hub]:
    """The hub, on loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body, path = self._body(), self.path.split("?")[0]
        self.hub.requests.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid credentials"})
        if self.hub.refuse is not None and self.hub.refuse in path:
            return self._say(500, {"error": "broken"})
        if path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        _, _, _, owner, name, what, revision = path.split("/", 6)
        repository = f"{owner}/{name}"
        if what == "preupload":
            return self._preupload(json.loads(body))
        if what == "branch":
            return self._branch(repository, revision)
        if what == "commit":
            return self._commit(repository, revision, body)
        return self._say(404, {"error": path})

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.requests.append(f"PUT {self.path}")
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._say(200, {})

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        known = repository in self.hub.repositories
        if not known:
            self.hub.repositories[repository] = asked.get("private", asked.get("visibility") == "private")
            self.hub.files[repository, "main"] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        address = {"url": f"{self.hub.address}/{repository}"}
        self._say(409 if known else 200, {"error": "exists", **address} if known else address)

    def _preupload(self, asked: dict[str, Any]) -> None:
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] >= LARGE else "regular", "shouldIgnore": False}
            for file in asked["files"]
        ]
        self._say(200, {"files": modes})

    def _batch(self, asked: dict[str, Any]) -> None:
        found = []
        for one in asked["objects"]:
            actions = (
                {} if one["oid"] in self.hub.blobs else {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}
            )
            found.append({**one, "actions": actions} if actions else dict(one))
        self._say(200, {"transfer": "basic", "objects": found}, "application/vnd.git-lfs+json")

    def _branch(self, repository: str, revision: str) -> None:
        if (repository, revision) in self.hub.files:
            return self._say(409, {"error": "exists"})
        self.hub.files[repository, revision] = dict(self.hub.files[repository, "main"])
        return self._say(200, {})

    def _commit(self, repository: str, revision: str, body: bytes) -> None:
        files = self.hub.files[repository, revision]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        address = f"{self.hub.address}/{repository}/commit/{oid}"
        self._say(200, {"success": True, "commitUrl": address, "commitOid": oid, "hookOutput": ""})

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _say(self, status: int, document: dict[str, Any], kind: str = "application/json") -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
