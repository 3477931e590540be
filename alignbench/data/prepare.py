"""Prompts made ready for training as in InstructGPT's Appendix A (Ouyang et al., arXiv 2203.02155, A.2 and A.3).

Length cap, duplicates by long common prefix, at most 200 prompts of a user, splits by user, personal data out of the
training split. Every removal is counted; nothing is drawn by chance, so the same input gives the same bytes.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignbench.data.prompts import Item, read_items
from alignbench.data.sources import fingerprint, read_source
from alignbench.errors import AlignbenchError

SPLITS = ("train", "validation", "test")
READ_FIELDS = ("prompt", "messages", "response", "completion", "responses", "chosen", "rejected")  # by the trainers


@dataclass(frozen=True, slots=True)
class Settings:
    """What is removed, and how the rest is split."""

    prompt_field: str = "prompt"
    user_field: str | None = "user"  # None: every prompt counts as its own user's
    tokenizer: str | None = None  # a folder or a hub id
    max_prompt_tokens: int | None = None  # the paper's: 1000
    max_prompt_characters: int | None = None
    # The paper gives no number. 200 is ours: longer than the instruction header that templates put before every
    # prompt (Alpaca's is 125 characters), shorter than a second question over the same pasted text.
    prefix_characters: int = 200
    per_user: int = 200
    validation: float = 0.1  # shares of the users, in expectation
    test: float = 0.1
    seed: int = 0
    pii: bool = True

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_prompt_characters", "prefix_characters", "per_user"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise AlignbenchError(f"{name.replace('_', '-')} is {value}: it must be at least 1")
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise AlignbenchError("validation and test are shares, at least 0 and together under 1")
        if self.max_prompt_tokens is not None and self.tokenizer is None:
            raise AlignbenchError("max-prompt-tokens needs a tokenizer to count with; or give max-prompt-characters")


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One line of the paper's Tables 6 to 9. `users` and `per_user_…` are null without user ids."""

    prompts: int
    users: int | None
    per_user_mean: float | None
    per_user_max: int | None
    length: dict[str, float]  # mean, std (n - 1), min, 25%, 50%, 75%, max; empty where there is no prompt


@dataclass(slots=True)
class Prepared:
    """What was read, removed and kept. `pii`: kind -> the rows (lines of a file, indices in a hub split) with it."""

    source: dict[str, Any]
    settings: Settings
    length_unit: str  # tokens or characters
    removed: dict[str, int] = field(default_factory=dict)
    pii: dict[str, list[int]] = field(default_factory=dict)
    pii_versions: dict[str, str] = field(default_factory=dict)
    splits: dict[str, SplitSummary] = field(default_factory=dict)


def prepare(source: str, out: Path, settings: Settings | None = None) -> Prepared:
    """Write train.jsonl, validation.jsonl, test.jsonl and prepared.json into `out`, all of them or none.

    source: rows with a prompt and a user's id, as `sources.read_source` and `prompts.read_items` take them, so also
    demonstrations and rankings. Other fields go through untouched.
    Raises AlignbenchError for what is wrong in a row (by file and line), and where nothing is left.
    """
    settings = settings or Settings()
    rows = read_source(source)
    items = read_items(rows, settings.prompt_field, settings.user_field, settings.tokenizer)
    unit = "characters" if settings.tokenizer is None else "tokens"
    done = Prepared(fingerprint(source, len(rows)), settings, unit)

    def keep(reason: str, kept: list[Item], before: list[Item]) -> list[Item]:
        done.removed[reason] = len(before) - len(kept)
        return kept

    items = keep("too long", [item for item in items if _fits(item, settings)], items)
    items = keep("duplicate prefix", without_duplicates(items, settings.prefix_characters), items)
    if settings.user_field is not None:
        items = keep("over the user's limit", _first_of_each_user(items, settings.per_user), items)
    splits: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for item in items:
        splits[split_of(item.user, settings)].append(item)
    if settings.pii:
        splits["train"] = keep("personal data", _without_personal_data(splits["train"], done), splits["train"])
    if not any(splits.values()):
        raise AlignbenchError(f"{source}: no prompt is left of {len(rows)} ({_counts(done.removed)})")
    done.splits = {name: _summary(chosen, settings) for name, chosen in splits.items()}
    texts = {
        f"{name}.jsonl": "".join(_line(_output(item, settings)) for item in chosen) for name, chosen in splits.items()
    }
    _write(out, texts | {"prepared.json": json.dumps(asdict(done), indent=2, ensure_ascii=False) + "\n"})
    return done


def without_duplicates(items: list[Item], prefix: int) -> list[Item]:
    """The first of all prompts that share their first `prefix` characters; shorter ones are duplicates when equal.

    Sharing a prefix of at least n characters is having equal first n: one pass with a set, no comparison of pairs.
    """
    seen: set[str] = set()
    kept = []
    for item in items:
        if (head := item.prompt[:prefix]) not in seen:
            seen.add(head)
            kept.append(item)
    return kept


def split_of(user: str, settings: Settings) -> str:
    """The split of a user, by a hash of the id and the seed: new users move none of the old."""
    digest = hashlib.sha256(f"{settings.seed}:{user}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"


def _fits(item: Item, settings: Settings) -> bool:
    tokens, characters = settings.max_prompt_tokens, settings.max_prompt_characters
    return (tokens is None or item.length <= tokens) and (characters is None or len(item.prompt) <= characters)


def _first_of_each_user(items: list[Item], limit: int) -> list[Item]:
    seen: Counter[str] = Counter()
    kept = []
    for item in items:
        seen[item.user] += 1
        if seen[item.user] <= limit:
            kept.append(item)
    return kept


def _without_personal_data(items: list[Item], done: Prepared) -> list[Item]:
    from alignbench.data.pii import PACKAGES, finder

    find = finder()
    fields = {done.settings.prompt_field, *READ_FIELDS}
    kept = []
    found: dict[str, list[int]] = {}
    for item in items:
        texts = {item.prompt, *(text for name in fields for text in _texts(item.row.fields.get(name)))}
        kinds = {kind for text in texts for kind in find(text)}
        for kind in kinds:
            found.setdefault(kind, []).append(item.row.number)
        if not kinds:
            kept.append(item)
    done.pii = dict(sorted(found.items()))
    done.pii_versions = {name: version(name) for name in PACKAGES}
    return kept


def _texts(value: Any) -> Iterable[str]:
    """Every text inside a field."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _summary(items: list[Item], settings: Settings) -> SplitSummary:
    import numpy as np

    length: dict[str, float] = {}
    if items:
        values = np.array([item.length for item in items], np.float64)
        std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        low, q1, q2, q3, high = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
        length = {
            "mean": float(values.mean()), "std": std, "min": low, "25%": q1, "50%": q2, "75%": q3, "max": high,
        }  # fmt: skip
    if settings.user_field is None:
        return SplitSummary(len(items), None, None, None, length)
    counts = Counter(item.user for item in items)
    mean = len(items) / len(counts) if counts else 0.0
    return SplitSummary(len(items), len(counts), mean, max(counts.values(), default=0), length)


def _output(item: Item, settings: Settings) -> dict[str, Any]:
    named = {settings.prompt_field: "prompt"} | ({settings.user_field: "user"} if settings.user_field else {})
    return {named.get(name, name): value for name, value in item.row.fields.items()}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _counts(removed: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in removed.items())


def _write(out: Path, texts: dict[str, str]) -> None:
    """All files or none: each beside its place first, then all of them are moved."""
    parts = {name: out / f".{name}.{os.getpid()}" for name in texts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            parts[name].write_bytes(text.encode("utf-8", "backslashreplace"))  # of half a character, JSON's escape
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        for part in parts.values():
            with suppress(OSError):  # the folder may be no folder
                part.unlink(missing_ok=True)
