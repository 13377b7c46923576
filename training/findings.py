"""What a person should know before a run starts, a line each: of pictures, of captions, of prompts.

None ends in a full stop: in a run's log only an error does, and the studio looks there for why a run ended.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training import captions
from training.captions import Tokenizer
from training.config import Content, Customization, Style
from training.formats import listed, names, shown, survey
from training.pictures import Picture

Captions = Sequence[tuple[Path, str]]  # pictures, and for each the caption that is its own, or nothing


def of_pictures(config: Customization, pictures: Mapping[str, Sequence[Picture]]) -> list[str]:
    """What is left out of the folders, and what is done to the pictures.

    Args:
        pictures: by what the stages call them.
    """
    found = []
    for name, concept in config.concepts.items():
        for label, places in ((name, concept.pictures), (f"other {name}s", concept.others)):
            if label in pictures:
                said = listed(survey(places).left_out)
                said += _grouped((note, picture.path) for picture in _once(pictures[label]) for note in picture.notes)
                found += _about(label, said)
    return found


def of_words(config: Customization, given: Mapping[str, Captions], tokenizers: Sequence[Tokenizer] = ()) -> list[str]:
    """What does not reach the text encoder as it was meant, in captions and in the prompt of the samples.

    Args:
        given: of "content" and "style" the pictures' own captions; of others those that they are read with.
        tokenizers: of the base; without them nothing is said of lengths.
    """
    found = []
    for label, own in given.items():
        concept = config.concepts.get(label)
        found += _about(label, of_captions(concept, own, tokenizers) if concept else _in_text(own, tokenizers))
    words = [concept.placeholder for concept in config.concepts.values()]
    prompts = {"prompt": config.sample_prompt} | {f"prompt {text!r}": text for text in config.samples.prompts}
    return found + [line for name, text in prompts.items() for line in of_prompt(text, words, tokenizers, name)]


def given_captions(config: Customization, pictures: Mapping[str, Sequence[Picture]]) -> dict[str, Captions]:
    """Captions as `of_words` takes them, from pictures by what the stages call them."""
    labels = [label for name in config.concepts for label in (name, f"other {name}s") if label in pictures]
    return {
        label: [
            (picture.path, captions.beside(picture.path) if label in config.concepts else picture.caption)
            for picture in _once(pictures[label])
        ]
        for label in labels
    }


def of_captions(concept: Content | Style, given: Captions, tokenizers: Sequence[Tokenizer] = ()) -> list[str]:
    """What is amiss in the captions of a content or a style."""
    word = concept.placeholder
    words = {"placeholder": word, "class_word": concept.class_word}
    full = [(path, captions.fill(own or concept.caption, path, words)) for path, own in given]
    found = []

    # The word that is to be learned.
    without = [path for path, text in full if not captions.holds(text, word)]
    remedy = "write {placeholder} where it belongs"
    if full and len(without) == len(full):
        found.append(f"no caption holds the placeholder {word}, so nothing is learned under that word; {remedy}")
    elif without:
        found.append(f"the placeholder {word} is missing in the captions of {_list(without)}; {remedy}")
    if isinstance(concept, Content) and concept.short_captions:
        cut = [
            path for path, text in full if path not in without and not captions.holds(captions.shortened(text), word)
        ]
        if cut:
            found.append(f"short_captions leave the placeholder {word} out of {_list(cut)}; write it before the comma")

    # What a style's pictures show is told apart from the style by captions alone.
    alike = [path for path, own in given if not own]
    if isinstance(concept, Style) and alike and "{file_name}" not in concept.caption:
        found.append(
            f"without a caption of their own, what they show is learned as part of the style: {_list(alike)}; say it "
            "in a .txt beside each, or name the files so and put {file_name} into the caption"
        )
    return found + _in_text(full, tokenizers)


def of_prompt(
    prompt: str, placeholders: Sequence[str], tokenizers: Sequence[Tokenizer] = (), name: str = "prompt"
) -> list[str]:
    """What is amiss in a prompt.

    Args:
        placeholders: words that were learned, of which it should hold one.
        name: what the person calls it.
    """
    found = []
    if braces := captions.unknown(prompt):
        found.append(f"The {name}'s {', '.join(braces)} stays as it is: only captions have words in braces")
    if placeholders and not any(captions.holds(prompt, word) for word in placeholders):
        found.append(f"The {name} holds no placeholder, {' or '.join(placeholders)}, which stands for what is learned")
    if word := captions.cut_from(prompt, tokenizers):
        found.append(f"The base reads {_limit(tokenizers)} tokens, and so not the {name} from {word!r} on")
    return found


def _in_text(full: Captions, tokenizers: Sequence[Tokenizer]) -> list[str]:
    """What any caption may have: unknown words in braces, and more words than the base reads."""
    notes = []
    for path, text in full:
        notes += [(f"{word} is not known in captions and stays as it is", path) for word in captions.unknown(text)]
        if word := captions.cut_from(text, tokenizers):
            notes.append((f"the base reads {_limit(tokenizers)} tokens, and so not the caption from {word!r} on", path))
    return _grouped(notes)


def _about(label: str, said: Iterable[str]) -> list[str]:
    return [f"{label.capitalize()}: {line}" for line in said]


def _once(pictures: Sequence[Picture]) -> list[Picture]:
    """Without mirror images and second captions."""
    return list({picture.path: picture for picture in reversed(pictures)}.values())[::-1]


def _grouped(notes: Iterable[tuple[str, Path]]) -> list[str]:
    """Notes about pictures, each once with the names of those it is about."""
    about: dict[str, list[Path]] = {}
    for note, path in notes:
        about.setdefault(note, []).append(path)
    return [f"{note}: {_list(paths)}" for note, paths in about.items()]


def _list(paths: Sequence[Path]) -> str:
    return names([shown(path.name) for path in paths])


def _limit(tokenizers: Sequence[Tokenizer]) -> int:
    return min(tokenizer.model_max_length for tokenizer in tokenizers)
