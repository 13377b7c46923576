"""Between the project page's fields and a customization."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic.fields import FieldInfo

from app.bases import short
from app.given import Given
from app.pages.expert import FILES, TABLES, UNSHOWN, model_of
from app.pages.optimizer import SHARED, entered
from app.pages.setting import as_text, of_text
from pipelines.errors import UserError
from training import Customization
from training.adapters import METHODS
from training.config import PLACES, Content, Style
from training.optimizers.settings import OPTIMIZERS, Learning
from training.pictures import MIDDLE

CONCEPTS = {"content": Content, "style": Style}
OF_THE_BASE = ("resolution", "prediction", "zero_snr")
SHOWN = ("class_word", "placeholder", "caption")  # of a concept, as text
OUTSIDE = "unmasked_weight"  # beside the masks, whatever the preset
MEMORY = "memory"


@dataclass(frozen=True)
class ProjectForm:
    """Reads the fields, and says what they start with. Their names are the configuration's keys."""

    sample: Customization
    bases: Mapping[str, str] = field(default_factory=dict)  # by the names that the page shows

    def read(self, values: Mapping[Hashable, Any]) -> tuple[Customization, dict[str, list[Given]]]:
        """The customization that the fields describe, and its pictures as they were given.

        Args:
            values: of all fields, of all the optimizers' slots, and the pictures, `Given`, under "content.pictures" and
                "style.pictures".

        Raises:
            UserError: a value is out of range.
        """
        pictures = {concept: values[f"{concept}.pictures"] for concept in CONCEPTS}
        if not any(pictures.values()):
            raise UserError("There are no pictures yet", "Add some of a content, of a style, or of both")
        # What the page does not show comes from the sample project, or from another preset's own defaults.
        preset = values["preset"]
        data: dict[str, Any] = self.sample.model_dump(by_alias=True) if preset == self.sample.preset else {}
        renamed = any(self._is_renamed(concept, values) for concept in CONCEPTS if pictures[concept])
        if renamed:
            data.get("samples", {}).pop("prompt", None)
        for concept in CONCEPTS:
            data[concept] = self._concept(concept, values, pictures[concept]) if pictures[concept] else None
        # Another optimizer's settings are not this one's.
        data["optimizer"] = entered(values["optimizer.name"], values)
        for key, value in values.items():
            table, _, name = key.rpartition(".") if isinstance(key, str) else ("", "", "")
            if name and table not in CONCEPTS and key != MEMORY:
                if key == "samples.prompt" and renamed and value == self.sample.samples.prompt:
                    continue  # the sample project's prompt names its own
                place = data.setdefault(table, {}) if table else data
                place[name] = of_text(value, _key(table, name))
        if not METHODS[data["adapter"]["method"]].splits:  # what a preset says of them is for those that do
            usual = self._start(preset, values.get(MEMORY, "")).adapter
            unsaid = [key for key in PLACES if data["adapter"].get(key) == getattr(usual, key)]
            data["adapter"] = {key: value for key, value in data["adapter"].items() if key not in unsaid}
        data[MEMORY] = values.get(MEMORY) or None
        data["name"] = data["name"] or "my project"
        data["base"] = self.base(data["base"])
        if short(data["base"]) != short(self.sample.base):  # what the sample says of its base is not said of another
            data = {key: value for key, value in data.items() if key not in OF_THE_BASE}
        return Customization(**data), {concept: shown for concept, shown in pictures.items() if shown}

    def _is_renamed(self, concept: str, values: Mapping[Hashable, Any]) -> bool:
        """Whether its words are others than the sample project's."""
        names, sample = ("class_word", "placeholder"), self.concept(concept)
        return any((values[f"{concept}.{name}"] or "").strip() != getattr(sample, name) for name in names)

    def _concept(self, concept: str, values: Mapping[Hashable, Any], pictures: list[Given]) -> dict[str, Any]:
        preset = values["preset"]
        start = self.concept(concept) if preset == self.sample.preset else getattr(self._start(preset), concept)
        shown = {
            name: of_text(values[f"{concept}.{name}"], key)
            for name, key in model_of(concept).model_fields.items()
            if f"{concept}.{name}" in values and name not in UNSHOWN
        }
        crops = {one.path.name: one.crop for one in pictures if one.crop != MIDDLE}
        return start.model_dump() | {"pictures": [one.path for one in pictures], "crops": crops} | shown

    def write(self, config: Customization) -> dict[str, Any]:
        """What the fields show of a customization, by key: the reverse of `read`, but for the pictures."""
        values, base = by_key(config), short(config.base)
        for concept in CONCEPTS.keys() - config.concepts.keys():
            del values[concept]
            own = self.concept(concept).model_dump(mode="json", exclude=FILES)
            values |= {f"{concept}.{name}": value for name, value in own.items()}
            values |= {f"{concept}.{name}": "" for name in SHOWN}
        values = {key: as_text(value) if _table(key) in TABLES else value for key, value in values.items()}
        shown = {"base": next((name for name, one in self.bases.items() if one == base), base)}
        return values | shown | {MEMORY: config.memory or ""}

    def base(self, name: str) -> str:
        """The base that a name from the list stands for; what a person typed is as it is."""
        return self.bases.get(name, name)

    def concept(self, name: str) -> Content | Style:
        """The sample project's content or style; if it has none, one without words."""
        return getattr(self.sample, name) or CONCEPTS[name](pictures=[name])

    def start(self, preset: str, memory: int | str = "", method: str | None = None) -> dict[str, Any]:
        """What the fields below the pictures start with; the optimizer's own settings are `optimizer`'s.

        Args:
            memory: as project files have it, that the preset is to fit; empty: whatever it takes.
            method: of learning, that takes the memory; by default the preset's.
        Raises:
            UserError: as `training.memory`.
        """
        own = {"base", "seed", MEMORY, *(f"optimizer.{name}" for name in SHARED)}
        words = {f"{concept}.{name}" for concept in CONCEPTS for name in (*SHOWN, *UNSHOWN, OUTSIDE)}
        shown = self.write(self._start(preset, memory, method)).items()
        return {key: value for key, value in shown if key in own or (_table(key) in TABLES and key not in words)}

    def resolution(self, preset: str) -> int:
        """At which pictures are learned."""
        return self._start(preset).resolution

    def optimizer(
        self, preset: str, name: str | None = None, memory: int | str = "", method: str | None = None
    ) -> Learning:
        """What an optimizer starts with: the preset's settings if they are its, else its own.

        The rates are the preset's wherever they suit it. Without a name, the preset's optimizer.
        """
        planned = self._start(preset, memory, method).optimizer
        if name in (None, planned.name):
            return planned
        own = OPTIMIZERS[name]()
        suited = own.lr == OPTIMIZERS[planned.name]().lr
        return OPTIMIZERS[name](lr=planned.lr, make_lr=planned.make_lr) if suited else own

    def _start(self, preset: str, memory: int | str = "", method: str | None = None) -> Customization:
        """The sample project, or what another preset brings."""
        if preset == self.sample.preset and not memory:
            return self.sample
        given = {name: {"pictures": [name]} for name in CONCEPTS} | ({"adapter": {"method": method}} if method else {})
        return Customization(preset=preset, memory=memory or None, **given)


def _table(key: str) -> str:
    return key.partition(".")[0]


def _key(table: str, name: str) -> FieldInfo:
    """What the configuration says of a key, whose table is empty if it lies in none."""
    known = (model_of(table) if table else Customization).model_fields
    return known.get(name) or next(key for key in known.values() if key.alias == name)


def by_key(config: Customization) -> dict[str, Any]:
    """The values of a customization by keys such as "steps.break", but for what names files: copies lie elsewhere."""
    found: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json", by_alias=True, exclude=dict.fromkeys(CONCEPTS, FILES)).items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return found
