"""Personas: the customers that a model invents for a product review, and the diversity of their fields.

The experiment of "Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, section 3.1), with our prompt.
`personas`: 100 samples at temperature 1, one persona each. `personas_verbalised`: 20 samples of five personas with a
probability each (verbalised sampling, Zhang et al. 2025, arXiv 2510.01171); `…_weighted` counts by these.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

from alignbench.diversity.entropy import SIZE, spread
from alignbench.diversity.sets import of_set
from alignbench.errors import AlignbenchError
from alignbench.tasks.persona_fields import FIELDS, Persona, is_whole, read_personas
from alignbench.types.engine import Sampling
from alignbench.types.record import Document, Output, Record
from alignbench.types.scorer import Item
from alignbench.types.task import CorpusMetrics, Estimates, Generation, Metric, Options, Task, TaskData

PERSONAS = 100
AT_ONCE = 5
LISTS = PERSONAS // AT_ONCE
TOP_BIN = 0.8  # lower end of the top one of ten bins of sentiment, from −1 to 1

_TASK = (
    "A shop asks everyone who bought a coffee machine for a review, and wants to know who wrote it: the name, the "
    "gender, the age in years, the nationality, and then the review itself in two or three sentences."
)
# as different from each other as three can be
EXAMPLES = (
    "Name: Teresa Oliveira\nGender: female\nAge: 61\nNationality: Brazilian\n"
    "Review: It is loud, and the lid broke in the second week. I have asked for my money back.",
    "Name: Kwame Mensah\nGender: male\nAge: 24\nNationality: Ghanaian\n"
    "Review: Good coffee in one minute. I would buy it again, though not in white.",
    "Name: Sasha Lindqvist\nGender: non-binary\nAge: 43\nNationality: Swedish\n"
    "Review: It does what it should. The manual is hard to follow, and the cable is too short for my kitchen.",
)
PROMPT = f"""\
{_TASK} Make up one such customer, anyone who might buy a coffee machine. \
Write one line for each: Name, Gender, Age, Nationality, Review.

"""
PROMPT_OF_MANY = f"""\
{_TASK} \
Draw {AT_ONCE} such customers at random from all there could be, the unlikely ones too, and say how probable each is, \
as a number between 0 and 1. \
Write one line for each: Name, Gender, Age, Nationality, Review, Probability; and a blank line after each customer.

Name:"""


def load_personas(options: Options) -> TaskData:
    shots = options.shots or 0
    if shots > len(EXAMPLES):
        raise AlignbenchError(f"personas: {shots} shots requested, but there are only {len(EXAMPLES)} examples")
    prompt = PROMPT + "".join(f"{example}\n\n" for example in EXAMPLES[:shots]) + "Name:"
    return TaskData([Document(f"persona {n:03}", prompt) for n in range(1, PERSONAS + 1)], (), shots=shots)


def score_persona(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    found = failures(1, document, outputs)
    sentiment = outputs[0].scores.get("sentiment", {})
    if sentiment and _review(outputs[0]):
        found["sentiment"] = sentiment["sentiment"]
        found["sentiment_top_bin"] = float(sentiment["sentiment"] >= TOP_BIN)
    return found


def failures(wanted: int, document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Proportions of the `wanted` personas that lack any field, and that lack each field."""
    personas = _parsed(outputs[0].text)[:wanted]
    missing = {f"missing_{field}": 1 - sum(field in p for p in personas) / wanted for field in FIELDS}
    return {"parse_failure": 1 - sum(map(is_whole, personas)) / wanted} | missing


def columns(wanted: int, document: Document, outputs: Sequence[Output]) -> dict[str, list[str | None]]:
    """The record's statistics: a list per field, an entry per persona, None for a field that could not be parsed."""
    personas = _parsed(outputs[0].text)[:wanted]
    return {field: [persona.get(field) for persona in personas] for field in (*FIELDS, "probability")}


def reviews(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What a scorer of sentiment sees: the review alone."""
    return [Item(_review(output), group=document.id) for output in outputs]


def corpus_metrics(records: Sequence[Record], intervals: bool) -> Estimates:
    """The distribution of each field over all personas, and the diversity of the reviews."""
    found: Estimates = []
    parsed = [record.statistics for record in records]
    for name, field, derive in (
        ("first_name", "name", lambda name: name.split()[0]),
        ("gender", "gender", str),
        ("age_decade", "age", lambda age: f"{int(age) // 10 * 10}s"),
        ("nationality", "nationality", str),
    ):
        pairs = [list(zip(own.get(field, ()), own.get("probability", ()), strict=True)) for own in parsed]
        values = [[derive(value) for value, _ in own if value is not None] for own in pairs]
        weights = [[float(p or 0) for value, p in own if value is not None] for own in pairs]
        estimates = spread(values, intervals=intervals)
        if any(any(own) for own in weights):
            estimates += spread(values, weights, intervals=intervals)
        found += [(replace(metric, name=f"{name}_{metric.name}"), estimate) for metric, estimate in estimates]
    texts = [review for own in parsed for review in own.get("review", ()) if review is not None]
    of_reviews = of_set(texts, prefix="review_", intervals=intervals)
    return found + [(metric, estimate) for metric, estimate in of_reviews if not metric.name.endswith("_uncut")]


def _review(output: Output) -> str:
    """The review, empty if it could not be parsed."""
    return next((persona.get("review", "") for persona in _parsed(output.text)), "")


@lru_cache(1024)  # an output is parsed for its items, its metrics and its statistics
def _parsed(text: str) -> tuple[Persona, ...]:
    return tuple(read_personas(text))


_FAILURES = tuple(
    Metric(name, "share", "lower", bounds=(0, 1)) for name in ("parse_failure", *(f"missing_{f}" for f in FIELDS))
)
_task = partial(
    Task,
    group="creativity",
    headline=f"nationality_entropy_at_{SIZE}",
    corpus=CorpusMetrics(corpus_metrics, resampling="jackknife"),
    display_metrics=(
        "parse_failure", "sentiment", "sentiment_top_bin",
        *(
            f"{field}_{name}"
            for field in ("first_name", "gender", "age_decade", "nationality")
            for name in (f"entropy_at_{SIZE}", "top_share")
        ),
        "review_distinct_2", "review_self_bleu", "review_words",
    ),
)  # fmt: skip

TASKS = (
    _task(
        name="personas",
        title="Personas, one per sample (reviews: first 50 words; --scorer sentiment=textblob adds sentiment)",
        metrics=(
            *(replace(metric, binary=True) for metric in _FAILURES),
            Metric("sentiment", "share", "–", bounds=(-1, 1), scorer="sentiment"),
            Metric("sentiment_top_bin", "share", "–", binary=True, scorer="sentiment"),
        ),
        load=load_personas,
        generation=Generation(
            Sampling(160, temperature=1.0),
            score_persona,
            optional_scorers=("sentiment",),
            items=reviews,
            statistics=partial(columns, 1),
        ),
        takes_shots=True,
    ),
    _task(
        name="personas_verbalised",
        title="Personas, five per sample with their probabilities (reviews: first 50 words)",
        metrics=_FAILURES,
        load=lambda options: TaskData([Document(f"list {n:02}", PROMPT_OF_MANY) for n in range(1, LISTS + 1)], ()),
        generation=Generation(
            Sampling(160 * AT_ONCE, temperature=1.0), partial(failures, AT_ONCE), statistics=partial(columns, AT_ONCE)
        ),
    ),
)
