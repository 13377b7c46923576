"""The Python packages of the image, in NOTICE, from the locks and the packages' own metadata: `make notice`.

Versions are those that are locked. A licence is what the package that is installed here says of itself; of one that is
for another system or Python it is what NOTICE said before.
"""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTICE = ROOT / "NOTICE"
LOCK = ROOT / "locks/requirements.txt"
BEGIN, END = "   package, version: licence\n", "\n   With an NVIDIA GPU:"
UNKNOWN = "for another system or Python; not in the image"


def locked() -> dict[str, str]:
    """Package -> version; torch, which no lock holds, as the requirements pin it."""
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8") + LOCK.read_text(encoding="utf-8")
    found = re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", pins, re.M)
    return dict(sorted(found))


def licence(package: str) -> str:
    """What an installed package says of its licence; empty of one that is not installed."""
    try:
        said = metadata(package)
    except PackageNotFoundError:
        return ""
    classes = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or [] if one.startswith("License ::")]
    words = [one for one in classes if one != "OSI Approved"]
    return ", ".join(words) or said["License-Expression"] or (said["License"] or "").partition("\n")[0]


def listed(text: str) -> dict[str, tuple[str, str]]:
    """Package -> version and licence, as NOTICE has them."""
    lines = re.findall(r"^   (\S+) (\S+): (.+)$", text.partition(BEGIN)[2].partition(END)[0], re.M)
    return {package: (version, said) for package, version, said in lines}


def filled(text: str) -> str:
    """NOTICE with the list made anew."""
    before, rest = text.split(BEGIN)
    after, known = rest.partition(END)[2], listed(text)
    lines = (
        f"   {package} {version}: {licence(package) or known.get(package, ('', UNKNOWN))[1]}\n"
        for package, version in locked().items()
    )
    return before + BEGIN + "".join(lines) + END + after


if __name__ == "__main__":
    NOTICE.write_text(filled(NOTICE.read_text(encoding="utf-8")), encoding="utf-8")
