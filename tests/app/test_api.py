"""What programs may ask of the studio: the guide's own client, and what is refused."""

import io
import re
import time
import urllib.request

import pytest
from gradio_client import Client
from PIL import Image

from app.__main__ import HOUSE
from app.api import Api
from app.health import STALE, Health
from app.parameters import KEY
from app.quota import Quota
from app.recipe import KEY as RECIPE
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError


@pytest.mark.slow
def test_the_guide_s_client_trains_and_draws(project, tmp_path, capsys):
    code = re.search(r"```python\n(import time.*?)```", (HOUSE / "docs/studio.md").read_text(), re.DOTALL)[1]
    with open_studio(tmp_path / "runs", project) as address:
        exec(code.replace("http://127.0.0.1:7860", address).replace("sks bear", "sks koala"), {})
        said = capsys.readouterr().out
        assert said.startswith("done [")
        first, second = re.findall(r"'(http[^']+)'", said)
        with urllib.request.urlopen(first) as answer:
            picture = Image.open(io.BytesIO(answer.read()))
        assert first != second and picture.size == (32, 32) and {KEY, RECIPE} <= picture.text.keys()


def test_what_cannot_be_done_is_a_sentence_and_only_what_is_meant_has_a_name(studio):
    client = Client(studio[0], verbose=False)
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert named.keys() == {f"/{name}" for name in ["projects", "start", "runs", "status", "cancel", "resume", "draw"]}
    assert [one["parameter_name"] for one in named["/draw"]["parameters"]][:2] == ["prompt", "run"]
    for given, name, words in (
        (["nothing"], "/status", "There is no run 'nothing'"),
        (["../x"], "/start", "That project is not there"),
        ([" "], "/draw", "The prompt is empty"),
        (["a dog", "", 9], "/draw", "content is 9. Give a number from 0 to 1.5"),
    ):
        with pytest.raises(Exception, match=re.escape(words)):
            client.predict(*given, api_name=name)


@pytest.mark.parametrize(
    "name, given, words",
    [
        ("status", [None], "run is None. Give a text"),
        ("cancel", [{}], "run is {}. Give a text"),
        ("draw", [3], "prompt is 3. Give a text"),
        ("draw", ["a dog", "", "much"], "content is 'much'. Give a number"),
        ("draw", ["a dog", "", 1, 1, 1.5], "seed is 1.5. Give a whole number"),
        ("draw", ["a \udcff", "", 1, 1, 1], "which is not readable text"),
    ],
)
def test_a_value_of_another_kind_is_a_sentence(library, config, name, given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        getattr(Api(library, None, None, config, None), name)(*given)


def test_a_studio_that_does_not_look_at_its_line_says_so(tmp_path):
    assert Health(tmp_path, Quota()).look()["status"] == "ok"
    late = Health(tmp_path, Quota(), looked=time.monotonic() - STALE - 1).look()
    assert late["status"] == "failing" and late["line"] == "dead"
