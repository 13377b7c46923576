"""The samples of a run under a slider."""

import json
import re
from html import unescape
from pathlib import Path

from app.strips import strips


def test_all_steps_are_there_and_the_last_is_shown():
    assert strips("a", []) == ""
    shown = [(Path(f"/copies/{name}.png"), title) for name, title in (("step 1", "step 1"), ("sheet", "finished"))]
    view = strips('a "run" <b>', shown)
    assert 'data-run="a &quot;run&quot; &lt;b&gt;"' in view and 'max="1" value="1"' in view
    data = json.loads(unescape(re.search('data-all="([^"]*)"', view)[1]))
    assert data == [
        ["gradio_api/file=/copies/step%201.png", "step 1"],
        ["gradio_api/file=/copies/sheet.png", "finished"],
    ]
    assert '<img src="gradio_api/file=/copies/sheet.png" alt="Samples, finished">' in view
    assert " disabled" not in view and " disabled" in strips("a", shown[:1])
