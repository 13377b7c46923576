"""What is kept of a project page."""

import re
import shutil

import pytest
from PIL import Image

from app.drafts import FILE, Drafts
from app.given import Given
from pipelines import UserError
from training import Customization


@pytest.fixture
def drafts(tmp_path) -> Drafts:
    return Drafts(tmp_path / "drafts")


def picture(path, colour="red"):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)
    return path


def test_there_is_always_one_and_the_last_changed_is_first(drafts):
    assert drafts.names() == ["1"] and drafts.read("1") == {}
    second = drafts.make({"name": "b"})
    assert drafts.names() == [second, "1"]
    drafts.write("1", {"seed": 7})
    assert drafts.names() == ["1", second]
    drafts.write("1", {"name": "a"})
    assert drafts.read("1") == {"seed": 7, "name": "a"}


def test_pictures_are_kept_as_they_were_given_and_go_when_nothing_shows_them(drafts, tmp_path):
    given = [Given(picture(tmp_path / "a/x.png"), "a red one", 0.25), Given(picture(tmp_path / "b/x.png", "blue"))]
    name = drafts.make({"content.pictures": given})
    bytes_given = [one.path.read_bytes() for one in given]
    kept = drafts.read(name)["content.pictures"]
    assert [(path.name, path.read_bytes(), caption, crop) for path, caption, crop, _ in kept] == [
        ("x.png", bytes_given[0], "a red one", 0.25),
        ("x.png", bytes_given[1], None, 0.5),
    ]
    copy = drafts.make(drafts.read(name))
    drafts.write(name, {"content.pictures": kept[1:]})
    assert drafts.read(name)["content.pictures"] == kept[1:]
    assert not kept[0].path.exists() and kept[1].path.exists()
    assert [one.path.read_bytes() for one in drafts.read(copy)["content.pictures"]] == bytes_given


def test_a_mask_is_kept_with_its_picture_and_goes_with_it(drafts, tmp_path):
    given = Given(picture(tmp_path / "x.png"), mask=picture(tmp_path / "x.mask.png", "white"))
    name = drafts.make({"content.pictures": [given]})
    [kept] = drafts.read(name)["content.pictures"]
    assert kept.mask.read_bytes() == given.mask.read_bytes() and kept.mask != given.mask
    drafts.change(name, "content.pictures", lambda pictures: [pictures[0]._replace(mask=None)], [])
    assert drafts.read(name)["content.pictures"] == [kept._replace(mask=None)] and not kept.mask.exists()


def test_what_does_not_differ_from_the_usual_is_not_kept(drafts):
    def usual(kept):
        return {"preset": "a", "rank": 8 if kept.get("preset", "a") == "a" else 32, "seed": 0}

    name = drafts.make({"name": "x"})
    assert drafts.write(name, {"rank": 8, "seed": 7}, usual) == drafts.read(name) == {"name": "x", "seed": 7}
    drafts.write(name, {"preset": "b"}, usual)
    drafts.write(name, {"rank": 32, "seed": 0}, usual)
    assert drafts.read(name) == {"name": "x", "preset": "b"}
    drafts.write(name, {"rank": 8}, usual)
    assert drafts.read(name) == {"name": "x", "preset": "b", "rank": 8}


def test_what_is_removed_lies_in_the_trash(drafts, tmp_path):
    name = drafts.make({"style.pictures": [Given(picture(tmp_path / "a.png"))]})
    where = drafts.remove(name)
    assert (where / FILE).exists() and len([*where.glob("pictures/*/a.png")]) == 1
    with pytest.raises(UserError, match="not there any more"):
        drafts.write(name, {"seed": 1})
    assert drafts.make({}) not in (name, *drafts.names()[1:])


STRANGE = ["[" * 10**5, '{"values": {"style.pictures": [3]}}', '{"values": {"style.pictures": [[3, null]]}}']


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"values": 3}', '{"version": 1}', *STRANGE])
def test_a_damaged_one_is_passed_over_and_stays_as_it_is(drafts, damage):
    name = drafts.make({"seed": 1})
    (drafts.folder / name / FILE).write_text(damage)
    other = drafts.names()
    assert name not in other and len(other) == 1
    with pytest.raises(UserError):
        drafts.write(name, {"seed": 2})
    assert (drafts.folder / name / FILE).read_text() == damage


@pytest.mark.parametrize("name", ["..", "trash", "", "1/../../x", "\0", "7", "٣", "9" * 300])
def test_a_name_from_outside_reaches_no_other_folder(drafts, name):
    for reach in (drafts.read, drafts.remove):
        with pytest.raises(UserError, match="project"):
            reach(name)


def test_no_link_leads_out_of_a_draft(drafts, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "a" / "x.png"
    elsewhere.parent.mkdir(parents=True)
    picture(elsewhere)
    name = drafts.make({"style.pictures": [Given(picture(tmp_path / "a.png"))]})
    file = drafts.folder / name / FILE
    file.write_text(re.sub(r'"pictures/[^"]*"', '"../../elsewhere/a/x.png"', file.read_text()))
    assert drafts.read(name) == {"style.pictures": []}
    shutil.rmtree(drafts.folder / name / "pictures")
    (drafts.folder / name / "pictures").symlink_to(tmp_path / "elsewhere")
    drafts.write(name, {"seed": 2})
    assert elsewhere.exists()


def test_another_sample_has_drafts_of_its_own(config, tmp_path):
    one = Drafts.of(config, tmp_path)
    other = Drafts.of(config.model_copy(update={"seed": 5}), tmp_path)
    one.make({"seed": 3})
    assert other.read(other.names()[0]) == {}

    class Later(Customization):
        key: int = 3

    assert Drafts.of(Later(**config.model_dump(by_alias=True)), tmp_path) == one
