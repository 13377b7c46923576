"""The studio: one page, served by one small web application."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from gradio.route_utils import FnIndexInferError

from app import bases, figures, jobs, look
from app.album import Album
from app.api import Api
from app.copies import Copies
from app.exporting import Export
from app.form import ProjectForm
from app.guard import Guard, check_password, shut_fetching
from app.health import Health
from app.library import Library
from app.pages import QUICK, about, in_words, play, project, train
from app.pages import library as library_page
from app.painter import Painter
from app.parameters import Parameters
from app.quota import Doorkeeper, Quota, watch
from app.recipe import Recipe
from app.starts import Starts
from app.temporary import TemporaryFolder
from pipelines.errors import UserError
from training import Customization
from training.run import runs_folder

TITLE = "Joinery"
ZONES = (
    "To learn from it, drop it on the content or the style, under Project. To draw from it, drop it on Start from a "
    "picture, under Play."
)
# Open pages, and calls of programs, each of which is one. Gradio keeps half a megabyte of each; the least used go.
SESSIONS = 200
LONGEST_LINE = 128  # calls that wait; more are refused
SECONDS = 1.0  # between two looks at the line of runs

log = logging.getLogger("joinery")


def build(library: Library, sample: Customization, copies: Copies) -> gr.Blocks:
    """The page. `sample` is the project that is filled in when it opens."""
    form, album = ProjectForm(sample, bases.offered(library, sample)), Album.of(library.folder)
    starts = Starts.of(library.folder)
    painter = Painter(starts, library.quota)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(
            f'<div class="masthead"><h1>{TITLE}</h1>'
            "<p>Learn a content and a style apart, join them, and draw the one in the other.</p></div>",
            padding=False,
        )
        # Out here, since a page that was not opened yet has no clock and remembers nothing.
        timer = gr.Timer(train.SECONDS)
        anywhere = gr.UploadButton("anywhere", visible="hidden", elem_id="anywhere")  # what is dropped beside all zones
        useless = gr.HTML(padding=False, elem_classes="said", elem_id="useless")
        play_fields = gr.BrowserState({}, storage_key="joinery-play", secret="none: the browser's own fields")
        with gr.Tabs(selected="project") as tabs:
            with gr.Tab("1  Project", id="project"):
                projects = project.build(library, form, copies)
                Api(library, album, painter, sample, projects).offer()  # before a page takes one of their names
            with gr.Tab("2  Train", id="train"):
                trains = train.build(library, copies, timer, projects.fields.spell, painter)
            with gr.Tab("3  Play", id="play"):
                plays = play.build(library, sample, painter, album, starts, copies, play_fields)
            with gr.Tab("4  Library", id="library") as shelf:
                library_page.build(library, album, copies, projects, plays, tabs, shelf)

        known = gr.State([])  # the finished runs that the page offers

        def start(given: dict) -> dict:
            try:
                run = project.start_run(library, form, projects.entered(given))
            except UserError as error:
                said = str(projects.fields.in_labels(error))
                fields = {field: value for field, value in given.items() if field != projects.draft}
                return {projects.note: figures.note(said, "error", about(fields))}
            chosen = train.choices(library, run.folder.name)
            return {projects.note: "", trains.run: chosen, tabs: gr.Tabs(selected="train")}

        def open_page() -> tuple:
            """A page that is opened, or opened again, shows the run that is being trained."""
            tab = gr.Tabs(selected="train") if library.running() else gr.skip()
            return train.choices(library), tab, *plays.offer()

        def play_with(name: str) -> tuple:
            return gr.Tabs(selected="play"), *plays.offer(name)

        def take_in(path: str, now: str) -> dict:
            """A picture that was dropped anywhere, or pasted, sets Play as it was drawn."""
            picture = Path(path)
            try:
                if Recipe.is_in(picture) or Parameters.read(picture):
                    return plays.set_from(picture, now) | {tabs: gr.Tabs(selected="play"), useless: ""}
                said = f"{picture.name} does not say how it was drawn. {ZONES}"
            except UserError as error:
                said = str(error)
            return {useless: figures.note(said, "warning")}

        def add_new(name: str | None, before: list[str]) -> Any:
            new = plays.add_new(name, before)
            return (*new, *trains.mix.offer()) if isinstance(new, tuple) else new

        inputs = projects.fields.all | {projects.draft}
        projects.start.click(start, inputs, [projects.note, trains.run, tabs], trigger_mode="once", **QUICK)
        page.load(projects.open, None, projects.shown, **QUICK)
        opened = page.load(open_page, None, [trains.run, tabs, *plays.shown], **QUICK)
        opened.then(plays.restore, [play_fields, plays.run], plays.restored, **QUICK)
        filled = [*plays.filled, tabs, useless]
        anywhere.upload(take_in, [anywhere, plays.run], filled, trigger_mode="multiple", **QUICK)
        tabs.select(lambda: "", None, useless, **QUICK)
        trains.play.click(play_with, trains.run, [tabs, *plays.shown], **QUICK)
        timer.tick(add_new, [plays.run, known], [*plays.shown, known, *trains.mix.shown], **QUICK)
        page.unload(plays.leave)
        page.unload(trains.mix.leave)
        page.unload(projects.leave)
    for event in page.fns.values():
        event.fn = event.fn and in_words(event.fn)
    page.queue(max_size=LONGEST_LINE)
    page.state_session_capacity = SESSIONS
    return page


async def _start_in_turn(library: Library, server: FastAPI, health: Health) -> None:
    """As long as the studio is open, the next run in line is started when one has ended."""
    while not server.state.closing:
        health.looked = time.monotonic()
        try:
            await asyncio.to_thread(jobs.start_next, library.folder)
        except (UserError, OSError):  # a full disk, say: the run keeps its place
            log.exception("The next run in line could not be started")
        await asyncio.sleep(SECONDS)


def _nothing_there(request: Request, error: Exception) -> JSONResponse:
    log.info("A client asked for what is not there: %r", error)
    return JSONResponse({"error": "The studio has nothing of that name or number. Read its page anew."}, 404)


def serve(
    runs: Path,
    sample: Path,
    password: str | None = None,
    names: Collection[str] = (),
    limit: int | None = None,
    root_path: str = "",
) -> FastAPI:
    """The web application: the page at /, adapters to download, and a health check.

    Args:
        password: asked of everyone, but not for the health check.
        names: host names under which it answers beside this machine's own.
        limit: bytes that its files may take, those of the data folder if the runs lie there; None for no limit.
        root_path: the path, such as "/joinery", under which a proxy shows the studio, which the proxy strips.
    Raises:
        UserError: the sample project or its pictures cannot be read, or the folder for runs cannot be made.
    """
    folder = runs.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {runs} cannot be made ({error.strerror})", "Name another with --runs") from None
    customization = Customization.load(sample)
    temporary = TemporaryFolder()
    os.environ["GRADIO_TEMP_DIR"] = str(temporary.path)  # Gradio serves files of this folder, and of no other
    shut_fetching()
    data = runs_folder().parent.resolve()
    places = (folder, temporary.path, *([data] if folder.is_relative_to(data) else ()))
    library = Library(folder, Quota(places, limit))
    health = Health(folder, library.quota)

    @asynccontextmanager
    async def lifespan(server: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(task) for task in (_start_in_turn(library, server, health), watch(library.quota))]
        yield
        for task in tasks:
            task.cancel()
        temporary.remove()

    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    server.state.closing = False
    server.add_middleware(Doorkeeper, quota=library.quota)
    server.add_middleware(Guard, names=names)  # the last one is asked first

    def signed_in(request: Request) -> None:
        """Gradio's own check is for its own routes."""
        cookies = (request.cookies.get(f"access-token{kind}-{gradio.cookie_id}") for kind in ("", "-unsecure"))
        if password and not any(cookie in gradio.tokens for cookie in cookies):
            raise HTTPException(401, "Open the studio and sign in first.")

    @server.get("/healthz")
    def healthz() -> JSONResponse:
        said = health.look()
        return JSONResponse(said, 200 if said["status"] == "ok" else 503)

    @server.get("/pictures/{name}.png", dependencies=[Depends(signed_in)])
    def picture(name: str) -> FileResponse:
        """One that was drawn, with its recipe."""
        try:
            return FileResponse(Album.of(library.folder).get(name).path, media_type="image/png")
        except UserError as error:
            raise HTTPException(404, str(error)) from None

    @server.get("/adapters/{name}.safetensors", dependencies=[Depends(signed_in)])
    def adapter(name: str, asked: Annotated[Export, Query()]) -> FileResponse:
        """A finished run's adapter, under a name that tells which."""
        try:
            run = library.find(name)
            path = asked.of(run, temporary.path)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        passing = BackgroundTasks()
        if path != run.adapter:
            passing.add_task(path.unlink)
        kind = "application/octet-stream"
        return FileResponse(path, filename=f"{name}.safetensors", media_type=kind, background=passing)

    gr.mount_gradio_app(
        server,
        build(library, customization, Copies(temporary.path / "copies")),
        path="/",
        auth=check_password(password) if password else None,
        auth_message="Any user name will do; the password is the studio's.",
        root_path=root_path or None,
        theme=look.THEME,
        css=look.CSS,
        head=look.HEAD,
        max_file_size=look.LARGEST_UPLOAD,
        footer_links=["settings"],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        ssr_mode=False,
    )
    gradio = server.routes[-1].app  # type: ignore[attr-defined]
    # What a client asks for that is not there; what our own handlers raise is in words before it comes here.
    for kind in (KeyError, FnIndexInferError):
        gradio.add_exception_handler(kind, _nothing_there)
    return server
