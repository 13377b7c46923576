"""One strict description of a customization: read from TOML, checked at once, written back beside the run."""

import errno
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipelines.errors import UserError
from training import checkpoint
from training.adapters import DEFAULT_METHOD, METHODS, method_of
from training.bounds import allowed
from training.families import FAMILIES
from training.formats import shown
from training.memory import BUDGETS, card_has_bf16, found_budget, settings_for, without_bf16
from training.optimizers.settings import DEFAULT, OPTIMIZERS, RATES, Optimizer, Strict, shares_rates
from training.recognise import Base, recognise
from training.treatments import TREATMENTS

HOUSE = Path(__file__).resolve().parents[1]  # where a base given as "models/..." is found from any folder
PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""  # of a key, between dots
DEEP = re.compile(rf"(?:{PART}\.[ \t]*+){{32}}")

# What suits the embedded base (64 px pictures, 11 M parameters) beside the defaults below, as cells say (docs/log.md,
# 2026-12-01). The learning rates of the large bases are the paper's 1e-4, divided by what the frozen
# factors are larger here; not tried yet.
EMBEDDED: dict[str, Any] = {
    "content": {
        "prior_weight": 0.1,
        "rate": 0.5,
        "variants": {"blueprint style": "blueprint", "sepia style": "sepia"},
    },
    "style": {"prior_weight": 0.1, "steps": 300, "reach": 0.85},
    "adapter": {"split": "rank", "rank": 64, "content_in": "coarse"},
    "optimizer": {"lr": 2e-3, "rank": 0.5},
    "steps": {"break": 600, "make": 0},
    "samples": {"guidance_scale": 3.0, "every": 100},
}
PRESETS = {"emoji": EMBEDDED} | {family.preset: family.settings for family in FAMILIES.values()}


PLACES = ("content_in", "style_in", "split")
CONCEPTS = ("content", "style")  # tables that a preset adds to and does not bring


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (str, Path)) else value


def _without_nul(value: Any, info: ValidationInfo) -> Any:
    """No system has a file or folder with this character in its name."""
    for one in map(str, _as_list(value) or ()):
        if "\0" in one:
            raise UserError(f"{info.field_name} is {one!r}", "Leave out the character \\u0000")
    return value


Pictures = Annotated[list[Path], BeforeValidator(_as_list), AfterValidator(_without_nul)]
Share = Annotated[float, Field(ge=0, le=1)]
Placeholder = Annotated[str, Field(pattern=r"^[^\s{}]+$", max_length=32)]


class Concept(Strict):
    """What a content and a style have in common."""

    pictures: Pictures = Field(min_length=1, description="what it is learned from")
    crops: dict[str, Share] = Field(
        {},
        description="by file name, where on its longer side a picture's square lies: 0 the left or the top, 1 the "
        "other end; of the others the middle is learned",
    )
    run: Annotated[Path | None, AfterValidator(_without_nul)] = Field(
        None, description="a finished run that has learned it on the same base: it is taken from there, not learned"
    )
    further: bool = Field(False, description="with run: it is learned on from there, for steps.break more")
    noise: tuple[Share, Share] = Field(
        (0.0, 1.0), description="stretch of the noise schedule on which it is learned, 1 the noisiest"
    )
    rate: float = Field(1.0, gt=0, le=100, description="factor of the optimizer's rates for it")
    steps: int = Field(0, ge=0, le=100_000, description="of its break run; 0: steps.break")
    prior_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="weight of the loss by which others teach the concept itself to stay out of what it was not asked "
        "for (prior preservation); 0: they teach a stand-in for the missing concept alone, as the paper has it",
    )
    slack: Share = Field(
        0.0,
        description="share of what was learned of its own pictures that may be given up for less strength, which "
        "leaves more of what it is joined with: the file holds the least that keeps the rest; 0: as it was learned",
    )
    caption_dropout: Share = Field(
        0.0,
        description="how often a picture is learned without its caption, so that it is learned beyond the words too",
    )
    unmasked_weight: Share = Field(
        1.0,
        description="weight of what lies outside a picture's mask, which is NAME.mask.png beside NAME.png, white where "
        "the subject is, or else its own transparency; 1: masks do not count",
    )

    @model_validator(mode="after")
    def _check_further(self) -> Self:
        if self.further and self.run is None:
            raise UserError("further is true, but no run is named to go on from", "Add run, or leave further out")
        return self

    @field_validator("noise")
    @classmethod
    def _check_noise(cls, noise: tuple[float, float]) -> tuple[float, float]:
        if noise[0] >= noise[1]:
            raise UserError(f"noise is {list(noise)}", "Give a lower and a higher share, for example [0.0, 0.8]")
        return noise


class Content(Concept):
    """What is shown: a thing, an animal, a person."""

    placeholder: Placeholder = Field("sks", description="the word that will stand for it in prompts")
    class_word: str = Field("", description="what kind of thing it is, in a word the base knows, for example dog")
    caption: str = Field("{placeholder} {class_word}", description="for pictures without a .txt of the same name")
    short_captions: bool = Field(
        False,
        description="learn each picture also under its caption up to the first comma, so that the rest is not needed",
    )
    mirror: bool = Field(False, description="learn the pictures' mirror images too; not for what has a left and right")
    variants: dict[str, Literal[tuple(TREATMENTS)]] = Field(  # type: ignore[valid-type]
        {},
        description="learn each picture also drawn anew, so that the content holds in more styles: words that the base "
        "knows such pictures by, which follow the caption's first part, and what is done: blueprint (light lines on "
        "blue), sepia, grey, or lines (dark ones on white)",
    )
    others: Pictures = Field(
        [], description="pictures of other contents, for the style run; empty: the base draws some"
    )


class Style(Concept):
    """How it is shown."""

    placeholder: Placeholder = Field("zwx", description="the word that will stand for it in prompts")
    class_word: str = Field("", description="the nearest style that the base knows, for example watercolour")
    caption: str = Field(
        "{placeholder} {class_word} style",
        description="for pictures without a .txt of the same name; {file_name} is the file's own",
    )
    mirror: bool = Field(True, description="learn the pictures' mirror images too")
    reach: Share = Field(
        0.0,
        description="how far it has to show on things that it was not learned on, as a share of the most that it can: "
        "the file holds the least strength that does, more than it was learned with or less; 0: as it was learned",
    )
    others: Pictures = Field(
        [], description="pictures in other styles, for the content run; empty: the base draws some"
    )

    @model_validator(mode="after")
    def _check_reach(self) -> Self:
        if self.reach and self.slack:
            raise UserError(f"style.reach is {self.reach:g} and style.slack {self.slack:g}", "Set one of them to 0")
        return self


class Others(Strict):
    """What the base draws for multi-correspondence where a concept names no `others`: words that it knows."""

    contents: list[str] = Field(
        ["dog face", "fox", "fish", "butterfly", "house", "bus", "star", "red apple", "bell", "robot"],
        description="contents that the base knows",
    )
    styles: list[str] = Field(
        ["noto", "blob", "twemoji", "fluent 3d", "fluent flat", "emojione", "fxemoji", "sepia"],
        description="styles that the base knows",
    )
    caption: str = Field(
        "{content}, {style} style",
        pattern=r"^[^{}]*\{content\}[^{}]*\{style\}[^{}]*$",
        description="the prompt of each, with {content} and {style} in that order",
    )
    count: int = Field(24, ge=0, le=1000, description="pictures drawn; 0: none, each concept is learned alone")


Where = Literal["everywhere", "words", "not words", "fine", "coarse"]


class AdapterSettings(Strict):
    """What learns, and in which layers of the base."""

    method: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        DEFAULT_METHOD, description="; ".join(f"{name}: {kind.title}" for name, kind in METHODS.items())
    )
    rank: int = Field(32, ge=2, le=512, multiple_of=2, description="of the adapter; half of it for each concept")
    layers: Literal["cross-attention", "attention", "attention+feedforward", "all"] = Field(
        "all", description="all: the residual blocks' convolutions too"
    )
    content_in: Where = Field(
        "everywhere",
        description="of these layers, those in which the content learns; words: keys and values that attention makes "
        "of the prompt; fine: convolutions at the two finest resolutions of a UNet; coarse: all but those. Where one "
        "concept alone learns, it learns both factors whole",
    )
    style_in: Where = Field("everywhere", description="likewise for the style")
    split: Literal["factors", "rank"] = Field(
        "factors",
        description="how content and style share a layer in which both learn; factors: each learns its part of one "
        "factor (Break-for-Make); rank: each has half of the rank, and learns both factors there",
    )
    constant_block: Literal["zero", "released"] = Field(
        "zero", description="zero: a fresh adapter changes nothing; released: as the authors' code has it"
    )
    content_half: Literal["down", "up"] = Field(
        "down", description="the factor of which the content learns its part; the style learns the other's"
    )
    split_gates: bool = Field(
        False,
        description="in a UNet's feed-forward (GEGLU) each concept learns half of the values and half of the gates; "
        "false: one of the two learns on the gates alone, as in older runs. Adapters join only if theirs agree",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the frozen factors; adapters join only if theirs agree")
    compander: bool = Field(False, description="a Weight Compander on the learned factors")
    compander_scale: float = Field(
        0.5, gt=0, le=100, description="its a: the learned factors' entries stay within 1.57 a"
    )

    @property
    def apart(self) -> bool:
        """Whether content and style share no factor that learns."""
        return self.split == "rank" or {self.content_in, self.style_in} in (
            {"words", "not words"},
            {"fine", "coarse"},
            {"words", "fine"},
        )


class Steps(Strict):
    """How long it learns, and from how many pictures at a time."""

    break_: int = Field(200, ge=1, le=100_000, alias="break", description="of each break run: content, then style")
    make: int = Field(300, ge=0, le=100_000, description="of fine-tuning what is joined; 0: none")
    batch_size: int = Field(8, ge=1, le=256, description="pictures that are computed at once")
    accumulation: int = Field(1, ge=1, le=256, description="batches whose gradients make one step")
    others_batch_size: int = Field(4, ge=1, le=256, description="pictures of others a step, where there are any")
    gradient_checkpointing: bool = Field(
        False, description="compute the denoiser's insides again where gradients want them: same steps, less memory"
    )
    checkpoint_every: int = Field(50, ge=1, le=100_000, description="steps after which the run is saved")
    keep_every: int = Field(
        0,
        ge=0,
        le=10_000,
        description="how many of these saves there are to one whose adapter is kept as a file, so that it can be drawn "
        "with; 0: only the last step's is",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate falls to zero over each stage, or that it does not"
    )
    warm_up: int = Field(10, ge=0, le=10_000, description="steps in which it rises, at most a quarter of the stage")
    max_grad_norm: float = Field(
        0.0, ge=0, le=1000, description="limit of a step's gradients, by their norm over all that learns; 0: none"
    )


class Loss(Strict):
    """How errors of the base's prediction count."""

    min_snr: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="limit of the signal-to-noise ratio by which errors of the picture count, often 5; not of flows. "
        "Empty: as the base was trained",
    )
    noise_offset: float = Field(
        0.0,
        ge=0,
        le=1,
        description="size of a chance shift of each channel's noise, so that very dark or bright pictures are learned; "
        "not of flows",
    )


class Make(Strict):
    """How the joined factors are fine-tuned, beside `steps.make` and `optimizer.make_lr`."""

    precondition: bool = Field(False, description="Riemannian preconditioning of the gradients")
    damping: float = Field(1e-4, ge=1e-6, le=1e-1, description="of the preconditioner, relative to the mean trace")


class Samples(Strict):
    """What is drawn while it learns, and at the end."""

    prompt: str = Field("", description="shown while training; empty: both placeholders together")
    prompts: list[str] = Field(
        [], max_length=64, description="more of them, drawn at the end: on the sheet, and each picture in full size"
    )
    every: int = Field(50, ge=0, le=100_000, description="steps between strips; 0: only the final sheet")
    guidance_scale: float = Field(7.0, ge=1, le=30, description="of these pictures; 1: no guidance")
    inference_steps: int = Field(15, ge=1, le=1000, description="of the sampler")


class Customization(Strict):
    """Everything that decides a run. `load` reads it from TOML, `save` writes it back."""

    name: Annotated[str, AfterValidator(_without_nul)] = Field("", description="of the run; empty: the folder's name")
    preset: Literal[tuple(PRESETS)] = Field(  # type: ignore[valid-type]
        "emoji",
        description="what suits the base: emoji the embedded one, sd15 SD 1 and 2, others their family; follows from a "
        "base that is known",
    )
    memory: Literal[8, 12, 16, 24, 48, "cpu", "auto"] | None = Field(
        None,
        description="gigabytes of the GPU, cpu, or auto for what is found; fills in what fits. Empty: as the preset",
    )
    base: Annotated[str, AfterValidator(_without_nul)] = Field(
        "models/emoji-composing", min_length=1, description="a diffusers folder, one safetensors file, or a hub id"
    )
    prediction: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="what the base predicts: the noise, the velocity or the picture. Empty: as its files say"
    )
    zero_snr: bool | None = Field(
        None, description="whether the base's noise schedule ends in pure noise. Empty: as its files say"
    )
    content: Content | None = Field(None, description="left out: only the style is learned")
    style: Style | None = Field(None, description="left out: only the content is learned")
    others: Others = Others()
    adapter: AdapterSettings = AdapterSettings()
    optimizer: Optimizer = Field(default_factory=OPTIMIZERS[DEFAULT])  # type: ignore[assignment]
    steps: Steps = Steps()
    loss: Loss = Loss()
    make: Make = Make()
    samples: Samples = Samples()
    seed: int = Field(0, ge=0, lt=2**63, description="of everything that is drawn by chance while learning")
    precision: Literal["auto", "fp32", "bf16", "fp16", "nf4"] = Field(
        "auto",
        description="of the base; adapters stay fp32. auto: bf16 on a GPU that has it, else fp32, as where its own "
        "weights learn. fp16: of SD and SDXL under an adapter, for a GPU without bf16 (T4, V100, RTX 20). nf4: as "
        "auto, and the large linear layers rest in four bits (pip install bitsandbytes)",
    )
    resolution: int = Field(
        64,
        ge=32,
        le=2048,
        multiple_of=8,
        description="side of the pictures in pixels; follows from a base that is known",
    )

    def __init__(self, **data: Any):
        """Raises `UserError` with the key's path, the value seen and the allowed range."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _explain(error, type(self)) from None

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        follows = _follow(data)
        data = {"preset": follows.get("preset", "emoji")} | data
        preset, memory = data["preset"], data.get("memory")
        if not isinstance(preset, str) or preset not in PRESETS:
            return data
        defaults = {k: v for k, v in PRESETS[preset].items() if k not in CONCEPTS or data.get(k)} | follows
        method = method_of(_table_in(_merge(defaults, data), "adapter").get("method"))
        if isinstance(memory, int | str) and memory in (*BUDGETS, "auto") and preset != "emoji":  # which fits anywhere
            data = data | {"memory": found_budget() if memory == "auto" else memory}
            row = settings_for(preset, method.name, data["memory"])
            if memory == "auto" and data["memory"] != "cpu" and not card_has_bf16():
                row = without_bf16(row, method.name)
            defaults = _merge(defaults, row)

        # What is set for one optimizer or one method is not another's.
        own = _table_in(defaults, "optimizer")
        suited = own.get("name", DEFAULT)
        name = _table_in(data, "optimizer").get("name", suited)
        if name != suited:
            own = {key: value for key, value in own.items() if key in RATES}
        if not shares_rates(name):
            own = {key: value for key, value in own.items() if key not in RATES}
        own = method.optimizer_defaults(name) | own
        adapter = _table_in(defaults, "adapter")
        if not method.splits:
            adapter = {key: value for key, value in adapter.items() if key not in PLACES}
        return _merge(defaults | {"optimizer": own, "adapter": adapter}, data)

    @property
    def concepts(self) -> dict[str, Content | Style]:
        """What the adapter will hold, by name: content, style, or both."""
        return {name: one for name, one in (("content", self.content), ("style", self.style)) if one is not None}

    @property
    def to_learn(self) -> dict[str, Content | Style]:
        """Those of them that are not taken from a finished run as they are."""
        return {name: one for name, one in self.concepts.items() if one.run is None or one.further}

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        """It names the run's folder, which is none of those above it."""
        if name in (".", "..") or {"/", "\\"} & {*name}:
            raise UserError(f"name is {name!r}", "Name the run by a word or some, without slashes")
        return name

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        if not self.concepts:
            raise UserError("There is nothing to learn: content and style are both missing", "Add [content] or [style]")
        content, style = self.content, self.style
        if content and style and content.placeholder.lower() == style.placeholder.lower():
            raise UserError(
                f"content.placeholder and style.placeholder are both {content.placeholder!r}",
                "Give them two different words",
            )
        return self

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        METHODS[self.adapter.method].check(self)
        return self

    @property
    def sample_prompt(self) -> str:
        if self.samples.prompt:
            return self.samples.prompt
        words = {n: f"{one.placeholder} {one.class_word}".strip() for n, one in self.concepts.items()}
        thing = words.get("content") or next(iter(self.others.contents), "a picture")
        return f"{thing}, {words['style']} style" if "style" in words else thing

    @classmethod
    def load(cls, path: str | Path, later: Mapping[str, tuple[str, ...]] | None = None) -> Self:
        """Read a TOML file; relative paths in it start at its own folder.

        Args:
            later: keys by table that a file of a run may lack since it is older than they are. They are at their
                defaults then, whatever the preset says by now.
        Raises:
            UserError: no such file, not TOML, an unknown key, a value out of range.
        """
        path = Path(path)
        try:
            if stat.S_ISCHR(mode := os.stat(path).st_mode) or stat.S_ISFIFO(mode):  # which may have no end
                raise OSError(errno.EINVAL, "it is no file")
            text = path.read_text(encoding="utf-8-sig")
            if DEEP.search(text):  # for which the parser takes memory by the square of its depth
                raise ValueError("a key has too many parts")
            data = tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})", "Name an existing project file") from None
        except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of too many digits, a list too deep
            raise UserError(f"{path} is not valid TOML ({error})", "Mend that line") from None
        for table, keys in (later or {}).items():
            if isinstance(data.get(table), dict):
                kind = _table(cls.model_fields[table])
                assert kind is not None
                fields = kind.model_fields
                data[table] = {key: fields[key].default for key in keys} | data[table]
        folder = path.resolve().parent
        if isinstance(data.get("base"), str):
            data["base"] = find_base(data["base"], [folder]) or data["base"]
            if not data.keys() >= FOLLOWING:
                with suppress(UserError):  # said when the work starts
                    recognise(data["base"])  # so that the small files of a hub id are here
        config = cls(**data)
        config.name = config.name or _as_name(folder.name) or "customization"
        for concept in config.concepts.values():
            concept.pictures = [folder / item for item in concept.pictures]
            concept.others = [folder / item for item in concept.others]
            concept.run = folder / concept.run if concept.run else None
        config.base = find_base(config.base, [folder]) or config.base
        return config

    def save(self, path: str | Path) -> None:
        """Write all values to a TOML file that `load` reads to an equal customization."""
        folder = Path(path).resolve().parent
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name in self.concepts:
            for key in ("pictures", "others"):
                data[name][key] = [_relative(item, folder) for item in data[name][key]]
            if not data[name]["crops"]:
                del data[name]["crops"]
            if "run" in data[name]:
                data[name]["run"] = _relative(data[name]["run"], folder)
        # A base beside the command is found from the file too; one of the house has the same name everywhere.
        base = data["base"]
        if not os.path.isabs(base) and not os.path.exists(HOUSE / base) and os.path.exists(base):
            data["base"] = os.path.abspath(base)
        if os.path.isabs(data["base"]):
            data["base"] = _relative(data["base"], folder)
        text = tomli_w.dumps(data)
        if odd := [line for line in text.splitlines() if shown(line) != line]:
            raise UserError(f"A name in {shown(path)} is not readable text ({shown(odd[0].strip())})", "Rename it")
        checkpoint.write_bytes(Path(path), text.encode())

    def resolved_base(self) -> str:
        """The base as a path if it is one on this machine, else as given (a hub id).

        Raises:
            UserError: it is a path, and neither there nor, by its name, where bases lie.
        """
        places = [Path.cwd(), HOUSE]
        found = find_base(self.base, places)
        if found is None and (os.path.isabs(self.base) or self.base.startswith((".", "~"))):
            looked = ", ".join(str(place) for place in places)
            raise UserError(
                f"The base model {self.base} is not there, and {looked} hold no {Path(self.base).name} either",
                "Put it back, or set base in the project file or the run's config.toml to where it is",
            )
        return found or self.base

    def recognised_base(self) -> Base:
        """What the base is, with what is said of it here.

        Raises:
            UserError: there is none, it cannot be trained on, or preset or resolution are not for it.
        """
        found = recognise(self.resolved_base()).told(self.prediction, self.zero_snr)
        found.check_trains(self.preset, self.resolution)
        return found


def find_base(base: str, folders: list[Path]) -> str | None:
    """A base's path, started at one of the folders; of a path that leads nowhere its name, in them or their `models`.

    So a run whose folder was carried elsewhere finds its base again. That it is the same one is told by its numbers.
    """
    path = Path(os.path.expanduser(base))  # unlike Path's own it takes the name of a user that there is not
    moved = [Path(place) / path.name for folder in folders for place in (folder, folder / "models")]
    is_path = os.path.isabs(path) or base.startswith((".", "~"))
    for place in [folder / path for folder in folders] + (moved if is_path and path.name else []):
        if os.path.exists(place):  # unlike Path's own it takes a name that is too long for a file
            return os.path.normpath(place)
    return None


FOLLOWING = {"preset", "resolution"}  # what follows from the base where it is left out


def _follow(data: dict[str, Any]) -> dict[str, Any]:
    """The preset and the resolution that suit the base, where it is named and can be recognised without a network."""
    base = data.get("base")
    if not isinstance(base, str) or not base or data.keys() >= FOLLOWING:
        return {}
    named = next((name for name, preset in PRESETS.items() if preset.get("base") == base), None)
    if named:
        return {"preset": named}
    try:
        found = recognise(find_base(base, [Path.cwd(), HOUSE]) or base, fetch=False)
    except UserError:  # said when the work starts
        return {}
    if found is None or found.family not in FAMILIES:
        return {}
    return {"preset": found.preset} | ({"resolution": found.resolution} if found.resolution else {})


OTHER_SHAPES = {
    "model_type": "a table",
    "union_tag_not_found": "a table",
    "model_attributes_type": "a table",
    "string_pattern_mismatch": "one word, without spaces, slashes or braces",
    "finite_number": "a finite number",
}


def _as_name(folder: str) -> str:
    """A folder's name as a run may be called."""
    return "".join(letter for letter in folder if letter.isprintable() and letter != "\\")


def _relative(item: str, folder: Path) -> str:
    """A project folder can be moved as a whole; across drives there is no relative path."""
    try:
        return Path(os.path.relpath(item, folder)).as_posix()
    except ValueError:
        return str(item)


def _table_in(data: dict, key: str) -> dict:
    """A table of the file; what is none is left for the validation to refuse."""
    return data[key] if isinstance(data.get(key), dict) else {}


def _merge(defaults: dict, values: dict) -> dict:
    """Values over defaults, table by table. Values that are not tables are left for the validation to refuse."""
    merged = {**defaults, **values}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merged[key] = {**value, **values[key]}
    return merged


def _explain(error: ValidationError, model: type[BaseModel]) -> UserError:
    """The first fault of a validation, in the user's words: key path, value seen, what is allowed."""
    fault = error.errors()[0]
    if isinstance(fault.get("ctx", {}).get("error"), UserError):
        return fault["ctx"]["error"]
    table, field, keys = _locate(model, fault["loc"])
    within = field is not None and get_origin(field.annotation) is tuple and isinstance(keys[-1], int)
    path = ".".join(str(key) for key in (keys[:-1] if within else keys))
    if fault["type"] == "union_tag_invalid":
        return UserError(f"{path}.name is {fault['ctx']['tag']!r}", f"Set it to one of {', '.join(OPTIMIZERS)}")
    if field is None:
        known = ", ".join(sorted(field.alias or name for name, field in table.model_fields.items()))
        return UserError(f"{path} is not a key that is known here", f"Remove it or use one of: {known}")
    if fault["type"] == "missing" and not within:
        return UserError(f"{path} is missing", f"Add {path} to the project file")
    if fault["type"] == "string_pattern_mismatch" and keys[-1] == "caption":
        return UserError(f"{path} is {_seen(fault['input'])}", f"Set it to {field.description}, and no other braces")
    holds = "holds" if within and fault["type"] != "missing" else "is"
    return UserError(
        f"{path} {holds} {_seen(fault['input'])}", f"Set it to {OTHER_SHAPES.get(fault['type']) or allowed(field)}"
    )


def _seen(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "a table in a table, without end"


def _locate(model: type[BaseModel], loc: tuple) -> tuple[type[BaseModel], FieldInfo | None, list]:
    """Where a fault is: its table, its key there, and the keys that lead to it as the file has them.

    Pydantic also names which member of a union it tried; the file does not.
    """
    table: type[BaseModel] | None = model
    field: FieldInfo | None = None
    keys: list[Any] = []
    for key in loc:
        if keys == ["optimizer"] and key in OPTIMIZERS:
            table = OPTIMIZERS[key]
        elif isinstance(key, int):  # of a list
            keys.append(key)
        elif table:
            model = table
            field = next((one for name, one in model.model_fields.items() if key in (name, one.alias)), None)
            table = _table(field) if field else None
            keys.append(key)
    return model, field, keys


def _table(field: FieldInfo) -> type[BaseModel] | None:
    """The table that a key holds, if it holds one."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
