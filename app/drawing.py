"""What is to be drawn: from the values of a page's fields to recipes, and from a picture's recipe back to values."""

import math
import random
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

from app.painter import LARGEST_SEED, Model, default_rule, settings_of
from app.parameters import Parameters
from app.recipe import RULES, Recipe
from pipelines import APG, CFG, GuidanceRule, UserError
from training import Customization, Run
from training.config import Content, Style
from training.families.diffusion import SAMPLERS
from training.formats import shown
from training.plan import SCALES, prompt_of

AXES = (
    *("prompt", "content", "style", "guidance", "guidance_scale", "eta", "norm_threshold", "momentum", "steps", "seed"),
    *("size", "sampler", "strength", "run", "checkpoint"),
)
NAMED: dict[str, Collection[str]] = {"guidance": RULES, "sampler": SAMPLERS}  # axes of which the values have names
END = "end"  # of a run, among its checkpoints
MOST_CELLS = 64
CALM, PUNCHY = 4.0, 12.0  # guidance scales
RANGES = {  # of what Play's sliders set and programs may ask for
    "content": (0, 1.5),
    "style": (0, 1.5),
    "count": (1, 8),
    "steps": (1, 50),
    "guidance_scale": (1, 15),
    "strength": (0.05, 1),
    "eta": (0, 1),
    "norm_threshold": (0, 0.5),
    "momentum": (-0.9, 0),
    "start": (0, 0.95),
    "stop": (0.05, 1),
}
RANDOM_SEEDS = 1_000_000  # short enough to be read and typed
AS_THEY_ARE = (
    "prompt",
    "content",
    "style",
    "guidance",
    "guidance_scale",
    "steps",
    "seed",
    "negative_prompt",
    "sampler",
    "checkpoint",
)
SQUARE = "Square"
SHAPES = {  # width / height
    SQUARE: 1,
    "Portrait, 3:4": 3 / 4,
    "Landscape, 4:3": 4 / 3,
    "Tall, 9:16": 9 / 16,
    "Wide, 16:9": 16 / 9,
}
MOST_TIMES = 4  # the pixels that a base was made for, and its side


def recipe_of(values: Mapping[str, Any], model: Model) -> Recipe:
    """The recipe that the fields describe, of the first picture.

    Args:
        values: "image" is the name of a picture to start from, as recipes name it; "strength" and "mask", the name of
            the part of it that changes, count with one alone. "size" is a shape or two numbers of pixels.
    Raises:
        UserError: there is no prompt, or a value is out of range.
    """
    start: dict[str, Any] = {**sized(values["size"], model.resolution)}
    if values.get("image"):
        start |= {"image": values["image"], "strength": strength_of(values), "mask": values.get("mask", "")}
    return Recipe(
        prompt=readable_prompt(values["prompt"]),
        seed=random.randrange(RANDOM_SEEDS) if values["fresh"] else whole_seed(values["seed"]),
        content=values["content"],
        style=values["style"],
        guidance=values["guidance"],
        guidance_settings=settings_of(rules_of(values)[values["guidance"]]),
        guidance_scale=values["guidance_scale"],
        steps=values["steps"],
        resolution=model.resolution,
        base=model.name,
        negative_prompt=readable_prompt(values["negative_prompt"], "negative prompt"),
        sampler=values["sampler"],
        **start,
    )


def usual(config: Customization, model: Model, seed: int = 0) -> Recipe:
    """The recipe by which a project's own samples are drawn, under the base's usual guidance."""
    own = config.samples
    rule = settings_of(default_rule("APG", config.preset))
    return Recipe(
        prompt=config.sample_prompt,
        seed=seed,
        content=1.0,
        style=1.0,
        guidance="APG",
        guidance_settings=rule,
        guidance_scale=own.guidance_scale,
        steps=own.inference_steps,
        resolution=model.resolution,
        base=model.name,
    )


def sized(text: str, resolution: int) -> dict[str, int]:
    """Width and height as a recipe has them, which says nothing of the base's own square.

    Raises:
        UserError: as `size_of`.
    """
    size = size_of(text, resolution)
    return {} if size == (resolution, resolution) else dict(zip(("width", "height"), size, strict=True))


def size_of(text: str, resolution: int) -> tuple[int, int]:
    """Width and height in pixels, of a shape or of two numbers.

    Args:
        text: one of `SHAPES`, which all have about the pixels of the base's square; or "768 x 512".
        resolution: of the base.
    Raises:
        UserError: it is neither, or more than the base can be asked for.
    """
    if ratio := SHAPES.get(text.strip()):
        unit = max(8, resolution // 16)  # as those who train large bases round it
        width, height = (max(1, round(resolution * side / unit)) * unit for side in (ratio**0.5, ratio**-0.5))
        return (resolution, resolution) if ratio == 1 else (width, height)
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×*]\s*(\d{1,5})\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"size is {text!r}", "Choose a shape, or write width x height in pixels, as 768 x 512")
    width, height = map(int, found.groups())
    least, most = resolution // MOST_TIMES, resolution * MOST_TIMES
    if not (least <= min(width, height) and max(width, height) <= most and width * height <= most * resolution):
        limits = f"sides from {least} to {most}, and at most {MOST_TIMES} times the {resolution} x {resolution} pixels"
        raise UserError(f"size is {width} x {height}", f"This base takes {limits} it was made for")
    return width, height


def shape_of(size: tuple[int, int], resolution: int) -> str:
    """What the field for the size says of width and height."""
    same = (name for name in SHAPES if size_of(name, resolution) == size)
    return next(same, "{} x {}".format(*size))


def strength_of(values: Mapping[str, Any]) -> float:
    """The share of the steps that are taken from a picture, of which there must be one at least.

    Raises:
        UserError: it is out of range, or leaves no step.
    """
    strength, steps = values["strength"], values["steps"]
    if not within(strength, RANGES["strength"]):
        raise UserError(f"strength is {strength}", "Set it to a number from {} to {}".format(*RANGES["strength"]))
    if int(steps * strength) < 1:
        few = f"strength is {strength:g}, which leaves none of {steps} steps"
        raise UserError(few, "Set it higher, or take more steps")
    return strength


def readable_prompt(text: str, name: str = "prompt") -> str:
    """A prompt without the spaces around it.

    Raises:
        UserError: it is empty, unless it is the negative one, or has letters that are none.
    """
    if name == "prompt" and not text.strip():
        raise UserError("The prompt is empty", "Say what to draw")
    if shown(text) != text:
        raise UserError(f'The {name} is "{shown(text)}", which is not readable text', "Write it in UTF-8")
    return text.strip()


def looks(preset: str, scale: float) -> dict[str, dict[str, Any]]:
    """Guidance in a designer's words: the values of the fields by the name of a look.

    Args:
        preset: of the base; the rule is the one that suits it, but for the paper's and the plain one.
        scale: the guidance scale of a project on it.
    """
    own, paper = settings(default_rule("APG", preset)), settings(APG())
    found = {
        "Calm": own | {"guidance_scale": CALM},
        "Balanced": own | {"guidance_scale": scale},
        "Punchy": own | {"guidance_scale": PUNCHY},
    }
    if paper != own:
        found["As in the paper"] = paper | {"guidance_scale": scale}
    # More of it breaks the pictures of the embedded base (docs/guidance.md).
    return found | {"Plain CFG": settings(CFG()) | {"guidance_scale": 2.0 if preset == "emoji" else scale}}


def look_of(values: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The look that some values are, if they are one."""
    same = (name for name, look in known.items() if all(values[field] == value for field, value in look.items()))
    return next(same, None)


def settings(rule: GuidanceRule) -> dict[str, Any]:
    """A rule as the fields show it; what it does not have stays away."""
    assert rule.interval is not None  # since it was made
    values = {"guidance": type(rule).__name__, "start": rule.interval[0], "stop": rule.interval[1]}
    if isinstance(rule, APG):
        values |= {"eta": rule.eta, "norm_threshold": rule.norm_threshold or 0, "momentum": rule.momentum}
    return values


def rules_of(values: Mapping[str, Any]) -> dict[str, GuidanceRule]:
    """Each rule as the fields set it."""
    interval = (values["start"], values["stop"])
    apg = APG(values["eta"], values["norm_threshold"] or None, values["momentum"], interval=interval)
    return {"APG": apg, "CFG": CFG(interval=interval)}


def alone(recipe: Recipe) -> dict[str, Recipe]:
    return {"": recipe}


def by_scales(recipe: Recipe, learned: Mapping[str, Content | Style]) -> dict[str, Recipe]:
    """The base, what was learned of it, and both: a column of a concept that was not learned is left out."""
    return {
        label: replace(recipe, content=content, style=style, prompt=prompt_of(label, recipe.prompt, learned))
        for label, (content, style) in SCALES.items()
        if (not content or "content" in learned) and (not style or "style" in learned)
    }


def by_rules(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Recipe]:
    """The same under each rule."""
    rules = rules_of(values)
    return {name: replace(recipe, guidance=name, guidance_settings=settings_of(rule)) for name, rule in rules.items()}


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes along one side of a grid."""

    name: str
    values: list[Any]

    @classmethod
    def read(
        cls,
        name: str,
        text: str,
        ranges: Mapping[str, tuple[float, float]],
        known: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> Self:
        """From what a person has written, values with commas between them; prompts, which have commas, with semicolons.

        Args:
            name: one of `AXES`.
            ranges: of the fields that are numbers.
            known: the runs and the checkpoints that there are, by their names.
        Raises:
            UserError: there is no value, or one is no number of that field's range, or no name of those that there are.
        """
        mark, marks = (";", "semicolons") if name == "prompt" else (",", "commas")
        words = [word.strip() for word in text.split(mark) if word.strip()]
        if not words:
            raise UserError(f"{name} has no values", f"Write some, with {marks} between them")
        found: list[Any]
        if name in ("prompt", "size"):
            found = words
        elif every := NAMED.get(name) or known.get(name):
            named = {one.lower(): one for one in every}
            if odd := [word for word in words if word.lower() not in named]:
                raise UserError(f"{name} is {odd[0]!r}", f"Choose of {', '.join(every)}")
            found = [named[word.lower()] for word in words]
        else:
            found = [_number(name, word, *ranges[name]) for word in words]
        return cls(name, [*dict.fromkeys(found)])


def by_grid(
    values: Mapping[str, Any],
    model: Model,
    across: Axis,
    down: Axis | None,
    model_of: Callable[[str, int], Model] | None = None,
) -> list[list[Recipe]]:
    """A row of recipes for each value down, or one row; all are from the seed of the first.

    Args:
        model_of: what draws with a run, by its name and the step after which it is taken, where one of the sides is of
            runs or of checkpoints; its recipes name both.
    Raises:
        UserError: it has more than `MOST_CELLS` pictures, both sides are one field, or a value is out of range.
    """
    if down and down.name == across.name:
        raise UserError("Both sides of the grid are the same", "Choose two different ones")
    if "strength" in (across.name, down and down.name) and not values.get("image"):
        raise UserError("strength changes nothing without a picture to start from", "Add one, or choose another field")
    rows = [{down.name: value} for value in down.values] if down else [{}]
    count = len(rows) * len(across.values)
    if count > MOST_CELLS:
        raise UserError(f"The grid has {count} pictures", f"Leave out some values: {MOST_CELLS} are the most")
    fixed = dict(values) | {"seed": recipe_of(values, model).seed, "fresh": False}

    def cell(own: dict[str, Any]) -> Recipe:
        if own.keys().isdisjoint({"run", "checkpoint"}):
            return recipe_of(fixed | own, model)
        assert model_of is not None  # where one of the sides is of runs or of checkpoints
        name = own.get("run") or values["run"]
        # Another run has other checkpoints than the field says.
        step = step_of(own["checkpoint"]) if "checkpoint" in own else 0
        return replace(recipe_of(fixed | own, model_of(name, step)), adapter=name, checkpoint=step)

    return [[cell(row | {across.name: value}) for value in across.values] for row in rows]


def checkpoints(run: Run | None) -> list[str]:
    """Those that a run can be drawn with, the end last, as the sides of a grid name them."""
    return [*map(str, run.kept_steps()), END] if run else []


def step_of(name: str) -> int:
    """The step of a checkpoint, as recipes have it."""
    return 0 if name == END else int(name)


def _number(name: str, word: str, low: float, high: float) -> float | int:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise UserError(f"{name} is {word}", f"Write numbers from {low:g} to {high:g}, with commas between them")
    if name not in ("steps", "seed"):
        return number
    if number != int(number):
        raise UserError(f"{name} is {word}", "Write whole numbers")
    return int(number)


def whole_seed(seed: float | None) -> int:
    if seed is None or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"The seed is {seed}", f"Set it to a whole number from 0 to {LARGEST_SEED}")
    return int(seed)


def recall(recipe: Recipe, ranges: Mapping[str, tuple[float, float]]) -> tuple[dict[str, Any], list[str]]:
    """The values of the fields as a picture was drawn, and the names of those that no field can take.

    Args:
        ranges: of the fields that are numbers.
    """
    values = {name: getattr(recipe, name) for name in AS_THEY_ARE} | {"size": shape_of(recipe.size, recipe.resolution)}
    if recipe.image:
        values |= {"image": recipe.image, "strength": recipe.strength, "mask": recipe.mask}
    # The rule's own defaults where the recipe names none; fields that the rule lacks stay.
    return fitting(values | settings(RULES[recipe.guidance](**recipe.guidance_settings)), ranges)


def recall_elsewhere(
    found: Parameters, runs: Collection[str], ranges: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, Any], list[str]]:
    """The same from the text of a web UI; "run" is among the values if it names one of `runs` as its LoRA."""
    values = settings(CFG()) | found.values
    if values["guidance"] not in RULES:
        values["guidance"] = "CFG"
    for name in found.loras.keys() & set(runs):
        values = {"run": name, "content": found.loras[name], "style": found.loras[name]} | values
    return fitting(values, ranges)


def fitting(values: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> tuple[dict[str, Any], list[str]]:
    """The values that the fields can take, and the names of the others."""
    numbers = {name: values[name] for name in ranges if name in values}
    odd = [name for name, value in numbers.items() if not within(value, ranges[name])]
    odd += [name for name in ("prompt", "negative_prompt") if not isinstance(values.get(name, ""), str)]
    return {name: value for name, value in values.items() if name not in odd}, odd


def recalled_elsewhere(found: Parameters, faults: list[str], model: Model, run: str) -> tuple[str, str]:
    """What to say when the fields were set from the text of a web UI, and its kind.

    Args:
        faults: sentences about what could not be set.
        model, run: with which it would be drawn now.
    """
    here = {"Model": model.name}
    others = {name: value for name, value in found.others.items() if here.get(name) != value}
    others |= {"LoRA": ", ".join(name for name in found.loras if name != run)}
    listed = ", ".join(f"{name} ({value})" for name, value in others.items() if value)
    lost = [f"Not restored: {listed}."] if listed else []
    begin = "Set from the text that web UIs write. It does not tell all, so the picture will be another."
    return " ".join([begin, *lost, *faults]), "warning"


def recalled(recipe: Recipe, faults: list[str], base_hash: str, adapter_hash: str) -> tuple[str, str]:
    """What to say when the fields were set from a picture, and whether it is "good" or a "warning".

    Args:
        faults: sentences about what could not be set.
        base_hash, adapter_hash: as `Recipe.differences` takes them.
    """
    others = recipe.differences(base_hash, adapter_hash)
    end = "All else is set." if faults and not others else recipe.said(base_hash, adapter_hash)
    return " ".join([*faults, end]), "warning" if faults or others else "good"


def within(value: Any, limits: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and limits[0] <= value <= limits[1]
