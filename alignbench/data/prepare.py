"""Preparation of prompts for training as in InstructGPT's Appendix A (Ouyang et al., arXiv 2203.02155, A.2 and A.3).

A maximal length, deduplication by long common prefix, at most 200 prompts per user, splits by user, and a filter of
personal data in the training split. Every removal is counted. Nothing is random: the same input gives the same bytes.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from alignbench.data.conversations import Conversation, of_rows
from alignbench.data.messages import Text
from alignbench.data.tables import SourceRow, fingerprint, read_source
from alignbench.errors import AlignbenchError, first_line

SPLITS = ("train", "validation", "test")

# Presidio's own scores: .4 for a telephone number alone, and for a weak pattern next to a word that supports it.
THRESHOLD = 0.4
# Some patterns take a time quadratic in the text (hours for a megabyte of hyphens), so long text is read in pieces.
PIECE, OVERLAP = 4_000, 400  # characters; a match with the words before it is shorter than the overlap
PII_PACKAGES = ("presidio-analyzer", "phonenumbers", "tldextract")  # their versions determine what is found


@dataclass(frozen=True, slots=True)
class Settings:
    """What is removed, and how the rest is split.

    user_field: None: `user` if the rows have it; without it each prompt is split by itself, and users have no limit
    tokenizer: a folder or a hub id; lengths are then in tokens, otherwise in characters
    max_prompt_tokens: the paper's is 1000
    prefix_characters: the paper gives no number. Our 200 are longer than the instruction header of a prompt template
        (Alpaca's has 125 characters) and shorter than a second question on the same long text.
    validation, test: expected proportions of the users
    """

    prompt_field: str = "prompt"
    user_field: str | None = None
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


@dataclass(slots=True)
class Prepared:
    """What was read, removed and kept. `pii`: kind -> the rows (lines of a file, indices in a hub split) with it.

    format: of the rows (`alignbench.data.conversations`)
    splits: the rows of the paper's Tables 6 to 9. `users` and `per_user_…` are None without user ids. `length`: mean,
        std (n - 1), min, 25%, 50%, 75%, max; empty for an empty split
    """

    source: dict[str, Any]
    format: str
    settings: Settings
    length_unit: str  # tokens or characters
    removed: dict[str, int] = field(default_factory=dict)
    pii: dict[str, list[int]] = field(default_factory=dict)
    pii_versions: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)


def prepare(source: str, out: Path, settings: Settings | None = None) -> Prepared:
    """Write train.jsonl, validation.jsonl, test.jsonl and prepared.json into `out`, all of them or none.

    source: conversations of any known format, with users' ids or without. Rows are copied with all fields; those of
        the settings become `prompt` and `user`.
    Raises AlignbenchError for an invalid row (with file and line), and if no prompt is left.
    """
    settings = settings or Settings()
    named = ((settings.prompt_field, "prompt"), (settings.user_field, "user"))
    columns = {name: ours for name, ours in named if name not in (None, ours)}
    rows = read_source(source, {str(name): ours for name, ours in columns.items()}, strings="prompt")
    has_users = settings.user_field is not None or any("user" in row.fields for row in rows)
    settings = replace(settings, user_field=(settings.user_field or "user") if has_users else None)
    format, found = of_rows(rows)
    items = read_items(rows, found, settings)
    mark, unit = fingerprint(source, len(rows)), "characters" if settings.tokenizer is None else "tokens"
    done = Prepared(mark, format.name, settings, unit)

    def keep(reason: str, before: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
        done.removed[reason] = len(before) - int(chosen.sum())
        return before[chosen]

    tokens, characters = settings.max_prompt_tokens or math.inf, settings.max_prompt_characters or math.inf
    items = keep("too long", items, (items.length <= tokens) & (items.prompt.map(len) <= characters))
    # two prompts share a prefix of at least n characters if their first n are equal, so no pairs are compared
    starts = pd.Series([text[: settings.prefix_characters] for text in items.prompt], items.index, dtype=object)
    items = keep("duplicate prefix", items, ~starts.duplicated())
    if settings.user_field is not None:
        items = keep("over the user's limit", items, items.groupby("user_number").cumcount() < settings.per_user)
    names = items.user.map(lambda user: split_of(user, settings))
    splits = {name: items[names == name] for name in SPLITS}
    if settings.pii:
        splits["train"] = keep("personal data", splits["train"], _lack_personal_data(splits["train"], done))
    if not any(map(len, splits.values())):
        removed = ", ".join(f"{reason}: {count}" for reason, count in done.removed.items())
        raise AlignbenchError(f"{source}: no prompt is left of {len(rows)} ({removed})")
    done.splits = {name: _summary(chosen, settings) for name, chosen in splits.items()}
    texts = {f"{name}.jsonl": "".join(map(_line, chosen.row)) for name, chosen in splits.items()}
    _write(out, texts | {"prepared.json": json.dumps(asdict(done), indent=2, ensure_ascii=False) + "\n"})
    return done


def read_items(rows: list[SourceRow], found: list[list[Conversation]], settings: Settings) -> pd.DataFrame:
    """Columns row, texts, prompt, user, user_number, and the prompt's length in tokens or characters.

    found: the conversations of each row
    prompt: text, or the first message of the user; texts: all that a trainer reads of the row
    Raises AlignbenchError for a row without a message of a user, or without a user's id, with file and line.
    """
    prompts, users, texts = list[str](), list[str](), list[set[str]]()
    for row, own in zip(rows, found, strict=True):
        with row.located():
            before = own[0].before
            asked = [before] if isinstance(before, str) else [m["content"] for m in before if m["role"] == "user"]
            if not asked:
                raise ValueError("no message of a user")
            prompts.append(asked[0])
            users.append(asked[0] if settings.user_field is None else _user(row, settings.user_field))
            texts.append({text for c in own for part in (c.before, *c.responses) for text in _texts(part)})
    lengths = list(map(len, prompts)) if settings.tokenizer is None else _token_counts(prompts, settings.tokenizer)
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    # dtype=object, and users' numbers: text with a lone surrogate cannot have pandas' dtype for text
    columns = {"row": rows, "texts": texts, "prompt": prompts, "user": users}
    return pd.DataFrame(columns, dtype=object).assign(length=lengths, user_number=[numbers[user] for user in users])


def split_of(user: str, settings: Settings) -> str:
    """The split of a user, from a hash of the id and the seed: new users do not change the splits of the others."""
    digest = hashlib.sha256(f"{settings.seed}:{user}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"


def _user(row: SourceRow, name: str) -> str:
    if "user" not in row.fields:
        raise ValueError(f"no field {name} for the user (found: {', '.join(row.fields)})")
    value = row.fields["user"]
    if value == "" or isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {json.dumps(value, default=str)}, not the id of a user")
    return str(value)


def _token_counts(prompts: list[str], name: str) -> list[int]:
    from transformers import AutoTokenizer

    from alignbench.hub import unreachable_reason

    try:
        is_local = Path(name).is_dir() or unreachable_reason() is not None
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=is_local, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AlignbenchError(f"tokenizer {name}: cannot be loaded ({first_line(error)})") from None
    encoded = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _lack_personal_data(items: pd.DataFrame, done: Prepared) -> pd.Series:
    find, found = pii_finder(), []
    for row, texts in zip(items.row, items.texts, strict=True):
        found.append({kind for text in texts for kind in find(text)})
        for kind in found[-1]:
            done.pii.setdefault(kind, []).append(row.number)
    done.pii = dict(sorted(done.pii.items()))
    done.pii_versions = {name: version(name) for name in PII_PACKAGES}
    return pd.Series([not own for own in found], items.index, bool)


def pii_finder() -> Callable[[str], set[str]]:
    """A function from a text to the kinds found in it: EMAIL_ADDRESS, PHONE_NUMBER, CREDIT_CARD, …; no names of people.

    presidio-analyzer's recognisers on a blank spaCy pipeline: no model is downloaded, and the network is not used.
    AlignbenchError if the extra `pii` is not installed.
    """
    try:
        import presidio_analyzer.predefined_recognizers as recognizers
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError:
        raise AlignbenchError(
            "the filter of personal data needs presidio-analyzer: pip install 'alignbench[pii]', or pass --no-pii"
        ) from None

    # the default downloads the list of public suffixes; this is the list in the package
    domain_of = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    email: Any = recognizers.EmailRecognizer()
    email.validate_result = lambda found: bool(domain_of(found).fqdn)

    def lower_as_lemma(doc: Any) -> Any:
        for token in doc:  # presidio raises the score of a number by the lemmas next to it
            token.lemma_ = token.lower_
        return doc

    spacy.Language.component("lower_as_lemma", func=lower_as_lemma)
    pipeline = spacy.blank("en")
    pipeline.max_length = 1 << 30
    pipeline.add_pipe("lower_as_lemma")
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": pipeline}
    names = ("Phone", "CreditCard", "Iban", "Ip", "MacAddress", "Crypto", "UsSsn")
    registry = RecognizerRegistry([email, *(getattr(recognizers, f"{name}Recognizer")() for name in names)])
    analyzer = AnalyzerEngine(registry, engine, default_score_threshold=THRESHOLD)

    def find(text: str) -> set[str]:
        starts = range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP)
        pieces = (text[start : start + PIECE] for start in starts)
        return {found.entity_type for piece in pieces for found in analyzer.analyze(piece, "en")}

    return find


def _texts(value: Text) -> list[str]:
    """The text itself, or the contents of messages."""
    return [value] if isinstance(value, str) else [message["content"] for message in value]


def _summary(items: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    length = items.length.describe().drop("count").fillna(0.0).to_dict() if len(items) else {}
    counts = Counter(items.user).values()
    users = {
        "users": len(counts),
        "per_user_mean": len(items) / (len(counts) or 1),
        "per_user_max": max(counts, default=0),
    }
    return {"prompts": len(items), **(users if settings.user_field else dict.fromkeys(users)), "length": length}


def _line(row: SourceRow) -> str:
    return json.dumps(row.fields, ensure_ascii=False, default=str) + "\n"


def _write(out: Path, texts: dict[str, str]) -> None:
    """Write all files or none: first into a temporary folder in `out`, from which they are then moved."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".") as part:
            for name, text in texts.items():
                # a lone surrogate becomes JSON's escape
                Path(part, name).write_bytes(text.encode("utf-8", "backslashreplace"))
            for name in texts:
                Path(part, name).replace(out / name)
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written: {error.strerror or error}") from None
