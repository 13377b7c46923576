"""The fields of a page by name: handlers take and give values by name, and errors speak in the labels of the fields."""

import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from gradio.components import Component, Slider

from pipelines.errors import UserError


class Fields:
    """Components by name. A name that is a key of the configuration, such as "steps.break", is spelled as its label.

    Gradio gives a handler a dictionary of components for a set of them, and takes one where some stay as they are.
    """

    def __init__(self) -> None:
        self._components: dict[Hashable, Component] = {}
        self._spelled: dict[str, tuple[str, Component]] = {}

    def add(self, name: Hashable, component: Component, key: str = "", of: str = "") -> Component:
        """Take in a field.

        Args:
            key: of the configuration, if it is not the name.
            of: what tells it from others with the same label, for example "the content".
        """
        self._components[name] = component
        spelled = f'"{component.label}"' + (f" of {of}" if of else "")
        self._spelled[key or str(name)] = spelled, component
        return component

    def __getitem__(self, name: Hashable) -> Any:
        """The component, with the events that Gradio makes for its class."""
        return self._components[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._components)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._components

    def only(self, *names: Hashable) -> set[Any]:
        return {self._components[name] for name in names}

    @property
    def all(self) -> set[Any]:
        return set(self._components.values())

    def read(self, given: Mapping[Component, Any]) -> dict[Any, Any]:
        """The values by name in what Gradio gives for a set of components."""
        return {name: given[component] for name, component in self._components.items() if component in given}

    def write(self, values: Mapping[Any, Any]) -> dict[Component, Any]:
        """What Gradio takes, from values or updates by name; fields that are not named stay."""
        return {self._components[name]: value for name, value in values.items()}

    @property
    def ranges(self) -> dict[Any, tuple[float, float]]:
        """Of the sliders."""
        return {name: (c.minimum, c.maximum) for name, c in self._components.items() if isinstance(c, Slider)}

    def label(self, name: Hashable) -> str:
        return str(self._components[name].label)

    def in_labels(self, error: UserError) -> UserError:
        return UserError(self.spell(error.what), self.spell(error.remedy))

    def spell(self, text: str) -> str:
        """A text with the labels of fields in place of keys, and with the words of choices in place of their values."""
        for key in sorted(self._spelled, key=len, reverse=True):
            label, component = self._spelled[key]
            # A key of one word is a word of the language too.
            bare = re.escape(key) if "." in key else rf"(?:(?<=^)|(?<=[Ss]et )){key}(?= (?:is|to) )"
            for words, value in getattr(component, "choices", None) or ():
                text = re.sub(
                    rf"(?<![\w.]){bare} (is|to) ([\"']){re.escape(str(value))}\2",
                    lambda found, words=words, label=label: f'{label} {found[1]} "{words}"',  # type: ignore[misc]
                    text,
                )
            text = re.sub(rf"(?<![\w.]){bare}(?![\w.]*\w)", lambda _, label=label: label, text)  # type: ignore[misc]
        return text
