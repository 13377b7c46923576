"""The Library page in a real browser: pictures and runs are found again, used, renamed, exported, thrown away."""

import json
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from safetensors import safe_open

from app.album import Album
from app.exporting import Export
from app.library import Library
from app.recipe import file_hash
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.browser import watched
from tests.app.conftest import pictures_of
from tests.app.test_album import WEB_UI, plain
from tests.app.test_recipe import RECIPE
from training import Run, export


@pytest.mark.slow
def test_pictures_and_runs_are_used_again(tmp_path_factory, project, finished, browser, tmp_path):
    runs = tmp_path_factory.mktemp("shelf")
    name = finished.folder.name
    shutil.copytree(finished.folder, runs / name)
    album, library = Album(runs / ".pictures"), Library(runs)
    for seed in (5, 6):
        recipe = replace(RECIPE, seed=seed, adapter=name, adapter_hash=file_hash(finished.adapter))
        album.add(Image.new("RGB", (32, 32), (40 * seed, 0, 0)), recipe)
    album.add(Image.new("RGB", (32, 32), "blue"), replace(RECIPE, prompt="a harbour"))
    with open_studio(runs, project) as address, watched(browser, address) as page:
        page.goto(address)
        shelf, play = (page.get_by_role("tab", name=words) for words in ("4 Library", "3 Play"))
        pictures, said = page.locator("#album img"), page.locator("#library-said")
        shelf.click()
        expect(pictures).to_have_count(3)
        expect(said).to_contain_text("3 pictures")
        page.locator("#search input, #search textarea").fill("harbour")
        expect(pictures).to_have_count(1)
        page.locator("#search input, #search textarea").fill(name)
        expect(pictures).to_have_count(2)

        # The newest of the run's is the one of seed 6.
        page.locator("#album button").first.click()
        expect(page.locator("#shot-recipe")).to_contain_text(RECIPE.prompt)
        page.click("#mark")
        expect(page.locator("#mark")).to_have_text("★ Favourite")
        page.get_by_label("Favourites only").check()
        expect(pictures).to_have_count(1)
        page.click("#use-seed")
        expect(play).to_have_attribute("aria-selected", "true")
        expect(page.locator("#seed input")).to_have_value("6")
        expect(page.locator("#prompt textarea")).not_to_have_value(RECIPE.prompt)
        shelf.click()
        page.click("#use-settings")
        expect(page.locator("#prompt textarea")).to_have_value(RECIPE.prompt)
        expect(page.locator("#play-note")).to_contain_text("as the picture was drawn")
        expect(page.locator("#play-run input")).to_have_value(name)

        shelf.click()
        page.click("#delete-picture")
        expect(said).to_contain_text("in the trash")
        expect(page.locator("#shot-recipe")).to_be_hidden()
        assert len(album.find()) == 2 and len([*(runs / ".pictures/trash").iterdir()]) == 1

        # It can be put back.
        page.get_by_role("tab", name="1 Project").click()
        shelf.click()
        page.get_by_role("button", name="Trash").click()
        page.locator("#thrown input").click()
        page.get_by_role("option", name="Picture").click()
        left = {shot.name for shot in album.find()}
        page.click("#put-back")
        expect(page.locator("#trash-note")).to_have_text("Put back: 1.")
        [restored] = {shot.name for shot in album.find()} - left
        album.remove(restored)
        page.click("#empty-trash")
        page.click("#empty-really")
        expect(page.locator("#trash-note")).to_contain_text("are free again")
        assert len(album.find()) == 2 and not [*(runs / ".pictures/trash").iterdir()]

        # A renamed run is found by what its pictures say of its adapter.
        page.locator("#run-name input, #run-name textarea").fill("Koala, again")
        page.click("#rename-run")
        expect(page.locator("#shelf-note")).to_contain_text("It is called koala-again now")
        page.get_by_label("Favourites only").uncheck()
        page.locator("#album button").first.click()
        page.click("#use-settings")
        expect(page.locator("#play-run input")).to_have_value("koala-again")
        expect(page.locator("#play-note")).to_contain_text("as the picture was drawn")
        shelf.click()
        page.locator("#dropped input[type=file]").set_input_files(plain(tmp_path, WEB_UI))
        expect(page.locator("#play-note")).to_contain_text("Not restored: Model (dreams)")
        expect(page.locator("#prompt textarea")).to_have_value("a castle, ((dusk)),\nwide")

        shelf.click()
        page.locator("#export-format input").click()
        page.get_by_role("option", name="PEFT").click()
        page.locator("#title input, #title textarea").fill("Koala & ink")
        expect(page.locator("#export a")).to_have_attribute(
            "href", re.compile(r"format=peft.*title=Koala%2B|format=peft.*Koala\+%26\+ink")
        )
        with page.expect_download() as download:
            page.click("#export a")
        download.value.save_as(tmp_path / "adapter.safetensors")
        with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
            assert file.metadata()["modelspec.title"] == "Koala & ink"
            assert all(key.startswith("unet.") for key in file.keys())  # noqa: SIM118 (not a dict)

        # What a run was made from is a project again.
        page.click("#shelf-change")
        expect(page.get_by_role("tab", name="1 Project")).to_have_attribute("aria-selected", "true")
        expect(page.locator("#project-note")).to_contain_text("This is what koala-again was made from.")
        expect(page.locator("#project-name input, #project-name textarea")).to_have_value(finished.customization().name)
        shutil.rmtree(runs / "koala-again/pictures/content")
        shelf.click()
        page.click("#shelf-change")
        expect(page.locator("#project-note")).to_contain_text("Not there any more: content.")
        shutil.rmtree(runs / "koala-again/pictures")
        shelf.click()
        page.click("#shelf-change")
        expect(page.locator("#shelf-note")).to_contain_text("The pictures of koala-again are not there any more")
        page.click("#delete-run")
        expect(page.locator("#shelf-note")).to_contain_text("in the trash")
        assert library.runs() == [] and len([*(runs / ".trash").iterdir()]) == 1


def test_an_adapter_of_a_transformer_is_exported_as_is_usual_for_it(tmp_path):
    run = Run(tmp_path / "run")
    pair = torch.ones(4, 2), torch.ones(2, 4)
    card = export.Card("mine", "0", 2, 0, "zero", {"style": "zwx"}, ("blocks.0.to_q",), component="transformer")
    export.write(run.adapter, {"blocks.0.to_q": pair}, card)
    asked = Export(precision="float16").of(run, tmp_path)
    with safe_open(asked, "pt") as file:
        assert {key.partition(".")[0] for key in file.keys()} == {"transformer"}  # noqa: SIM118
    with pytest.raises(UserError, match="no names in kohya's format"):
        Export(format="kohya").of(run, tmp_path)


def test_an_adapter_s_address_says_how_it_is_wanted(tmp_path_factory, project, finished):
    runs = tmp_path_factory.mktemp("shelf")
    shutil.copytree(finished.folder, runs / "one")
    with open_studio(runs, project) as address:

        def get(query: str):
            return urllib.request.urlopen(f"{address}/adapters/one.safetensors?{query}").read()

        (runs / "got").write_bytes(get("precision=bfloat16&content=0.5&trigger=sks"))
        with safe_open(runs / "got", "pt") as file:
            assert json.loads(file.metadata()["joinery"])["scales"] == {"content": 0.5, "style": 1.0}
        assert get("") == get("format=kohya") == finished.adapter.read_bytes()
        for query, code in (("content=0&style=0", 404), ("format=zip", 422), ("content=9", 422)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(query)
            assert refused.value.code == code, query


def test_only_a_run_at_rest_is_renamed_or_thrown_away(library, config):
    run, other = (library.create(config, pictures_of(config)) for _ in range(2))
    for asked in (lambda: library.rename(run.folder.name, "new"), lambda: library.remove(run.folder.name)):
        with run.writing(), pytest.raises(UserError, match="is being trained or waits"):
            asked()
    config.content.run = run.folder
    config.save(other.config)
    with pytest.raises(UserError, match=f"The run {other.folder.name} learns on from"):
        library.remove(run.folder.name)
    for new, words in ((other.folder.name, "already"), ("!?", "Write one with letters")):
        with pytest.raises(UserError, match=words):
            library.rename(other.folder.name, new)
    where = library.remove(other.folder.name)
    assert where.is_dir() and library.rename(run.folder.name, "../Ä new").folder.name == "ä-new"
    assert [run.folder.name for run in library.runs()] == ["ä-new"]
