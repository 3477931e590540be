"""Preparation of prompts for training as in InstructGPT's Appendix A (Ouyang et al., arXiv 2203.02155, A.2 and A.3).

A maximal length, deduplication by long common prefix, at most 200 prompts per user, splits by user, and a filter of
personal data in the training split. Every removal is counted. Nothing is random: the same input gives the same bytes.
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

from alignbench.data.tables import SourceRow, checked_messages, fingerprint, read_source, shared_prompt
from alignbench.errors import AlignbenchError, first_line

SPLITS = ("train", "validation", "test")
READ_FIELDS = ("prompt", "messages", "response", "completion", "responses", "chosen", "rejected")  # by the trainers


@dataclass(frozen=True, slots=True)
class Settings:
    """What is removed, and how the rest is split.

    user_field: None: every prompt counts as one user
    tokenizer: a folder or a hub id; lengths are then in tokens, otherwise in characters
    max_prompt_tokens: the paper's is 1000
    prefix_characters: the paper gives no number. Our 200 are longer than the instruction header of a prompt template
        (Alpaca's has 125 characters) and shorter than a second question on the same long text.
    validation, test: expected proportions of the users
    """

    prompt_field: str = "prompt"
    user_field: str | None = "user"
    tokenizer: str | None = None
    max_prompt_tokens: int | None = None
    max_prompt_characters: int | None = None
    prefix_characters: int = 200
    per_user: int = 200
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    pii: bool = True

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_prompt_characters", "prefix_characters", "per_user"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise AlignbenchError(f"{name.replace('_', '-')} is {value}: it must be at least 1")
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise AlignbenchError("validation and test are proportions: each at least 0, and together under 1")
        if self.max_prompt_tokens is not None and self.tokenizer is None:
            raise AlignbenchError("max-prompt-tokens needs a tokenizer; or use max-prompt-characters")


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, its user, and its length in tokens or characters."""

    row: SourceRow
    prompt: str
    user: str
    length: int


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One row of the paper's Tables 6 to 9. `users` and `per_user_…` are None without user ids.

    length: mean, std (n - 1), min, 25%, 50%, 75%, max; empty for an empty split
    """

    prompts: int
    users: int | None
    per_user_mean: float | None
    per_user_max: int | None
    length: dict[str, float]


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

    source: rows with a prompt and a user's id, as `read_items` accepts them, so also demonstrations and rankings. Other
        fields are copied unchanged.
    Raises AlignbenchError for an invalid row (with file and line), and if no prompt is left.
    """
    settings = settings or Settings()
    rows = read_source(source)
    items = read_items(rows, settings)
    done = Prepared(fingerprint(source, len(rows)), settings, "characters" if settings.tokenizer is None else "tokens")

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
        removed = ", ".join(f"{reason}: {count}" for reason, count in done.removed.items())
        raise AlignbenchError(f"{source}: no prompt is left of {len(rows)} ({removed})")
    done.splits = {name: _summary(chosen, settings) for name, chosen in splits.items()}
    texts = {f"{name}.jsonl": "".join(_line(item, settings) for item in chosen) for name, chosen in splits.items()}
    _write(out, texts | {"prepared.json": json.dumps(asdict(done), indent=2, ensure_ascii=False) + "\n"})
    return done


def read_items(rows: list[SourceRow], settings: Settings) -> list[Item]:
    """Raises AlignbenchError for a row without a prompt or a user's id, with file and line.

    The prompt is text, or the first message of the user in chat messages (in the prompt field, else in `messages`), or
    the common start of `chosen` and `rejected`, which are dialogues in HH's format.
    """
    prompts, users = [], []
    for row in rows:
        try:
            prompts.append(_prompt(row, settings.prompt_field))
            users.append(prompts[-1] if settings.user_field is None else _user(row, settings.user_field))
        except ValueError as error:
            raise AlignbenchError(f"{row.where}: {error}") from None
    lengths = list(map(len, prompts)) if settings.tokenizer is None else _token_counts(prompts, settings.tokenizer)
    return [Item(*values) for values in zip(rows, prompts, users, lengths, strict=True)]


def without_duplicates(items: list[Item], prefix: int) -> list[Item]:
    """The first of all prompts that share their first `prefix` characters; shorter ones are duplicates if equal.

    Sharing a prefix of at least n characters is the same as having equal first n, so no pairs are compared.
    """
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.prompt[:prefix], item)
    return list(first.values())


def split_of(user: str, settings: Settings) -> str:
    """The split of a user, from a hash of the id and the seed: new users do not change the splits of the others."""
    digest = hashlib.sha256(f"{settings.seed}:{user}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"


def _prompt(row: SourceRow, name: str) -> str:
    if name != "prompt" and {name, "prompt"} <= row.fields.keys():
        raise ValueError(f"both {name} and prompt: rename one, for {name} is written as prompt")
    if name in row.fields or "messages" in row.fields or "chosen" not in row.fields:
        value = row.field(name, "messages")
    elif isinstance(value := row.fields["chosen"], str):
        return shared_prompt([value, row.text("rejected")])
    if isinstance(value, str):
        return value
    for message in checked_messages(value, "the prompt", "user"):
        if message["role"] == "user":
            return message["content"]
    raise ValueError("no message of a user")


def _user(row: SourceRow, name: str) -> str:
    if name not in row.fields:
        raise ValueError(f"no field {name} for the user (found: {', '.join(row.fields)}); name it, or pass --no-users")
    if name != "user" and "user" in row.fields:
        raise ValueError(f"both {name} and user: rename one, for {name} is written as user")
    value = row.fields[name]
    if value == "" or isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {json.dumps(value, default=str)}, not the id of a user")
    return str(value)


def _token_counts(prompts: list[str], name: str) -> list[int]:
    from transformers import AutoTokenizer

    from alignbench.hub import unreachable_reason

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, local_files_only=Path(name).is_dir() or unreachable_reason() is not None, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AlignbenchError(f"tokenizer {name}: cannot be loaded ({first_line(error)})") from None
    encoded = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


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
    for item in items:
        texts = {item.prompt, *(text for name in fields for text in _texts(item.row.fields.get(name)))}
        kinds = {kind for text in texts for kind in find(text)}
        for kind in kinds:
            done.pii.setdefault(kind, []).append(item.row.number)
        if not kinds:
            kept.append(item)
    done.pii = dict(sorted(done.pii.items()))
    done.pii_versions = {name: version(name) for name in PACKAGES}
    return kept


def _texts(value: Any) -> Iterable[str]:
    """All text inside a field, nested lists and objects included."""
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


def _line(item: Item, settings: Settings) -> str:
    names = {settings.prompt_field: "prompt"} | ({settings.user_field: "user"} if settings.user_field else {})
    row = {names.get(name, name): value for name, value in item.row.fields.items()}
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _write(out: Path, texts: dict[str, str]) -> None:
    """Write all files or none: each under a temporary name first, then all are renamed."""
    parts = {name: out / f".{name}.{os.getpid()}" for name in texts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            parts[name].write_bytes(text.encode("utf-8", "backslashreplace"))  # a lone surrogate as JSON's escape
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        for part in parts.values():
            with suppress(OSError):  # `out` may not be a folder
                part.unlink(missing_ok=True)
