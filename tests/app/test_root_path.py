"""The studio behind a proxy that shows it under a path of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from gradio_client import Client
from playwright.sync_api import expect
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from app.__main__ import chosen_root_path
from benchmarks.screenshot import served
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.browser import watched

PREFIX = "/tools/joinery"


@contextmanager
def proxy(address: str) -> Iterator[str]:
    """A proxy that shows what answers at an address under a prefix, which it strips. Hosts are passed on."""
    client = httpx.AsyncClient(base_url=address, timeout=None)

    async def forward(request: Request) -> StreamingResponse:
        path = request.scope["raw_path"].decode().removeprefix(PREFIX)
        content = request.stream() if "content-length" in request.headers else None
        asked = client.build_request(
            request.method, f"{path}?{request.url.query}", headers=request.headers.raw, content=content
        )
        answer = await client.send(asked, stream=True)
        given = {"status_code": answer.status_code, "background": BackgroundTask(answer.aclose)}
        response = StreamingResponse(answer.aiter_raw(), **given)
        response.raw_headers = answer.headers.raw
        return response

    routes = [
        Route(PREFIX + "/{path:path}", forward, methods=["GET", "HEAD", "POST"]),
        Route("/favicon.ico", lambda request: Response(status_code=204)),  # which a browser asks every host for
    ]
    with served(Starlette(routes=routes)) as outside:
        yield outside + PREFIX


@pytest.fixture(scope="module")
def behind(tmp_path_factory, project, finished):
    """The address that a proxy gives a studio with a finished run."""
    runs = tmp_path_factory.mktemp("behind")
    shutil.copytree(finished.folder, runs / finished.folder.name)
    with open_studio(runs, project, root_path=PREFIX) as address, proxy(address) as outside:
        yield outside


def test_programs_reach_all_of_it(behind, finished):
    client = Client(f"{behind}/", verbose=False)
    name = finished.folder.name
    assert client.predict(api_name="/runs") == [name]
    (picture,) = client.predict("fox", name, api_name="/draw")
    for path in (picture, f"adapters/{name}.safetensors", "healthz"):
        answer = httpx.get(f"{behind}/{path}")
        assert answer.status_code == 200 and answer.content
    (sent,) = httpx.post(f"{behind}/gradio_api/upload", files={"files": ("a.txt", b"fox")}).json()
    assert httpx.get(f"{behind}/gradio_api/file={sent}").content == b"fox"


@pytest.mark.slow
def test_a_page_has_its_pictures_and_downloads(behind, browser, finished):
    """It asks for nothing above the path, which the browser's watch would note."""
    with watched(browser, behind) as page:
        page.goto(f"{behind}/")
        cards = page.locator("#style-cards .card img")
        expect(cards.first).to_be_visible()
        page.wait_for_function("[...document.querySelectorAll('.card img')].every(one => one.naturalWidth > 0)")
        page.get_by_role("tab", name="3 Play").click()
        with page.expect_download() as download:
            page.locator("#adapter a").click()
        assert download.value.suggested_filename == f"{finished.folder.name}.safetensors"
        page.click("#draw")
        expect(page.locator("#pictures img").first).to_be_visible()
        page.wait_for_function("[...document.querySelectorAll('#pictures img')].every(one => one.naturalWidth > 0)")


def test_the_password_is_asked_under_the_path_too(tmp_path, project):
    settings = {"password": "open sesame", "root_path": PREFIX}
    with (
        open_studio(tmp_path / "runs", project, **settings) as address,
        proxy(address) as behind,
        httpx.Client() as client,
    ):
        assert client.get(f"{behind}/config").status_code == 401
        assert client.post(f"{behind}/login", data={"username": "a", "password": "open sesame"}).is_success
        config = client.get(f"{behind}/config")
        assert config.status_code == 200 and config.json()["root"] == behind
        assert client.get(f"{behind}/adapters/x.safetensors").status_code == 404


@pytest.mark.parametrize("said, path", [("", ""), ("/", ""), ("joinery", "/joinery"), ("/a/b-c/", "/a/b-c")])
def test_the_path_is_read_with_any_slashes(said, path, monkeypatch):
    monkeypatch.setenv("JOINERY_ROOT_PATH", said)
    assert chosen_root_path() == path and chosen_root_path("/x") == "/x"


@pytest.mark.parametrize("said", ["https://example.org/joinery", "/a//b", "/a b", "/a?b"])
def test_what_is_no_path_is_refused(said):
    with pytest.raises(UserError, match="for example /joinery"):
        chosen_root_path(said)
