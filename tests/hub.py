"""A hub of models on this machine: folders below one folder, served as huggingface_hub asks for them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 40


@contextmanager
def hub(models: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `models/OWNER/NAME` inside the block.

    Yields:
        The address, and the files that were asked for so far, as "OWNER/NAME/FILE".
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool = False) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                model = models / parts[2] / parts[3]
                held = {str(path.relative_to(model)): path for path in sorted(model.rglob("*")) if path.is_file()}
                told = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in held]}
                if parts[4:5] == ["tree"]:
                    told = [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                        for name, path in held.items()
                    ]
                return self.send(json.dumps(told).encode(), body)
            model, name = Path(*parts[:2]), Path(*parts[4:])  # OWNER/NAME/resolve/REVISION/FILE
            path = models / model / name
            if not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if (models / model).is_dir() else "RepoNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            asked.append(str(model / name))
            self.send(path.read_bytes(), body)

        def send(self, data: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
