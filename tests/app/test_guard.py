"""Who gets into the studio, and what nobody gets out of it."""

import http.server
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from gradio.route_utils import safehttpx
from PIL import Image

from app.__main__ import HOUSE
from app.cards import cards
from app.checks import check
from app.copies import Copies
from app.given import pictures_of
from app.guard import Guard, is_loopback
from app.studio import serve
from benchmarks.screenshot import studio as open_studio
from pipelines.errors import UserError
from training.pictures import open_picture

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def served(address: str, path: Path) -> httpx.Response:
    return httpx.get(f"{address}/gradio_api/file={path}")


def test_nothing_but_copies_of_pictures_is_served(studio, project, finished):
    """Not what lies beside the project, not what else is in a run, not what lies in the house."""
    address, library = studio
    key = project.parent / "id_ed25519"
    key.write_bytes(SECRET)
    log = library.folder / "log.txt"
    log.write_text("secret")
    for path in (key, project, project.parent / "content/picture-0.png", log, HOUSE / "README.md", finished.config):
        assert path.exists() and served(address, path).status_code == 403, path
    copy = Copies(Path(os.environ["GRADIO_TEMP_DIR"]) / "copies").of(project.parent / "content/picture-0.png")
    answer = served(address, copy)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    config = httpx.get(f"{address}/config").text
    assert str(project.parent) not in config and str(HOUSE) not in config  # the base lies there too


def test_a_copy_has_a_picture_s_pixels_and_nothing_else(tmp_path):
    photo = tmp_path / "holiday.jpg"
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "where I live", 6  # a description; a quarter turn
    Image.new("RGB", (40, 20), "red").save(photo, exif=exif)
    copies = Copies(tmp_path / "copies")
    copy = copies.of(photo)
    assert copy.name == "holiday.png" and copies.of(photo) == copy
    assert b"where I live" not in copy.read_bytes()
    assert list(open_picture(copy).getdata()) == list(open_picture(photo).getdata())
    assert Image.open(copy).size == (20, 40)
    Image.new("RGB", (40, 20), "blue").save(photo)
    assert copies.of(photo) != copy

    drawing = tmp_path / "evil.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    for path in (drawing, tmp_path / "nothing.png"):
        with pytest.raises(UserError):
            copies.of(path)


def test_a_script_among_a_project_s_pictures_is_shown_to_nobody(tmp_path, config):
    """The project opens, its card says what is wrong, and nothing of the file is in the page."""
    (tmp_path / "evil.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    config.content.pictures = [tmp_path / "evil.svg"]
    config.save(tmp_path / "project.toml")
    serve(tmp_path / "runs", tmp_path / "project.toml")
    copies = Path(os.environ["GRADIO_TEMP_DIR"]) / "copies"
    assert not [path for path in copies.rglob("*evil*")]
    (given,) = pictures_of(config.content)
    (finding,) = [one for one in check("content", [given], 64) if one.number == 0]
    assert "evil.svg cannot be opened" in finding.text and finding.blocks
    assert "<img" not in cards([(given, None, None)], [finding], "", {"placeholder": "sks", "class_word": ""})


@pytest.mark.parametrize(
    "host, origin, allowed",
    [
        ("127.0.0.1:7860", None, True),
        ("localhost:7860", "http://localhost:7860", True),
        ("[::1]:7860", "http://[::1]:7860", True),
        ("203.0.113.5:7860", "http://203.0.113.5:7860", True),
        ("studio.example.org", "https://studio.example.org", True),
        ("127.0.0.1:7860", "https://studio.example.org", True),  # a proxy that keeps the host to itself
        ("evil.example:7860", None, False),  # a name that was made to point here
        ("evil.example:7860", "http://evil.example:7860", False),
        ("127.0.0.1:7860", "https://evil.example", False),
        ("127.0.0.1:7860", "http://127.0.0.1:9999", False),
        ("studio.example.org", "https://evil.example", False),
        ("127.0.0.1:7860", "null", False),
        ("127.0.0.1:7860", "http://127.0.0.1:7860@evil.example", False),
        ("", None, False),
        ("[", None, False),
    ],
)
def test_host_and_origin_are_checked_against_a_list(host, origin, allowed):
    assert (Guard(None, ["studio.example.org"]).fault(host, origin) == "") == allowed


def test_a_foreign_page_is_answered_nothing(studio):
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        for path in ("/", "/config", "/healthz", "/adapters/x.safetensors", "/gradio_api/info"):
            answer = httpx.get(studio[0] + path, headers=headers)
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert httpx.get(studio[0] + "/config", headers={"Origin": studio[0]}).status_code == 200


def test_no_address_is_opened_for_a_client(studio, monkeypatch):
    """Neither in place of a file, nor as a file that is handed in."""
    asked = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setattr(safehttpx, "is_public_ip", lambda address: True)
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        for kind in ("file", "proxy"):
            assert httpx.get(f"{studio[0]}/gradio_api/{kind}={url}").status_code >= 400
        config = httpx.get(f"{studio[0]}/config").json()
        galleries = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "content-pictures"]
        uploads = [d for d in config["dependencies"] if galleries[0] in d["inputs"]]
        index, given = uploads[0]["id"], uploads[0]["inputs"]
        picture = {"image": {"path": url, "meta": {"_type": "gradio.FileData"}}, "caption": None}
        data = [[picture] if one in galleries else "emoji" for one in given]
        body = {"data": data, "fn_index": index, "session_hash": "x"}
        answer = httpx.post(f"{studio[0]}/gradio_api/run/predict", json=body)
        assert answer.status_code == 500 and "opens no addresses" in answer.text
        server.shutdown()
    assert asked == []


def test_a_password_is_asked_of_everyone(tmp_path, project):
    with open_studio(tmp_path / "runs", project, password="open sesame") as address, httpx.Client() as client:
        for path in ("/config", "/gradio_api/info", "/adapters/x.safetensors", "/gradio_api/file=/etc/hostname"):
            assert client.get(address + path).status_code == 401, path
        assert client.get(f"{address}/healthz").status_code == 200
        wrong = client.post(f"{address}/login", data={"username": "a", "password": "sesame"})
        assert wrong.status_code == 400 and client.get(f"{address}/config").status_code == 401
        assert client.post(f"{address}/login", data={"username": "a", "password": "open sesame"}).status_code == 200
        assert client.get(f"{address}/config").status_code == 200
        assert client.get(f"{address}/adapters/x.safetensors").status_code == 404


def test_what_is_uploaded_or_drawn_goes_with_the_studio(tmp_path, project):
    with open_studio(tmp_path / "runs", project) as address:
        sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.html", b"<script>", "text/html")})
        path = Path(sent.json()[0])
        answer = served(address, path)
        assert answer.status_code == 200 and answer.headers["content-disposition"].startswith("attachment")
    assert not path.exists() and not path.is_relative_to(Path(tempfile.gettempdir()) / "gradio")


@pytest.mark.parametrize("address, here", [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False)])
def test_what_reaches_this_machine_alone(address, here):
    assert is_loopback(address) == here


def test_others_are_let_in_only_with_a_password_or_by_decision():
    command = [sys.executable, "-m", "app", "--host", "0.0.0.0", "--port", "0"]
    unset = {key: value for key, value in os.environ.items() if key != "JOINERY_PASSWORD"}
    ended = subprocess.run(command, cwd=HOUSE, env=unset, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("--host 0.0.0.0 lets others in, and there is no password. Set JOINERY_PASSWORD")
