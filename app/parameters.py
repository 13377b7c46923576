"""How a picture was drawn as the common web UIs write it: the text in a PNG's chunk `parameters`."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.chunks import chunks_of
from training.families.diffusion import SAMPLERS

if TYPE_CHECKING:
    from app.recipe import Recipe

KEY = "parameters"
NEGATIVE = "Negative prompt: "
FIELDS = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance_scale", float),
    "Seed": ("seed", int),
    "Size": ("size", str),
    "Sampler": ("sampler", str),
    "Guidance": ("guidance", str),
    "Content": ("content", float),
    "Style": ("style", float),
}
# A text may be a million letters of any kind, so that each expression looks at a letter a few times at most.
PAIR = re.compile(r'(\w[\w \-/]{0,60}):\s{0,9}("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
LORA = re.compile(r"\s?<lora:([^<>]+)>")
UNSAID = ("Version", "Lora hashes")  # the first names a program, and the second files that the prompt names too


def text_of(recipe: "Recipe") -> str:
    """A recipe as web UIs read it. They have one scale for an adapter; both of ours stand at the end."""
    prompt = recipe.prompt
    pairs = {
        "Steps": recipe.steps,
        "CFG scale": f"{recipe.guidance_scale:g}",
        "Seed": recipe.seed,
        "Size": "{}x{}".format(*recipe.size),
        "Model": recipe.base,
        "Guidance": recipe.guidance,
    }
    if recipe.sampler:
        pairs["Sampler"] = recipe.sampler
    if recipe.image:
        pairs["Denoising strength"] = f"{recipe.strength:g}"
    if recipe.adapter:
        prompt += f" <lora:{recipe.adapter}:{recipe.content if recipe.content == recipe.style else 1:g}>"
        pairs |= {"Content": f"{recipe.content:g}", "Style": f"{recipe.style:g}"}
    negative = [NEGATIVE + recipe.negative_prompt] if recipe.negative_prompt else []
    return "\n".join([prompt, *negative, ", ".join(f"{key}: {value}" for key, value in pairs.items())])


@dataclass(frozen=True)
class Parameters:
    """What such a text says: values by the names of the Play page's fields, and what they have no field for."""

    values: dict[str, Any]
    loras: dict[str, float] = field(default_factory=dict)  # by name, with their scale
    others: dict[str, str] = field(default_factory=dict)  # as the text names them

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What a picture of another program says; None if it says nothing.

        Raises:
            UserError: it is no picture.
        """
        text = chunks_of(path).get(KEY, "")
        return cls.of(text) if text.strip() else None

    @classmethod
    def of(cls, text: str) -> Self:
        """From the text itself. Whatever it is, its first lines are a prompt."""
        *lines, last = text.strip().split("\n")
        pairs = {key.strip(): value.strip('" ') for key, value in PAIR.findall(last)}
        if len(pairs) < 3:
            lines, pairs = [*lines, last], {}
        prompt, _, negative = "\n".join(lines).partition(NEGATIVE)
        named = [[*said.split(":"), ""] for said in LORA.findall(prompt)]
        loras = {name: _number(weight, float, 1.0) for name, weight, *_ in named}
        values = {"prompt": LORA.sub("", prompt).strip(), "negative_prompt": negative.strip()}
        if (sampler := f"{pairs.get('Sampler')} {pairs.get('Schedule type')}") in SAMPLERS:
            pairs["Sampler"] = sampler
            del pairs["Schedule type"]
        for key in FIELDS.keys() & pairs.keys():
            name, kind = FIELDS[key]
            if (key == "Sampler") and pairs[key] not in SAMPLERS:
                continue
            if (value := _number(pairs[key], kind, None)) is not None:
                values[name] = value
                del pairs[key]
        others = {key: value for key, value in pairs.items() if key not in UNSAID and value}
        return cls(values, loras, others)


def _number(text: str, kind: type, otherwise: Any) -> Any:
    try:
        return kind(text)
    except ValueError:
        return otherwise
