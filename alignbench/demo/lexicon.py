"""Word lists and templates of the demo world (data/*.yaml), and the generator that fills them.

A template is a format string. A slot takes its value from `Values`; one that has no value is drawn from the list of its
name, anew at each place. Values may contain slots themselves. A form is a mapping of templates with the reserved keys

    draw    what is drawn first, in this order, each entry one of
              goods                                from the list of that name
              feel: [glad, happy]                  from these
              place: village                       from the list of another name, or a part of a value
              opinion: {good: 5, bad: 2}           with these weights
              one, other: person                   two different ones
              rest: {sample: LIST, number: 2}      two different sentences, joined; number: [1, 2] is drawn from 1 to 2
              often: {of: LIST, chance: 0.2, else: ""}    with this probability, else the constant
              claimed: {of: goods, without: "{goods}"}    from the list without an element
    cases   forms of which one is followed: the first whose `below` is above a number drawn from [0, 1), and whose
            `different` values differ, if it has any
"""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from types import SimpleNamespace
from typing import Any, Self

NUMBERS = {"two": 2, "three": 3, "four": 4}
_get_field = Formatter().get_field
RESERVED = ("draw", "cases", "below", "different")


class Word(str):
    """A word with its forms: {word.a} with an article, {word.cap} capitalised, {word.be} "is" or "are"; of a numeral
    its {word.number}, and {word.more}, which is one less."""

    __slots__ = ()
    a = property(lambda self: f"{'an' if self[0] in 'aeiouAEIOU' else 'a'} {self}")
    cap = property(lambda self: self[0].upper() + self[1:])
    be = property(lambda self: "are" if self.endswith("s") else "is")
    number = property(lambda self: NUMBERS[self])
    more = property(lambda self: NUMBERS[self] - 1)


def words(content: Any) -> Any:
    """Content of a YAML or JSON file with lists as tuples and strings as words."""
    if isinstance(content, str):
        return Word(content)
    if isinstance(content, list):
        return tuple(map(words, content))
    return {key: words(value) for key, value in content.items()} if isinstance(content, dict) else content


@lru_cache
def lexicon(topic: str) -> dict[str, Any]:
    """The lists and forms of data/TOPIC.yaml."""
    import yaml

    text = (Path(__file__).parent / "data" / f"{topic}.yaml").read_text(encoding="utf-8")
    return words(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # type: ignore[no-any-return]


def amounts(part: str) -> SimpleNamespace:
    """The numbers of a part of the world in data/amounts.yaml."""
    return SimpleNamespace(**lexicon("amounts")[part])


class Values(UserDict[str, Any]):
    """Values of slots. lists: what other slots are drawn from; draw: the random generator"""

    def __init__(self, draw: random.Random, lists: Mapping[str, Any], **known: Any) -> None:
        super().__init__(known)
        self.draw, self.lists = draw, lists

    def __missing__(self, slot: str) -> Any:
        found = self.lists[slot]
        return found if isinstance(found, str) else self.draw.choice(found)

    def take(self, draws: Iterable[str | Mapping[str, Any]]) -> Self:
        """Draw the values of a `draw` list."""
        for entry in draws:
            ((names, source),) = {entry: entry}.items() if isinstance(entry, str) else entry.items()
            options: Any = self._list(source) if isinstance(source, str) else source
            if isinstance(options, dict) and "of" in options:
                if "chance" in options and self.draw.random() >= options["chance"]:
                    self[names] = options["else"]
                else:
                    without = self.fill(options.get("without"))
                    self[names] = self.draw.choice([one for one in self._list(options["of"]) if one != without])
            elif isinstance(options, dict) and "sample" in options:
                number = self.fill(options["number"])
                number = self.draw.randint(*number) if isinstance(number, tuple) else number
                self[names] = " ".join(self.draw.sample(self._list(options["sample"]), number))
            elif isinstance(options, dict):
                (self[names],) = self.draw.choices(list(options), list(options.values()))
            elif "," in names:
                self.update(zip(names.split(", "), self.draw.sample(options, 2), strict=True))
            else:
                option = self.draw.choice(options)
                self[names] = self.fill(option) if isinstance(option, str) and _is_slot(option) else option
        return self

    def follow(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """Draw what a form draws, and return its templates and those of the case that is followed, not yet filled.
        They are also values from then on, unless one of the name exists."""
        self.take(form.get("draw", ()))
        fields = {name: value for name, value in form.items() if name not in RESERVED}
        if "cases" in form:
            chance = self.draw.random()
            cases = (case for case in form["cases"] if chance < case["below"])
            fields |= self.follow(next(c for c in cases if len(set(self.fill(c.get("different", ("", "-"))))) > 1))
        for name, value in fields.items():
            self.data.setdefault(name, value)
        return fields

    def write(self, form: Mapping[str, Any]) -> str:
        """The `text` of a form; one of them is drawn last where there are several."""
        text = self.follow(form)["text"]
        return str(self.fill(self.draw.choice(text) if isinstance(text, tuple) else text))

    def fill(self, template: Any) -> Any:
        """The template, or all templates of a structure, filled. A template that is one slot becomes its value."""
        if isinstance(template, str):
            if "{" not in template:
                return template
            return self.fill(self._find(template[1:-1]) if _is_slot(template) else template.format_map(self))
        if isinstance(template, tuple):
            return tuple(map(self.fill, template))
        return {key: self.fill(value) for key, value in template.items()} if isinstance(template, dict) else template

    def _list(self, source: str) -> Any:
        return self.lists[source] if source in self.lists else self._find(self.fill(source))

    def _find(self, path: str) -> Any:
        name = path.partition("[")[0].partition(".")[0]
        return _get_field(path, (), self.data if name in self.data else self.lists)[0]


def _is_slot(template: str) -> bool:
    return template[0] == "{" and template.find("}") == len(template) - 1
