"""What a setting allows, in words: for what the configuration refuses, and beside the studio's fields."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a folder"}


def allowed(field: FieldInfo) -> str:
    """For example "a whole number, at least 2, at most 512, a multiple of 2"."""
    return _words(field.annotation, field.metadata)


def choices(field: FieldInfo) -> list:
    """The values that a setting names one by one; of a union, those of all its members."""
    members = get_args(field.annotation) if _is_union(field.annotation) else [field.annotation]
    return [value for member in members if get_origin(member) is Literal for value in get_args(member)]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _words(annotation: Any, marks: list) -> str:
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return ", or ".join(_words(member, marks if len(members) == 1 else []) for member in members)
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        return _words(annotation, [mark for one in metadata for mark in getattr(one, "metadata", [one])])
    if get_origin(annotation) is Literal:
        *first, last = map(repr, get_args(annotation))
        return f"one of {', '.join(first)} or {last}" if first else last
    if get_origin(annotation) is tuple:
        first, *others = get_args(annotation)
        return f"{1 + len(others)} of these: {_words(first, [])}"
    if get_origin(annotation) is list:
        return "a folder, or a list of picture files" if get_args(annotation) == (Path,) else "a list of texts"
    if get_origin(annotation) is dict:
        return f"a table, for each name {_words(get_args(annotation)[1], [])}"
    words = [KINDS[annotation]] if annotation in KINDS else []
    for mark in marks:
        match mark:
            case Ge(ge=low):
                words.append(f"at least {low:g}")
            case Gt(gt=low):
                words.append(f"more than {low:g}")
            case Le(le=high):
                words.append(f"at most {high:g}")
            case Lt(lt=high):
                words.append(f"less than {'2^63' if high == 2**63 else f'{high:g}'}")
            case MultipleOf(multiple_of=step):
                words.append(f"a multiple of {step:g}")
    return ", ".join(words)
