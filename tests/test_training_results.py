"""What docs say of a step's time is what was measured."""

import json

from benchmarks.common.document import put
from benchmarks.training.speed import DOCUMENT, RESULT, table


def test_the_table_of_steps_is_that_of_the_result_file():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert put(text, speed=table(json.loads(RESULT.read_text(encoding="utf-8")))) == text
