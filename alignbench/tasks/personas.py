"""Personas: the customers that a model invents for a product review, and the diversity of their fields.

The experiment of "Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, section 3.1), with our prompt, and
with five personas and their probabilities per sample (verbalised sampling, Zhang et al. 2025, arXiv 2510.01171).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from alignbench.diversity.entropy import spread
from alignbench.diversity.sets import of_set
from alignbench.errors import AlignbenchError
from alignbench.tasks.declare import PROMPTS, generation_task
from alignbench.tasks.persona_fields import FIELDS, is_whole, read_personas
from alignbench.types.scorer import Item
from alignbench.types.task import CorpusMetrics, Document, Estimates, Options, Output, Record, TaskData

PERSONAS = 100
AT_ONCE = 5
TOP_BIN = 0.8  # lower end of the top one of ten bins of sentiment, from −1 to 1

EXAMPLES: list[str] = PROMPTS["persona_examples"]
# what is counted -> the field that it is derived from, and how
DERIVED: dict[str, tuple[str, Callable[[str], str]]] = {
    "first_name": ("name", lambda name: name.split()[0]),
    "gender": ("gender", str),
    "age_decade": ("age", lambda age: f"{int(age) // 10 * 10}s"),
    "nationality": ("nationality", str),
}


def load_personas(options: Options) -> TaskData:
    shots = options.shots or 0
    if shots > len(EXAMPLES):
        raise AlignbenchError(f"personas: {shots} shots requested, but there are only {len(EXAMPLES)} examples")
    prompt = PROMPTS["personas"] + "".join(f"{example}\n\n" for example in EXAMPLES[:shots]) + "Name:"
    return TaskData([Document(f"persona {n:03}", prompt) for n in range(1, PERSONAS + 1)], (), shots=shots)


def load_lists(options: Options) -> TaskData:
    prompt, lists = PROMPTS["personas_verbalised"], range(1, PERSONAS // AT_ONCE + 1)
    return TaskData([Document(f"list {n:02}", prompt) for n in lists], ())


def score_persona(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    found = failures(1, document, outputs)
    sentiment = outputs[0].scores.get("sentiment", {})
    if sentiment and _review(outputs[0]):
        found["sentiment"] = sentiment["sentiment"]
        found["sentiment_top_bin"] = float(sentiment["sentiment"] >= TOP_BIN)
    return found


def failures(wanted: int, document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Proportions of the `wanted` personas that lack any field, and that lack each field."""
    personas = read_personas(outputs[0].text)[:wanted]
    missing = {f"missing_{field}": 1 - sum(field in p for p in personas) / wanted for field in FIELDS}
    return {"parse_failure": 1 - sum(map(is_whole, personas)) / wanted} | missing


def columns(wanted: int, document: Document, outputs: Sequence[Output]) -> dict[str, list[str | None]]:
    """The record's statistics: a list per field, an entry per persona, None for a field that could not be parsed."""
    personas = read_personas(outputs[0].text)[:wanted]
    return {field: [persona.get(field) for persona in personas] for field in (*FIELDS, "probability")}


def reviews(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What a scorer of sentiment sees: the review alone."""
    return [Item(_review(output), group=document.id) for output in outputs]


def corpus_metrics(records: Sequence[Record], intervals: bool) -> Estimates:
    """The distribution of each field over all personas, and the diversity of the reviews."""
    found: Estimates = []
    parsed = [record.statistics for record in records]
    for name, (field, derive) in DERIVED.items():
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
    return next((persona.get("review", "") for persona in read_personas(output.text)), "")


_CORPUS = CorpusMetrics(corpus_metrics, resampling="jackknife")
_OF_ONE, _OF_MANY = partial(columns, 1), partial(columns, AT_ONCE)

TASKS = (
    generation_task("personas", load_personas, score_persona, _CORPUS, items=reviews, statistics=_OF_ONE),
    generation_task("personas_verbalised", load_lists, partial(failures, AT_ONCE), _CORPUS, statistics=_OF_MANY),
)
