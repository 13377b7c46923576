"""Which drawing of which set shows which content: the sets joined by code point, or by name where a set has none."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

from training.base import npm

# Style word -> package. The share-alike sets are styles that nothing here is trained on.
SETS = {
    "noto": "@iconify-json/noto",
    "blob": "@iconify-json/noto-v1",
    "twemoji": "@iconify-json/twemoji",
    "fluent 3d": "@iconify-json/fluent-emoji",
    "fluent flat": "@iconify-json/fluent-emoji-flat",
    "high contrast": "@iconify-json/fluent-emoji-high-contrast",
    "emojione": "@iconify-json/emojione",
    "monotone": "@iconify-json/emojione-monotone",
    "fxemoji": "@iconify-json/fxemoji",
    "streamline": "@iconify-json/streamline-emojis",
}
SHARE_ALIKE = {"openmoji": "@iconify-json/openmoji", "emojione classic": "@iconify-json/emojione-v1"}
SAME_NAMES = {"@iconify-json/fluent-emoji": "@iconify-json/fluent-emoji-flat"}  # whose code points hold there too
SHORT_CODES = ("emojibase-legacy", "cldr", "emojibase", "github", "iamcal", "joypixels")  # the first that knows a word


def contents() -> dict[str, str]:
    """Code -> name of everything that is shown, in Unicode's order; a code is "1f469-200d-1f33e", without selectors."""
    entries = _entries()
    names = {entry["name"] for entry in entries.values()}
    return {code: entry["name"] for code, entry in entries.items() if not _dropped(entry, names)}


def icons(style: str) -> dict[str, str]:
    """Code -> icon of a set, for all contents that it has, in their order."""
    package = (SETS | SHARE_ALIKE)[style]
    found = _by_code(SAME_NAMES.get(package, package)) or _by_name(package)
    return {code: found[code] for code in contents() if code in found}


def _entries() -> dict[str, dict]:
    return {_code(emoji): entry for emoji, entry in npm.read("unicode-emoji-json", "data-by-emoji.json").items()}


def _dropped(entry: dict, names: set[str]) -> bool:
    """Whether it is a flag, a keycap, a family, a couple of given people, or a gendered doublet of another one."""
    name = entry["name"]
    if entry["group"] == "Flags" or name.startswith("keycap "):
        return True
    if re.match(r"family\b|(kiss|couple with heart) .*(man|woman)", name):
        return True
    doublet = re.match(r"(?:wo)?man (.+)", name)
    return doublet is not None and (doublet[1] in names or f"person {doublet[1]}" in names)


def _by_code(package: str) -> dict[str, str]:
    table = npm.read(package, "chars.json")
    return {_plain(code.split("-")): icon for code, icon in table.items()}


def _by_name(package: str) -> dict[str, str]:
    """Code -> icon by what the icons and their aliases are called. The first icon that fits a code has it."""
    codes = _codes()
    file = npm.read(package, "icons.json")
    called = {icon: icon for icon in file["icons"]} | {
        alias: entry["parent"] for alias, entry in file.get("aliases", {}).items()
    }
    found: dict[str, str] = {}
    for name, icon in called.items():
        if package.endswith("streamline-emojis"):
            name = re.sub(r"-[12]$", "", name)  # the set draws some things twice
        if code := codes.get(_loose(name)):
            found.setdefault(code, icon)
    return found


@cache
def _codes() -> dict[str, str]:
    """Loose name -> code."""
    codes: dict[str, str] = {}
    for name, code in _names():
        codes.setdefault(_loose(name), code)
    return codes


def _names() -> Iterator[tuple[str, str]]:
    """Every name of every emoji with its code, the surest names first."""
    entries = _entries()
    yield from ((entry["name"], code) for code, entry in entries.items())
    noto, aliases = _by_code(SETS["noto"]), npm.read(SETS["noto"], "icons.json")["aliases"]
    others: dict[str, list[str]] = {}
    for alias, entry in aliases.items():
        others.setdefault(entry["parent"], []).append(alias)
    for code in entries:
        if icon := noto.get(code):
            yield from ((name, code) for name in (icon, *others.get(icon, [])))
    for code in entries:
        if "-" not in code and (name := unicodedata.name(chr(int(code, 16)), "")):
            yield re.sub(r" (SIGN|SYMBOL)$", "", name), code
            yield name, code
    tables = [npm.read("emojibase-data", f"en/shortcodes/{name}.json") for name in SHORT_CODES]
    tables = [{_plain(code.split("-")): names for code, names in table.items()} for table in tables]
    for some in (tables[:1], tables[1:]):
        for code in entries:
            for table in some:
                names = table.get(code, [])
                yield from ((name, code) for name in ([names] if isinstance(names, str) else names))


def _code(emoji: str) -> str:
    return _plain(f"{ord(letter):x}" for letter in emoji)


def _plain(points: Iterable[str]) -> str:
    """Code points in lower case, without leading zeros and without the selector of a picture's form."""
    return "-".join(point.lower().lstrip("0") for point in points if point.lower() != "fe0f")


def _loose(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
