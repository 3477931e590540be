"""Word lists and templates of the demo world (data/*.yaml, described in data/world.yaml), and their generator."""

import random
from collections import UserDict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from string import Formatter
from types import SimpleNamespace
from typing import Any, Self

NUMBERS = {"two": 2, "three": 3, "four": 4}
RESERVED = ("draw", "cases", "below", "different")


class Word(str):
    """A word with its forms: {word.a} with an article, {word.cap} and {word.low} with a capital or small first letter,
    {word.be} "is" or "are"; of a numeral its {word.number}, and {word.more}, which is one less."""

    __slots__ = ()
    a = property(lambda self: f"{'an' if self[0] in 'aeiouAEIOU' else 'a'} {self}")
    cap = property(lambda self: self[0].upper() + self[1:])
    low = property(lambda self: self[0].lower() + self[1:])
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
    """Values of slots. lists: what slots without a value are drawn from; draw: the random generator"""

    def __init__(self, draw: random.Random, lists: Mapping[str, Any], **known: Any) -> None:
        super().__init__(known)
        self.draw, self.lists = draw, lists

    def __missing__(self, slot: str) -> Any:
        found = self.lists[slot]
        return found() if callable(found) else found if isinstance(found, str) else self.draw.choice(found)

    def take(self, draws: Iterable[str | Mapping[str, Any]]) -> Self:
        """Draw the values of a `draw` list."""
        for entry in draws:
            ((name, source),) = {entry: entry}.items() if isinstance(entry, str) else entry.items()
            given: Any = self._list(source) if isinstance(source, str) else source
            match given:
                case {"of": some, "chance": chance, "else": constant}:
                    self[name] = self.draw.choice(self._list(some)) if self.draw.random() < chance else constant
                case {"of": some, "without": other}:
                    without = self.fill(other)
                    self[name] = self.draw.choice([option for option in self._list(some) if option != without])
                case {"sample": some, "number": number}:
                    number = self.fill(number)
                    number = self.draw.randint(*number) if isinstance(number, tuple) else number
                    self[name] = " ".join(self.draw.sample(self._list(some), number))
                case dict():
                    (self[name],) = self.draw.choices(list(given), list(given.values()))
                case options if "," in name:
                    self.update(zip(name.split(", "), self.draw.sample(options, 2), strict=True))
                case options:
                    option = self.draw.choice(options)
                    self[name] = self.fill(option) if isinstance(option, str) and _is_slot(option) else option
        return self

    def follow(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the values of a form, and return its templates and those of the chosen case, not yet filled. Those that
        have no value yet become values."""
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
        return Formatter().get_field(path, (), self.data if name in self.data else self.lists)[0]


def _is_slot(template: str) -> bool:
    return template[0] == "{" and template.find("}") == len(template) - 1


def paged(
    items: Sequence[str], size: int, draw: random.Random, heading: str = "", headed: float = 1.0, between: str = "\n\n"
) -> list[str]:
    """Pages of `size` items, a proportion of them below the heading."""
    parts = (items[start : start + size] for start in range(0, len(items), size))
    heads = ([heading] if heading and draw.random() < headed else [] for _ in range(0, len(items), size))
    return [between.join([*head, *part]) + "\n" for head, part in zip(heads, parts, strict=True)]
