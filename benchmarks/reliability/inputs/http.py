"""A sample of hostile inputs as a client sends them to a running studio."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx

from benchmarks.reliability.inputs.case import NAMES, VALUES
from benchmarks.reliability.inputs.pictures import HTML, SVG, archive, png, zeros
from benchmarks.screenshot import studio

FAULT = "The studio made a fault"  # what the page says of an exception that is nobody's
DRAFT = "1"  # the project of a studio that was just opened
CALLS = ("projects", "start", "runs", "status", "cancel", "resume", "draw")
FILES = {
    "page.png": HTML,
    "drawing.svg": SVG,
    "archive.png": archive(),
    "nothing.png": b"",
    "large.png": png(30_000, 30_000, 8, 2, zeros(1000)),
    "../../up.png": b"x",
    "x" * 300 + ".png": b"x",
    "a\0b.png": b"x",
}


def ask_all(place: Path, only: str = "") -> Iterator[tuple[str, str]]:
    """What was asked, and what was wrong with the answer, if anything."""
    with studio(place / "runs", place / "project.toml") as address, httpx.Client(timeout=120) as client:
        for what, request in requests(address, client):
            if only in what:
                try:
                    yield what, wrong(request())
                except httpx.InvalidURL:  # which no client can ask for
                    yield what, ""
        yield "HTTP: the studio is well after all this", wrong(client.get(f"{address}/healthz"))


def wrong(answer: httpx.Response) -> str:
    """An answer of the kind 5xx is clear where it is a sentence: Gradio answers so what is refused."""
    text = answer.text
    if "Traceback" in text or FAULT in text:
        return f"{answer.status_code}: {text[:300]}"
    if answer.status_code >= 500:
        try:
            said = answer.json().get("error")
        except ValueError:
            said = None
        return "" if said else f"{answer.status_code}: {text[:300]}"
    return ""


def requests(address: str, client: httpx.Client) -> Iterator[tuple[str, object]]:
    for name in NAMES:
        shown = quote(name.encode("utf-8", "surrogateescape"), safe="")[:4000]
        for where in ("pictures/{}.png", "adapters/{}.safetensors", "gradio_api/file={}"):
            url = f"{address}/{where.format(shown)}"
            yield f"HTTP: {where} of {name!r:.30}", lambda url=url: client.get(url)
    for key, value in (
        ("content", "nan"),
        ("style", "1e999"),
        ("format", "x"),
        ("title", "x" * 10**4),
        ("title", "\n\x1b"),
        ("content", "0"),
    ):
        query = {key: value} | ({"style": "0"} if value == "0" else {})
        yield (
            f"HTTP: an adapter with {key} of {value!r:.20}",
            lambda q=query: client.get(f"{address}/adapters/fox.safetensors", params=q),
        )
    for name, data in FILES.items():
        yield f"HTTP: upload of {name!r:.30}", lambda n=name, d=data: upload(address, client, n, d)
    for call in CALLS:
        for value in [*VALUES[:7], "x" * 10**4, [], {}, None, "../../.."]:
            yield f"HTTP: {call} of {value!r:.20}", lambda c=call, v=value: called(address, client, c, [v])
        yield f"HTTP: {call} of nothing", lambda c=call: called(address, client, c, [])
    for body in (b"", b"{", b"[" * 10**5, b"null", b'{"data": 3}', b'{"data": [1], "fn_index": 10000}', b"\xff"):
        yield (
            f"HTTP: a body of {body[:20]!r}",
            lambda b=body: client.post(
                f"{address}/gradio_api/run/predict", content=b, headers={"Content-Type": "application/json"}
            ),
        )


def upload(address: str, client: httpx.Client, name: str, data: bytes) -> httpx.Response:
    """Upload a file, and ask what the project page says of it as a picture of the content."""
    sent = client.post(f"{address}/gradio_api/upload", files={"files": (name, data, "image/png")})
    if sent.status_code != 200:
        return sent
    config = client.get(f"{address}/config").json()
    galleries = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "content-pictures"]
    shown = {"image": {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}, "caption": None}
    (event,) = [d for d in config["dependencies"] if galleries[0] in d["inputs"]]
    given = {c["id"]: DRAFT if c["props"].get("visible") == "hidden" else c["props"].get("value")
             for c in config["components"]}  # fmt: skip
    data = [[shown] if one in galleries else given[one] for one in event["inputs"]]
    body = {"data": data, "fn_index": event["id"], "session_hash": "x"}
    return client.post(f"{address}/gradio_api/run/predict", json=body)


def called(address: str, client: httpx.Client, name: str, data: list) -> httpx.Response:
    """A named call and what its events say."""
    content = json.dumps({"data": data}).encode()
    sent = client.post(
        f"{address}/gradio_api/call/{name}", content=content, headers={"Content-Type": "application/json"}
    )
    if sent.status_code != 200:
        return sent
    return client.get(f"{address}/gradio_api/call/{name}/{sent.json()['event_id']}")
