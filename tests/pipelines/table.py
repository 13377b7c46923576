"""Run the tests of every family, and write what passed into the documentation: `python -m tests.pipelines.table`."""

import sys
from pathlib import Path

import pytest

from pipelines.families import FAMILIES, REFUSED
from tests.families import CASES

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
TESTS = ("test_families_rule.py", "test_families.py", "test_guided_pipeline.py")


def planned() -> set[tuple[str, str]]:
    """(case, scheduler) of all that is on trial."""
    return {(case.name, name) for case in CASES for name in (*case.schedulers, *case.elsewhere)}


def render(passed: set[tuple[str, str]]) -> str:
    """The tables, of what passed."""
    lines = [
        "| family | task | class | schedulers |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        for task, stock in family.classes.items():
            for case in (case for case in CASES if case.stock == stock):
                names = [
                    name for name in dict.fromkeys((*case.schedulers, *case.elsewhere)) if (case.name, name) in passed
                ]
                which = "; ".join(filter(None, (task, case.variant)))
                note = f" (needs {case.needs})" if case.needs else ""
                lines.append(f"| {family.name}{note} | {which} | `{stock}` | {'; '.join(names)} |")
    lines += [
        "",
        "How the branches are found and what is done with the result:",
        "",
        "| family | branches | scale, and what of it is none | sign | after guidance |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        branches = "two calls, conditional first" if family.sequential else "one batch"
        if not family.sequential:
            branches += ", conditional first" if family.conditional_first else ", unconditional first"
        after = {None: "", "always": "renormalised"}.get(family.postprocess, f"`{family.postprocess}`")
        lines.append(
            f"| {family.name} | {branches} | `{family.scale}`, {family.scale_of_none:g} | {family.sign:+d} | {after} |"
        )
    lines += ["", "Refused, with the reason:", "", "| class | reason |", "|---|---|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items())]
    return "\n".join([*lines, "", "Any other class is refused as unknown.", ""])


class _Outcomes:
    """What pytest found, by test."""

    def __init__(self):
        self.passed, self.bad = set(), []

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.partition("[")[2].removesuffix("]")
        if report.when == "call" and report.passed:
            self.passed.add(name)
        elif report.failed:
            self.bad.append(report.nodeid)


def main() -> int:
    outcomes = _Outcomes()
    pytest.main(["-q", *(str(Path(__file__).with_name(name)) for name in TESTS)], plugins=[outcomes])
    here = {pair for pair in planned() if " ".join(pair) in outcomes.passed}
    here |= {(case.name, name) for case in CASES for name in case.elsewhere if name in outcomes.passed}
    missing = sorted(" ".join(pair) for pair in planned() - here)
    if outcomes.bad or missing:
        print("The table stays as it is.", *outcomes.bad, *(f"not tested here: {name}" for name in missing), sep="\n")
        return 1
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}{render(here)}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
