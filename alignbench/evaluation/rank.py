"""Ranking of systems: a judge compares every pair on the prompts that both answered; strengths are on one scale.

Each pair's verdicts are a win rate (alignbench/evaluation/win_rate.py) in the run of one of the two. So an interrupted
ranking resumes, and a system that is added later needs only its own comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.score_file import score_file
from alignbench.evaluation.thinking import TAGS, find_thinking
from alignbench.evaluation.win_rate import ANSWERS, Answers, choose_judge, find_answers, judge, warnings
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.stats.bradley_terry import Battle, Ranked, rank
from alignbench.stats.estimates import Estimate
from alignbench.stats.win_rate import win_rate
from alignbench.types.scorer import Scorer, ScorerIdentity


@dataclass(frozen=True)
class Standing:
    """One system in a ranking.

    strength: Bradley–Terry, nats above the baseline; against_all: raw win rate over all of its comparisons
    words: mean words of its answers; parameters: of its checkpoint; kl: from the initial policy of its training, in
    nats per response; the last two None if not recorded
    """

    name: str
    strength: Ranked
    against_all: Estimate
    words: float
    parameters: int | None
    kl: float | None


@dataclass(frozen=True)
class Table:
    """A ranking.

    standings: strongest first; eta: Rao and Kupper's tie parameter; pairs: first, second -> the first one's win rate
    longer: proportion of decided verdicts for the longer answer; position_consistency: None for a judge that does not
    see an order; warnings: what a reader has to know
    """

    judge: str
    baseline: str
    prompts: int
    battles: int
    eta: float
    standings: tuple[Standing, ...]
    pairs: dict[tuple[str, str], Estimate]
    longer: Estimate
    position_consistency: Estimate | None
    warnings: tuple[str, ...]


def find_systems(specs: Sequence[str], out: str | Path, **settings: Any) -> list[Answers]:
    """The answers of each system: a run folder, its task folder of answers, or a file of outputs, which is first scored
    into `out` (settings: see `score_file`); `NAME=` before it sets its name. Raises AlignbenchError for equal names."""
    systems = []
    for spec in specs:
        name, equals, rest = spec.partition("=")
        given = name if equals and not Path(spec).exists() else None
        path = find_path(rest if given else spec)
        if path.is_file():
            run = score_file(path, out, task=ANSWERS, name=given, **settings)
            system = find_answers(run.folder, run.folders[0])
        else:
            of_task = (path / "task.json").is_file()
            system = find_answers(path.parent, path.name) if of_task else find_answers(path)
        systems.append(replace(system, name=given or system.name))
    names = [system.name for system in systems]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AlignbenchError(f"two systems are named {twice!r}: write NAME={twice} for one of them")
    if len(systems) < 2:
        raise AlignbenchError("a ranking needs at least two systems")
    return systems


def rank_specs(
    systems: Sequence[str],
    scorers: Sequence[str],
    out: str | Path = "runs",
    *,
    baseline: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    **settings: Any,
) -> Table:
    """Rank systems: a judge compares every pair of answers to the same prompts.

    systems: runs with the task answers, or files of outputs, each as `path` or `name=path`
    scorers: the judge, ["preference=reward:MODEL"]; settings: see `score_file`

    Raises AlignbenchError for fewer than two systems, equal names and a missing judge.
    """
    thinking = find_thinking(settings.get("thinking", "auto"), settings.get("thinking_tags", TAGS))
    judge_of_pairs = choose_judge(scorers, device, thinking)
    found = find_systems(systems, out, progress=progress, **settings)
    return rank_systems(found, judge_of_pairs, baseline=baseline, progress=progress)


def rank_systems(
    systems: Sequence[Answers], scorer: Scorer, *, baseline: str | None = None, progress: Progress | None = None
) -> Table:
    """Judge every pair and rank the systems; the baseline (default: the first) has strength 0."""
    progress = progress or Progress()
    names = [system.name for system in systems]
    baseline = baseline or names[0]
    if baseline not in names:
        raise AlignbenchError(f"--baseline {baseline}: none of the systems ({', '.join(names)})")
    battles: list[Battle] = []
    pairs, agreed, consistent, found_warnings = {}, [], [], list[str]()
    for pair in combinations(systems, 2):
        # a pair is judged once, whatever the order of the systems: it is ordered by run folder
        one, other = sorted(pair, key=lambda system: (system.run.name, system.folder.path.name))
        verdicts = judge(one, other, scorer, progress=progress)
        found_warnings += warnings(pair, scorer, verdicts)
        records = [record for record in verdicts.folder.records() if record.metrics["win_rate"] is not None]
        won = [r.values.get("win_rate_discrete", r.values["win_rate"]) for r in records]  # the model has no graded ones
        pairs[pair[0].name, pair[1].name] = win_rate(won if pair[0] is one else [1 - outcome for outcome in won])
        agreed += [(r.id, r.values["agrees_with_longer"]) for r in records if "agrees_with_longer" in r.values]
        consistent += [(r.id, r.values["position_consistency"]) for r in records if "position_consistency" in r.values]
        battles += [Battle(r.id, one.name, other.name, own) for r, own in zip(records, won, strict=True)]
    # resampling must not depend on the order of the systems
    battles.sort(key=lambda battle: (battle.prompt, battle.a, battle.b))
    ranked, eta = rank(battles, baseline, names)
    by_name = {system.name: system for system in systems}
    return Table(
        judge=str(ScorerIdentity.of(scorer)),
        baseline=baseline,
        prompts=len({battle.prompt for battle in battles}),
        battles=len(battles),
        eta=eta,
        standings=tuple(_standing(by_name[own.name], own, battles) for own in ranked),
        pairs=pairs,
        longer=_over_prompts(agreed),
        position_consistency=_over_prompts(consistent) if consistent else None,
        warnings=tuple(dict.fromkeys(found_warnings)),
    )


def _over_prompts(found: Sequence[tuple[str, float]]) -> Estimate:
    return win_rate([value for _, value in found], [prompt for prompt, _ in found])


def _standing(system: Answers, ranked: Ranked, battles: Sequence[Battle]) -> Standing:
    own = [(b.prompt, b.outcome if b.a == system.name else 1 - b.outcome) for b in battles if system.name in (b.a, b.b)]
    counts = [record.values["words"] for record in system.folder.records() if "words" in record.values]
    about, words = system.description, sum(counts) / max(1, len(counts))
    kl = (about.get("training") or {}).get("kl")
    return Standing(system.name, ranked, _over_prompts(own), words, about.get("parameters"), kl)
