"""What documents name is there: files, functions and tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
# The log tells what was, files that are gone too.
NAMED = re.compile(r"`((?:app|benchmarks|docs|locks|pipelines|samples|tests|training)/[\w/.-]+\.\w+)(?:::([\w.]+))?`")
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")
SHOWN = re.compile(r'\bsrc(?:set)?="([^"]+)"')  # pictures for light and dark pages


@cache
def defined(file: Path) -> set[str]:
    """The classes and functions of a file, with the methods as Class.method."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found |= {node.name, *(f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef))}
    return found


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.name != "log.md"], ids=lambda one: one.name)
def test_files_and_functions_that_it_names_are_there(document):
    for name, inside in NAMED.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name
        assert not inside or inside in defined(ROOT / name), f"{name}::{inside}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_its_links_lead_somewhere(document):
    for path, heading in LINK.findall(document.read_text(encoding="utf-8")):
        if not path.startswith("http"):
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), path
            assert not heading or target.suffix != ".md" or heading in headings(target), f"{path}#{heading}"
    for path in SHOWN.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / path).exists(), path


def test_every_formula_of_the_methods_has_a_function_and_a_test():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", text, re.M)
    rows = [row for row in rows if row[0] != "what"]
    assert len(rows) > 40
    for what, function, test in rows:
        assert function == "the same" or re.match(r"`(pipelines|training)/", function), what
        assert test.startswith("`tests/"), what
