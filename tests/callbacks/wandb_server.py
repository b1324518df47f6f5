"""A Weights & Biases server on localhost, as far as its client needs one to keep a run: what it is sent can be read.

GraphQL for runs, artifacts and dashboards; the file stream of history, summary and events; uploads by PUT.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY, PROJECT = "ent", "proj"
_PROJECT = {"id": "p1", "name": PROJECT, "entity": {"id": "e1", "name": ENTITY}, "isReadOnly": False}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The client hangs up without a word when its run is over."""


class Server:
    """Runs by id, each {"fields", "config", "history", "events", "summary", "exit_code"}; uploads, artifacts, views."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.requests = 0
        self.broken = False  # answer everything with 500
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            do_PUT = do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # HTTP ------------------------------------------------------------------------------------------------------------

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.requests += 1
        try:
            status, answer = (500, {"error": "broken"}) if self.broken else (200, self._answer(request, body))
        except KeyError as error:
            status, answer = 400, {"errors": [{"message": f"no such thing: {error}"}]}
        if request.headers.get("Connection") == "close":
            request.close_connection = True
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Any:
        path = request.path
        if path.endswith("/graphql"):
            return {"data": self._graphql(json.loads(body))}
        if path.endswith("/file_stream"):
            self._stream(self.runs[path.split("/")[-2]], json.loads(body))
            return {"exitcode": None, "limits": {}}
        if path.startswith("/storage/"):
            if request.command == "PUT":
                self.uploads[path.removeprefix("/storage/")] = body
                return {}
            return self.uploads[path.removeprefix("/storage/")]
        raise KeyError(path)

    @staticmethod
    def _stream(run: dict[str, Any], sent: dict[str, Any]) -> None:
        names = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "wandb-summary.json": "summary"}
        for name, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-summary.json":
                run["summary"] = lines[-1]
            elif name in names:
                kept = run[names[name]][: chunk["offset"]]
                run[names[name]] = [*kept, *lines]
        if sent.get("complete"):
            run["exit_code"] = sent.get("exitcode")

    # GraphQL ---------------------------------------------------------------------------------------------------------

    def _graphql(self, call: dict[str, Any]) -> dict[str, Any]:
        query, given = call["query"], call.get("variables") or {}
        name = call.get("operationName") or query.split("(")[0].split("{")[0].split()[1]
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_bucket,
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": {"organization": None}},
            "Viewer": lambda _: {"viewer": _VIEWER},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "CreateRunFiles": self._create_run_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UpsertView2": self._upsert_view,
        }
        if name not in answers:
            self.unknown.append(query)
            raise KeyError(name)
        return answers[name](given)

    def _bucket(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        tail = json.dumps([json.dumps(line) for line in run["history"][-1:]])
        return {
            **{"id": f"run-{name}", "name": name, "displayName": run["fields"]["displayName"], "description": None},
            **{
                "config": json.dumps(run["config"]),
                "summaryMetrics": json.dumps(run["summary"]),
                "tags": run["fields"]["tags"],
            },
            **{"logLineCount": 0, "historyLineCount": len(run["history"]), "eventsLineCount": len(run["events"])},
            **{
                "historyTail": tail,
                "eventsTail": "[]",
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
                "sweepName": None,
            },
            "project": _PROJECT,
        }

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"model": _PROJECT | {"bucket": self._bucket(given["name"])}}

    def _upsert_bucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name, new = given["name"], given["name"] not in self.runs
        empty = {"fields": {}, "config": {}, "history": [], "events": [], "summary": {}, "exit_code": None}
        run = self.runs.setdefault(name, empty)
        run["fields"] |= {key: value for key, value in given.items() if value is not None and key != "config"}
        run["config"] |= json.loads(given.get("config") or "{}")
        return {"upsertBucket": {"bucket": self._bucket(name), "inserted": new}}

    def _create_run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": n, "uploadUrl": f"{self.url}/storage/{given['run']}/{n}"} for n in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        number = f"a{len(self.artifacts)}"
        self.artifacts[number] = given["input"] | {"committed": False}
        sequence = {"id": "s1", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def _create_manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/storage/{given['artifactID']}/{given['name']}"
        file = {"id": "f1", "name": given["name"], "displayName": given["name"], "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m1", "file": file}}}

    def _create_artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for spec in given["input"]["artifactFiles"]:
            url = f"{self.url}/storage/{spec['artifactID']}/{spec['name']}"
            file = {"id": "f2", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url}
            file |= {"uploadHeaders": [], "storagePath": None, "uploadMultipartUrls": None}
            nodes.append({"node": file | {"artifact": {"id": spec["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _commit_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[given["artifactID"]]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def _upsert_view(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(dict(given))
        return {"upsertView": {"view": {"id": f"v{len(self.views)}", "name": given["name"]}, "inserted": True}}


_VIEWER = {
    **{"id": "u1", "entity": ENTITY, "username": "u", "email": None, "flags": "{}", "name": "u", "admin": False},
    "teams": {"edges": [{"node": {"name": ENTITY}}]},
}
