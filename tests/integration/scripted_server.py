"""A server that answers as told: what a real one does too rarely to be waited for."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ID = "11111111-2222-3333-4444-555555555555"


def job(status: str = "succeeded", text: str | None = "42", **more: Any) -> dict[str, Any]:
    output = None if text is None else {"text": text, "finish_reason": "stop"}
    return {"id": ID, "status": status, "queue": "low", "tier": "batch", "output": output, **more}


def problem(code: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"title": "It is so", "detail": detail, "error": {"code": code}, **more}


def chunk(text: str, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "text": text}]}


@dataclass
class Script:
    """A server that answers as told: what a real one does too rarely to be waited for."""

    answers: list[bytes | None]
    """What is sent for each request, the last for all that follow; None cuts the connection."""
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def next(self) -> bytes | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer(status: int, body: Any, **headers: str) -> bytes:
    """Return an HTTP answer, with JSON unless `body` is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {
        "Content-Type": "application/json",
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + data


def events(*sent: tuple[str, str, Any]) -> bytes:
    """Return a stream of events: each an id, a name and its data; it ends where they end."""
    text = "".join(f"id: {i}\nevent: {name}\ndata: {json.dumps(d)}\n\n" for i, name, d in sent)
    return answer(200, f": a comment\n\n{text}".encode(), Content_Type="text/event-stream")


@contextmanager
def scripted(*answers: bytes | None) -> Iterator[Script]:
    """Serve a script while the context lasts."""
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.close_connection = True
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            script.requests.append((f"{self.command} {self.path}", dict(self.headers), body))
            if (said := script.next()) is not None:
                self.wfile.write(said)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()
