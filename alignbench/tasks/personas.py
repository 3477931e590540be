"""Personas: whom a model thinks of when it may think of anybody.

The experiment is that of "Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, section 3.1): a customer
who reviews a product, asked for many times at temperature 1. The prompt is ours. It ends in the first field's label, so
that a model without a chat template goes on with it; with --template chat and none it is the same text.

`personas`: 100 samples of one prompt, one persona each. `personas_verbalised`: 20 samples of five personas with a
probability each, as many personas in all: verbalised sampling (Zhang et al. 2025, arXiv 2510.01171) asks a model for a
distribution, where it would give the typical answer to a request for one. The two are compared by reading the metrics
of the same name side by side, which are of 100 personas in both; no command puts one task against another.
`…_weighted` counts by stated probability, in the second alone.

A small or a base model seldom keeps to five lines that it has only been told of. `--shots` (up to 3, none by default)
puts made-up customers before the one that is asked for. They pull the answers towards themselves: compare runs with as
many shots.

A field that could not be read is missing and counts in no distribution: `missing_…` is the share of personas without
it, and `parse_failure` that of personas without one or more. Fields of which fewer than 20 values were read have no
distribution, and those with fewer than 50 no entropy at 50 (alignbench/diversity/spread.py). Names, nationalities and
genders are compared in lower case as they stand: "american" and "usa" are two.

Sentiment is of the review alone, in `personas`; `sentiment_top_bin` is the share in the top one of ten bins, and a
histogram is one of the records' column `sentiment`. A scorer gives one number an output, and not one a review, so that
five reviews in one output have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from alignbench.diversity.sets import of_set
from alignbench.diversity.spread import SIZE, spread, weighted_spread
from alignbench.errors import AlignbenchError
from alignbench.tasks.persona_fields import FIELDS, Persona, is_whole, read_personas
from alignbench.types.engine import Sampling
from alignbench.types.scorer import Item
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Generation,
    Metric,
    Options,
    Output,
    Record,
    Task,
    TaskData,
)

PERSONAS = 100
AT_ONCE = 5
HAPPIEST = 0.8  # where the top one of ten bins of sentiment begins, from −1 to 1

_WANTED = (
    "the name, the gender, the age in years, the nationality, and then the review itself in two or three sentences"
)
# as unlike each other as three can be
EXAMPLES = (
    "Name: Teresa Oliveira\nGender: female\nAge: 61\nNationality: Brazilian\n"
    "Review: It is loud, and the lid broke in the second week. I have asked for my money back.",
    "Name: Kwame Mensah\nGender: male\nAge: 24\nNationality: Ghanaian\n"
    "Review: Good coffee in one minute. I would buy it again, though not in white.",
    "Name: Sasha Lindqvist\nGender: non-binary\nAge: 43\nNationality: Swedish\n"
    "Review: It does what it should. The manual is hard to follow, and the cable is too short for my kitchen.",
)
PROMPT = f"""\
A shop asks everyone who bought a coffee machine for a review, and wants to know who wrote it: {_WANTED}. \
Make up one such customer, anyone who might buy a coffee machine. \
Write one line for each: Name, Gender, Age, Nationality, Review.

"""
PROMPT_OF_MANY = f"""\
A shop asks everyone who bought a coffee machine for a review, and wants to know who wrote it: {_WANTED}. \
Draw {AT_ONCE} such customers at random from all there could be, the unlikely ones too, and say how probable each is, \
as a number between 0 and 1. \
Write one line for each: Name, Gender, Age, Nationality, Review, Probability; and a blank line after each customer.

Name:"""


def load_personas(options: Options) -> TaskData:
    shots = options.shots or 0
    if shots > len(EXAMPLES):
        raise AlignbenchError(f"personas: {shots} shots asked for, there are {len(EXAMPLES)}")
    prompt = PROMPT + "".join(f"{example}\n\n" for example in EXAMPLES[:shots]) + "Name:"
    return TaskData([Document(f"persona {n:03}", prompt) for n in range(1, PERSONAS + 1)], (), shots=shots)


def load_verbalised(options: Options) -> TaskData:
    return TaskData([Document(f"list {n:02}", PROMPT_OF_MANY) for n in range(1, PERSONAS // AT_ONCE + 1)], ())


def score_persona(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    found = _failures(outputs, 1)
    sentiment = outputs[0].scores.get("sentiment", {})
    if sentiment and _review(outputs[0]):
        found["sentiment"] = sentiment["sentiment"]
        found["sentiment_top_bin"] = float(sentiment["sentiment"] >= HAPPIEST)
    return found


def score_verbalised(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return _failures(outputs, AT_ONCE)


def _failures(outputs: Sequence[Output], asked: int) -> dict[str, float]:
    """Shares of the personas asked for that are not whole, and that lack each field."""
    personas = _read(outputs, asked)
    missing = {f"missing_{field}": 1 - sum(field in p for p in personas) / asked for field in FIELDS}
    return {"parse_failure": 1 - sum(map(is_whole, personas)) / asked} | missing


def columns(document: Document, outputs: Sequence[Output], asked: int = 1) -> dict[str, list[object]]:
    """The record's columns: a list a field, an entry a persona, null where it could not be read."""
    personas = _read(outputs, asked)
    return {field: [persona.get(field) for persona in personas] for field in (*FIELDS, "probability")}


def columns_of_many(document: Document, outputs: Sequence[Output]) -> dict[str, list[object]]:
    return columns(document, outputs, AT_ONCE)


def reviews(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What a scorer of sentiment is given: the review alone."""
    return [Item(_review(output), group=document.id) for output in outputs]


def corpus_metrics(records: Sequence[Record], intervals: bool) -> Estimates:
    """The distribution of each field over all personas, and the diversity of the reviews."""
    found: Estimates = []
    for name, values, weights in _fields(records):
        estimates = spread(values, intervals=intervals)
        if any(any(own) for own in weights):
            estimates += weighted_spread(values, weights, intervals=intervals)
        found += [(replace(metric, name=f"{name}_{metric.name}"), estimate) for metric, estimate in estimates]
    texts = [review for record in records for review in _column(record, "review") if review is not None]
    of_reviews = of_set(texts, prefix="review_", intervals=intervals)
    return found + [(metric, estimate) for metric, estimate in of_reviews if not metric.name.endswith("_uncut")]


def _fields(records: Sequence[Record]) -> list[tuple[str, list[list[str]], list[list[float]]]]:
    """(name, each document's values, their stated probabilities: 0 where none was stated) of each field."""
    found = []
    for name, field, derive in (
        ("first_name", "name", lambda name: name.split()[0]),
        ("gender", "gender", str),
        ("age_decade", "age", lambda age: f"{int(age) // 10 * 10}s"),
        ("nationality", "nationality", str),
    ):
        values, weights = [], []
        for record in records:
            pairs = [
                (derive(value), float(probability or 0))
                for value, probability in zip(_column(record, field), _column(record, "probability"), strict=True)
                if value is not None
            ]
            values.append([value for value, _ in pairs])
            weights.append([probability for _, probability in pairs])
        found.append((name, values, weights))
    return found


def _column(record: Record, name: str) -> Sequence[str | None]:
    return record.statistics.get(name, ())


def _read(outputs: Sequence[Output], asked: int) -> tuple[Persona, ...]:
    return _personas_in(outputs[0].text)[:asked]


def _review(output: Output) -> str:
    """The review, or nothing where none could be read."""
    return next((persona.get("review", "") for persona in _read([output], 1)), "")


@lru_cache(1024)
def _personas_in(text: str) -> tuple[Persona, ...]:
    """Kept, since an output is looked at for its items, its metrics and its columns."""
    return tuple(read_personas(text))


_FAILURES = tuple(
    Metric(name, "share", "lower", bounds=(0, 1)) for name in ("parse_failure", *(f"missing_{f}" for f in FIELDS))
)
_SAMPLED = Sampling(max_tokens=160, temperature=1.0)

_TOLD = (
    "parse_failure",
    "sentiment",
    "sentiment_top_bin",
    *(
        f"{field}_{name}"
        for field in ("first_name", "gender", "age_decade", "nationality")
        for name in (f"entropy_at_{SIZE}", "top_share")
    ),
    "review_distinct_2",
    "review_self_bleu",
    "review_words",
)

TASKS = (
    Task(
        name="personas",
        version=1,
        title="Personas, one a sample (reviews: first 50 words; --scorer sentiment=textblob adds sentiment)",
        card="",
        metrics=(
            *(replace(metric, binary=True) for metric in _FAILURES),
            Metric("sentiment", "share", "–", bounds=(-1, 1), scorer="sentiment"),
            Metric("sentiment_top_bin", "share", "–", binary=True, scorer="sentiment"),
        ),
        group="creativity",
        headline=f"nationality_entropy_at_{SIZE}",
        load=load_personas,
        generation=Generation(
            _SAMPLED, score_persona, optional_scorers=("sentiment",), items=reviews, statistics=columns
        ),
        corpus=CorpusMetrics(corpus_metrics, resampling="jackknife"),
        display_metrics=_TOLD,
        takes_shots=True,
    ),
    Task(
        name="personas_verbalised",
        version=1,
        title="Personas, five a sample with their probabilities (reviews: first 50 words)",
        card="",
        metrics=_FAILURES,
        group="creativity",
        headline=f"nationality_entropy_at_{SIZE}",
        load=load_verbalised,
        generation=Generation(
            replace(_SAMPLED, max_tokens=160 * AT_ONCE),
            score_verbalised,
            statistics=columns_of_many,
        ),
        corpus=CorpusMetrics(corpus_metrics, resampling="jackknife"),
        display_metrics=_TOLD,
    ),
)
