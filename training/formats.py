"""Which files are pictures, by their names: the one list of formats, and what else a folder holds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pi_heif import register_heif_opener

from pipelines.errors import UserError

register_heif_opener()  # teaches Pillow to read HEIC

FORMATS = {  # by Pillow's names
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .mpo",  # the last with more pictures behind the first
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "AVIF": ".avif .avifs",
    "TIFF": ".tif .tiff",
    "BMP": ".bmp",
    "GIF": ".gif",
    "HEIF": ".heic .heif .hif",
}
SUFFIXES = frozenset(" ".join(FORMATS.values()).split())
READ = "JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF and HEIC"
MASK = ".mask.png"  # ends the name of a picture's mask, after the picture's own without its suffix
NO_JSON = (ValueError, RecursionError)  # what reading JSON raises; the second where lists lie too deep
SAVE_ANEW = "Save it anew as PNG or JPEG, or take it out"

REASONS = {  # what lies among pictures, and what to do with it
    "a drawing of lines, not of pixels; export it as PNG": ".svg .svgz .eps .ps .ai .pdf .cdr .wmf .emf",
    "a camera's raw file; develop it to TIFF or JPEG": ".raw .dng .cr2 .cr3 .nef .nrw .arw .orf .rw2 .raf .pef .srw",
    "a paint program's file; export it as PNG": ".psd .psb .xcf .kra .ora .procreate .clip .afphoto .sketch .fig",
    "a film; export single pictures of it": ".mp4 .mov .webm .avi .mkv .m4v .mpg .mpeg",
    "an archive; unpack it": ".zip .rar .7z .tar .gz .tgz",
    "text; a caption is a .txt file with its picture's name": ".caption .json .jsonl .csv .tsv .md .doc .docx .xml",
}
REASON_OF = {suffix: reason for reason, suffixes in REASONS.items() for suffix in suffixes.split()}

# What systems and programs put beside pictures, of which nobody knows.
COMPANIONS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"})
COMPANION_SUFFIXES = frozenset({".xmp", ".aae", ".thm"})


@dataclass(frozen=True)
class Survey:
    """What folders and files hold: pictures in a fixed order, and what is not used, with the reason."""

    pictures: list[Path]
    left_out: dict[Path, str]


def why_not(path: Path) -> str:
    """Why a file is no picture by its name; empty if it is one."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return ""
    return REASON_OF.get(suffix, "of a kind that is not read here; save it as PNG or JPEG")


def shown(path: Path | str) -> str:
    """A path that every terminal and file can hold: bytes of a name that are no text are written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def survey(paths: list[Path]) -> Survey:
    """Look through folders (not their subfolders) and files.

    Raises:
        UserError: a folder cannot be read, a picture's name is not text, or there is no picture.
    """
    pictures: list[Path] = []
    left_out: dict[Path, str] = {}
    for path in paths:
        try:
            if path.is_dir():
                inside = sorted_out(sorted(path.iterdir()))
                pictures += inside.pictures
                left_out |= inside.left_out
            else:
                pictures.append(path)
        except OSError as error:
            raise UserError(
                f"{shown(path)} cannot be read ({error.strerror})", "Give the right to read it, or name another place"
            ) from None
    for path in pictures:
        if shown(path) != str(path):
            raise UserError(f"The name of the picture {shown(path)} is not readable text", "Rename it")
    if not pictures:
        places = ", ".join(shown(path) for path in paths)
        raise UserError(
            f"No pictures were found in {places}" + "".join(f"; {line}" for line in listed(left_out)),
            "Put PNG or JPEG pictures there, or name another folder",
        )
    return Survey(pictures, left_out)


def find_pictures(paths: list[Path]) -> list[Path]:
    """The pictures of a survey."""
    return survey(paths).pictures


def listed(left_out: dict[Path, str]) -> list[str]:
    """What is not used, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left_out.items():
        by_reason.setdefault(reason, []).append(shown(path.name))
    return [f"{names(found)} left out ({reason})" for reason, found in by_reason.items()]


def names(found: list[str], most: int = 5) -> str:
    """Some names, and how many more."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def sorted_out(items: Iterable[Path]) -> Survey:
    """What lies in one folder: which of it are pictures, and what is not used."""
    left_out, items = {}, [item for item in items if not _is_companion(item)]
    found = [item for item in items if not item.is_dir() and not why_not(item) and not is_mask(item)]
    stems = {item.stem for item in found}
    for item in items:
        if item.is_dir():
            if _holds_pictures(item):
                left_out[item] = "a folder in the folder; name it too if it is meant"
        elif item.suffix.lower() == ".txt":
            if item.stem not in stems:
                left_out[item] = "no picture there has this name"
        elif is_mask(item):
            if masked_stem(item) not in stems:
                left_out[item] = "a mask, and no picture there has this name"
        elif reason := why_not(item):
            left_out[item] = reason
    return Survey(found, left_out)


def is_mask(item: Path) -> bool:
    """Whether a file's name is that of a picture's mask."""
    return item.name.lower().endswith(MASK)


def masked_stem(item: Path) -> str:
    """The stem of the picture that a mask is of."""
    return item.name[: -len(MASK)]


def mask_beside(path: Path) -> Path:
    """Where a picture's mask lies if it has one."""
    return path.with_name(path.stem + MASK)


def _is_companion(item: Path) -> bool:
    hidden = item.name.startswith((".", "~$"))
    return hidden or item.name.lower() in COMPANIONS or item.suffix.lower() in COMPANION_SUFFIXES


def _holds_pictures(folder: Path) -> bool:
    try:
        return any(not why_not(item) and not _is_companion(item) for item in folder.iterdir())
    except OSError:  # what it holds cannot be known, and it is not used
        return False
