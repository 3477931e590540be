"""The contents of an audit card: an audit, the provenance of its numbers, and their limits; as Markdown and as PDF."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add
from pathlib import Path
from typing import Any

from alignbench import __version__
from alignbench.audit.abilities import ABILITIES
from alignbench.audit.audit import AbilityVerdict, Audit, Contrast, Row
from alignbench.audit.comparable import baseline_of, scorers_of
from alignbench.audit.compare import SYNTHETIC_DATA
from alignbench.audit.render import as_markdown, markdown, tables
from alignbench.console import interval, number, write_text
from alignbench.errors import AlignbenchError
from alignbench.exports.formats import CARD, card_mark
from alignbench.runs.read import Run, TaskRun
from alignbench.stats.significance import LEVEL
from alignbench.types.result import MetricResult
from reports.evidence import Evidence, systems_of
from reports.page.data import preferences, sets_of, win_rates
from reports.style import plain

SAMPLING = ("samples", "temperature", "top_p", "top_k", "max_tokens")
SOFTWARE = ("alignbench", "commit", "dirty", "python", "torch", "transformers")
VERSION, SYNTHETIC = f"alignbench {__version__}", f"{SYNTHETIC_DATA.capitalize()}."
INTRODUCTION = "What alignment changed: each model and the model that it is compared with, on the same documents."
LIMITS = (
    "The numbers are of these checkpoints, documents, prompts and settings. Another training with the same recipe may "
    "give other results. The intervals are for other documents of the same kind; they do not cover the choice of the "
    "seed, of the prompt and of the decoding, or errors of automatic scorers. Models may have seen test documents in "
    "training. “Inconclusive” does not mean “no change”."
)


@dataclass(frozen=True)
class Card:
    """What both forms of a card contain.

    title: the aligned models; models, facts: their provenance and that of the numbers, each with a label; notes: in
    Markdown below the table of each comparison
    """

    title: str
    audit: Audit
    synthetic: bool
    models: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    limits: str


def write_card(audit: Audit, runs: Sequence[Run], folder: Path) -> None:
    """Write audit-card.pdf, two pages, and audit-card.md. runs: those that the audit compares

    The same runs give the same bytes. Raises AlignbenchError if a file cannot be written.
    """
    from reports.card.pages import as_pdf

    card = make_card(audit, runs)
    aligned = {own.aligned.removesuffix(" (chat)") for own in audit.contrasts}
    mark = card_mark([run for run in runs if run.name in aligned])
    write_text(folder / f"{CARD}.md", f"{mark}\n{to_markdown(card)}", with_folder=True)
    try:
        (folder / f"{CARD}.pdf").write_bytes(as_pdf(card))
    except OSError as error:
        raise AlignbenchError(f"{folder / CARD}.pdf: cannot be written ({error.strerror or error})") from None


def make_card(audit: Audit, runs: Sequence[Run]) -> Card:
    contrasts = tuple(with_win_rates(audit.contrasts, runs))
    rows = [row for own in contrasts for row in own.rows if row.primary]
    folders = {folder for row in rows for folder in (row.reference_folder, row.aligned_folder)}
    names = {name.removesuffix(" (chat)") for own in contrasts for name in (own.reference, own.aligned)}
    compared = [run for run in runs if run.name in names]
    tasks = [task for run in compared for task in run.tasks if task.path in folders]
    notes = [note for own in contrasts for note in (*(f"not compared: {line}" for line in own.left_out), *own.notes)]
    notes = [note for note in dict.fromkeys((*notes, *audit.notes)) if note != SYNTHETIC_DATA]
    named = dict.fromkeys(own.aligned for own in contrasts)
    aligned = [plain(name, 40 if len(named) == 1 else 24) for name in named]
    missing = ", ".join(own for own in ABILITIES if own not in {row.ability for row in rows})
    return Card(
        ", ".join(aligned[:3]) + f" and {len(aligned) - 3} more" * (len(aligned) > 3),
        replace(audit, contrasts=contrasts),
        any(SYNTHETIC_DATA in own.notes for own in contrasts), tuple((run.name, _model(run)) for run in compared),
        tuple(_facts(audit, compared, tasks)), tuple(notes), f"{LIMITS} Not measured: {missing or 'none'}.",
    )  # fmt: skip


def with_win_rates(contrasts: Sequence[Contrast], runs: Sequence[Run]) -> Iterator[Contrast]:
    """The contrasts with win rates against their references, in which nothing is paired: a model wins half against
    itself. Verdict and name of the ability are those of the report page."""
    evidence = Evidence(tuple(system for run in runs for system in systems_of(run)))
    wins = win_rates({"win_rate": sets_of(evidence, "win_rate")} if "win_rate" in evidence.tasks else {})
    for contrast in contrasts:
        both = any(own.ability == "preference" for own in contrast.abilities)  # such as judgements of labelers
        name = "win rate" if both else "preference"
        for verdict, win in preferences(wins, evidence.systems, contrast):
            rate, equal = (win["metrics"].get(metric) for metric in ("win_rate", "win_rate_length_controlled"))
            folder = next(own.path for system, own in win["samples"].folders if system.name == win["system"])
            lengths = f"at equal lengths {_measured(equal)}" if equal else "lengths are not controlled"
            clause = f"The win rate against {contrast.reference} is {_measured(rate)}; {lengths}"
            row = _win_row(rate, verdict, folder)
            found = AbilityVerdict(name, row.verdict, f"{name.capitalize()}: {verdict}. {clause}.", (clause,), ())
            contrast = replace(contrast, rows=(row, *contrast.rows), abilities=(found, *contrast.abilities))
        yield contrast


def _win_row(own: MetricResult, verdict: Any, folder: Path) -> Row:
    rate = own.value or 0.0
    low, high = (None if end is None else end - 0.5 for end in (own.low, own.high))
    return Row(
        task="win_rate", variant="", ability="preference", group="", family="win_rate", metric="win_rate",
        headline=True, primary=True, unit=own.unit, better=own.better, scorer=own.scorer, reference=0.5, aligned=rate,
        delta=rate - 0.5, low=low, high=high, gain=rate - 0.5, gain_low=low, gain_high=high, span=1.0, p=None, test="–",
        standard_error=own.standard_error, verdict=verdict, tax=None, relative_tax=None, tax_of_range=None,
        tax_error=None, n=own.n, clusters=own.n_clusters, left_out=own.n_unscored, aligned_folder=folder,
        note="compared with 0.5 by the interval",
    )  # fmt: skip


def _measured(own: MetricResult) -> str:
    return f"{number(own.value)} (95 % interval {interval(own.low, own.high)})"


def _model(run: Run) -> str:
    model, engine = run.description["model"], run.description.get("engine") or {}
    words = {"weights_sha256": "weights sha256", "adapter_sha256": "adapter sha256", "revision": "revision"}
    words |= {"outputs": "outputs of the file", "outputs_sha256": "sha256"}
    known = [f"{words[name]} {model[name]}" for name in words if model.get(name)] or ["weights are not recorded"]
    stages = " → ".join(" ".join(dict.fromkeys((own["stage"], own["name"]))) for own in run.lineage)
    computed = " ".join(str(engine[name]) for name in ("kind", "dtype", "device") if engine.get(name))
    return _listed((*known, stages and f"lineage {stages}", computed, run.path.name))


def _facts(audit: Audit, runs: Sequence[Run], tasks: Sequence[TaskRun]) -> Iterator[tuple[str, str]]:
    parts = [part for task in tasks for part in task.identity.get("data") or ()]
    data = (f"{part['card'] or part['source']} {part['split']}@{part['revision']}" for part in parts)
    pins = ("" if part["pinned"] else " (not the pinned revision)" for part in parts)
    yield "data", _listed(map(add, data, pins))
    yield "scorers", _listed((f"{own.kind}: {own}" for task in tasks for own in scorers_of(task.identity)), none="none")
    settings: dict[str, list[str]] = {}  # name -> values of all tasks
    for task in tasks:
        found = {"template": task.result.template, "shots": task.result.shots, "limit": task.result.limit or "none"}
        found |= {"seed": task.result.seed, "baseline": baseline_of(task.identity)}
        found |= {name: value for name, value in (task.identity.get("sampling") or {}).items() if name in SAMPLING}
        for name, value in found.items():
            settings.setdefault(name, []).append("" if value is None else str(value))
    yield "settings", _listed(f"{name} {_listed(values, ', ')}" for name, values in settings.items() if any(values))
    yield "statistics", (
        f"{audit.resamples:,} paired resamples, seed {audit.seed}; gain and loss: p below {LEVEL} after Holm's "
        f"correction in each comparison; retained: no loss of more than {audit.margin:g} % of the metric's range"
    )  # fmt: skip
    used = [run.description.get("environment") or {} for run in runs]
    versions = (", ".join(f"{name} {str(own[name])[:12]}" for name in SOFTWARE if own.get(name)) for own in used)
    yield "software", _listed((*versions, f"{VERSION} (this card)"))


def _listed(parts: Iterable[str], between: str = "; ", none: str = "not recorded") -> str:
    return between.join(dict.fromkeys(part for part in parts if part)) or none


def to_markdown(card: Card) -> str:
    lines = [f"# Audit card: {markdown(card.title)}", "", INTRODUCTION, ""]
    lines += [f"**{markdown(SYNTHETIC)}**", ""] if card.synthetic else []
    lines += [*as_markdown(tables(card.audit), card.audit.notes), "", "### Provenance", ""]
    lines += [f"- **{markdown(name)}**: {markdown(text)}" for name, text in (*card.models, *card.facts)]
    return "\n".join([*lines, "", "### Limits", "", card.limits, ""])
