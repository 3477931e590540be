"""Run folders with samples that a page must bear: markup, text from right to left, emoji, 100 kB, NaN, many samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit_runs import shares, write_run

from alignbench.runs.read import read_runs
from reports.evidence import Evidence, System, gather

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script></script><b>bold</b>'
ARABIC = "مرحبا \u202eنص\u202c بالعربية 123"
EMOJI = "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301"
CONTROL = "bell\x07 escape\x1b[31m red \x9b null\x00 end"
LONG = "word" * 25_000
NASTY = (MARKUP, ARABIC, EMOJI, CONTROL, LONG, "\ud800 alone", "", "\n\n\nlines first")
N = 120


def wrote(text: str, *more: str, scores: Mapping[str, Any] | None = None, finish: str = "end") -> dict[str, Any]:
    """Columns of a document that the model wrote for; more: further samples."""
    outputs = [
        {
            "text": own, "finish": finish, "tokens": [1, 2, 3], "logprobs": [-0.25, -0.5, -0.75],
            "entropies": [0.1, 0.2, 0.3], "unscored": None, "scores": dict(scores or {}),
        }
        for own in (text, *more)
    ]  # fmt: skip
    return {"outputs": outputs, "references": ["Paris"], "source": None}


def chose(number: int, right: int) -> dict[str, Any]:
    return {
        "prompt": f"Question {number}. Is it so?",
        "choices": [" yes", " no"],
        "logprobs": [-1.5, -2.5] if right else [-2.5, -1.5],
        "tokens": [1, 1],
        "target": {"label": 0},
        "category": ("even", "odd")[number % 2],
    }


def squad(share: float, texts: Sequence[str], n: int = N) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A task in which the model writes: f1 of zeros and ones."""
    values = shares(share, n)
    columns = [
        {"prompt": f"Context {row}. Capital?", **wrote(texts[row % len(texts)], f"second {row}", f"third {row}")}
        for row in range(n)
    ]
    return "squad2", {"f1": values, "words": [float(row) for row in range(n)]}, {"columns": columns}


def rte(share: float, n: int = N) -> tuple[str, dict[str, Any], dict[str, Any]]:
    values = shares(share, n)
    return "rte", {"acc": values}, {"columns": [chose(row, int(value)) for row, value in enumerate(values)]}


def write_world(out: Path) -> list[Path]:
    """base, sft, ppo: ppo gained on rte and paid on squad2; its texts are those that break pages."""
    base = write_run(out, "base", rte(0.5), squad(0.7, ["Paris", "London"]))
    sft = write_run(out, "sft", rte(0.55), squad(0.65, ["Paris is it"]), lineage=[("base", "base")])
    ppo = write_run(out, "ppo", rte(0.8), squad(0.4, NASTY), lineage=[("base", "base"), ("sft", "sft")])
    return [base, sft, ppo]


def nasty_evidence(out: Path) -> Evidence:
    return gather(write_world(out))


def evidence_of(*folders: Path) -> Evidence:
    """Without audits, which take long where there is much."""
    runs = read_runs([str(folder) for folder in folders], Path())
    return Evidence(tuple(System(run.name, run, run.tasks) for run in runs))


def many(out: Path, n: int = 10_000, systems: int = 4) -> Evidence:
    """`n` documents of about 500 characters a system."""
    folders = []
    for system in range(systems):
        values = shares(0.4 + 0.1 * system, n)
        columns = [
            {
                "prompt": f"Context {row}. What is the capital of country {row * 7919 % 1009}?",
                **wrote(_prose(row, system)),
            }
            for row in range(n)
        ]
        folders.append(write_run(out, f"system {system}", ("squad2", {"f1": values}, {"columns": columns})))
    return evidence_of(*folders)


SYLLABLES = ("ka", "lo", "mir", "ten", "su", "ba", "ri", "no", "vel", "tor", "an", "ish", "ge", "pod", "ul", "ze")


def _prose(row: int, system: int) -> str:
    """About 500 characters that compress like a language, the same in every run."""
    state, words = row * 31 + system * 17 + 1, []
    for _ in range(80):
        state = (state * 1103515245 + 12345) % 2**31
        words.append("".join(SYLLABLES[state >> shift & 15] for shift in (8, 13, 18)[: 1 + state % 3]))
    return " ".join(words) + (f" needle{row}" if row % 1000 == 0 else "")
