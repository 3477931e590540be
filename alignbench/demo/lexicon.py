"""Word lists and sentence templates of the demo world (lexicon/*.yaml), and the generator that fills them.

A template is a format string. A slot takes its value from `Values`; one that has no value there is drawn from the list
of its name, anew at each place. Values may contain slots themselves. `draw` lists what is drawn before a template is
filled, in this order:

    goods                                  a value for the slot {goods}, from the list of that name
    feel: [glad, happy]                    from these
    place: village, feel: adjective[{mood}]   from the list of another name, or from a part of a value
    opinion: {good: 5, bad: 2}             with these weights
    one, other: person                     two different ones
    rest: {sample: LIST, number: 2}        two different sentences, joined; number: [1, 2] is drawn from 1 to 2
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Self

NUMBERS = {"two": 2, "three": 3, "four": 4}
_get_field = Formatter().get_field


class Word(str):
    """A word with its forms: {word.a} with an article, {word.cap} capitalised, {word.be} "is" or "are"."""

    __slots__ = ()

    @property
    def a(self) -> str:
        return f"{'an' if self[0] in 'aeiouAEIOU' else 'a'} {self}"

    @property
    def cap(self) -> str:
        return self[0].upper() + self[1:]

    @property
    def be(self) -> str:
        return "are" if self.endswith("s") else "is"

    @property
    def number(self) -> int:
        """Of a numeral; `more` is one less: the sentences that follow the first."""
        return NUMBERS[self]

    @property
    def more(self) -> int:
        return NUMBERS[self] - 1


def words(content: Any) -> Any:
    """Content of a YAML or JSON file with lists as tuples and strings as words."""
    if isinstance(content, str):
        return Word(content)
    if isinstance(content, list):
        return tuple(map(words, content))
    return {key: words(value) for key, value in content.items()} if isinstance(content, dict) else content


@lru_cache
def lexicon(topic: str) -> dict[str, Any]:
    """The lists and templates of lexicon/TOPIC.yaml."""
    import yaml

    text = (Path(__file__).parent / "lexicon" / f"{topic}.yaml").read_text(encoding="utf-8")
    return words(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # type: ignore[no-any-return]


class Values(dict[str, Any]):
    """Values of slots. lists: what others are drawn from; draw: the random generator."""

    def __init__(self, lists: Mapping[str, Any], draw: random.Random, **known: Any) -> None:
        super().__init__(known)
        self.lists, self.draw = lists, draw

    def __missing__(self, slot: str) -> Any:
        found = self.lists[slot]
        return found if isinstance(found, str) else self.draw.choice(found)

    def take(self, draws: Iterable[str | Mapping[str, Any]]) -> Self:
        """Draw the values of a `draw` list in its order."""
        for entry in draws:
            ((names, source),) = {entry: entry}.items() if isinstance(entry, str) else entry.items()
            options = source
            if isinstance(source, str):
                options = self.lists[source] if source in self.lists else self._find(self.fill(source))
            if isinstance(options, Mapping) and "sample" in options:
                number = self.fill(options["number"])
                number = self.draw.randint(*number) if isinstance(number, tuple) else number
                self[names] = " ".join(self.draw.sample(self._find(options["sample"]), number))
            elif isinstance(options, Mapping):
                (self[names],) = self.draw.choices(list(options), list(options.values()))
            elif "," in names:
                self.update(zip(names.split(", "), self.draw.sample(options, 2), strict=True))
            else:
                option = self.draw.choice(options)
                self[names] = self.fill(option) if _is_slot(option) else option
        return self

    def write(self, form: Mapping[str, Any]) -> str:
        """The text of a form: its `draw` list is drawn, then one of its texts where there are several."""
        self.take(form.get("draw", ()))
        text = form["text"]
        return str(self.fill(self.draw.choice(text) if isinstance(text, tuple) else text))

    def fill(self, template: Any) -> Any:
        """The template, or all templates of a structure, filled. A template that is one slot becomes its value."""
        if isinstance(template, Mapping):
            return {key: self.fill(value) for key, value in template.items()}
        if isinstance(template, tuple):
            return tuple(map(self.fill, template))
        if not isinstance(template, str) or "{" not in template:
            return template
        return self.fill(self._find(template[1:-1]) if _is_slot(template) else template.format_map(self))

    def _find(self, path: str) -> Any:
        return _get_field(path, (), {**self.lists, **self})[0]


def _is_slot(template: Any) -> bool:
    return isinstance(template, str) and template[:1] == "{" and template.find("}") == len(template) - 1
