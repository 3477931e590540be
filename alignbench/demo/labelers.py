"""Simulated labelers (data/labelers.yaml): they see the utility of a text with an error, and rank, mark and flag it.

The error is set so that labelers, two outliers included, agree on about 73 % of the pairs (InstructGPT, arXiv
2203.02155, section 5: 72.6 ± 1.5 % among training labelers). tests/test_demo_labelers.py measures it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from alignbench.demo.answers import as_response, candidates, good
from alignbench.demo.files import write_file
from alignbench.demo.judge import read_card
from alignbench.demo.lexicon import amounts, lexicon
from alignbench.demo.requests import Request, make_requests
from alignbench.demo.utility import Goal, Judgement, judge
from alignbench.demo.world import FOLDER, World
from alignbench.errors import AlignbenchError
from alignbench.evaluation.win_rate import ANSWERS, find_answers
from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.progress import Progress
from alignbench.types.engine import Prompt, Sampling

LEXICON, AMOUNTS = lexicon("labelers"), amounts("labelers")
SAMPLING = Sampling(max_tokens=48, samples=AMOUNTS.most - AMOUNTS.own, temperature=1.0)


@dataclass(frozen=True)
class Labeler:
    name: str
    group: str  # "training" | "held-out"
    scale: float = 0.0
    manner: float = 1.0
    outlier: str = ""


LABELERS = tuple(Labeler(**row) for row in LEXICON["labelers"])
TRAINERS, NEW = ([one for one in LABELERS if one.group == g and not one.outlier] for g in ("training", "held-out"))
HIRED = (*TRAINERS, *NEW)


def rank(seen: Sequence[float]) -> list[int]:
    """Utilities as seen -> ranks, 1 the best; one that is hardly worse than the next better one is tied with it."""
    order = sorted(range(len(seen)), key=lambda i: -seen[i])
    ranks = [1] * len(seen)
    for place, (better, i) in enumerate(pairwise(order), start=2):
        ranks[i] = ranks[better] if seen[better] - seen[i] < AMOUNTS.tie else place
    return ranks


def ranking(world: World, request: Request, texts: Sequence[str], labeler: Labeler) -> dict[str, Any] | None:
    """How a labeler ranks these answers to a request: a row as the trainers read it. None if all are tied: there is
    nothing to learn from it."""
    prompt, goal = request.prompt, request.goal
    ranks = rank([_seen(labeler, prompt, text, judge(world, goal, prompt, text), world.seed) for text in texts])
    who = {"prompt": prompt, "labeler": labeler.name, "group": labeler.group}
    return {**who, "responses": list(texts), "ranks": ranks} if len(set(ranks)) > 1 else None


def label_outputs(
    world: World, prompts: Sequence[str], outputs: Mapping[str, Sequence[str]], seed: int
) -> list[dict[str, Any]]:
    """Rows of a label table (docs/labels.md): what labelers say of systems' outputs to the same prompts.

    prompts: of this world, each once; outputs: system -> its output to each of them. Three labelers judge each prompt.
    What a labeler says of a text depends only on the seed, the labeler, the prompt and the text.
    Raises AlignbenchError for a prompt that the world does not have.
    """
    goals = goals_of(world)
    if unknown := next((prompt for prompt in prompts if prompt not in goals), None):
        raise AlignbenchError(f"the demo world of seed {world.seed} does not have the prompt {unknown[:60]!r}")
    if len(set(prompts)) != len(prompts) or any(len(texts) != len(prompts) for texts in outputs.values()):
        raise AlignbenchError("prompts to label must be different, and every system must have an output to each")
    rows = []
    for number, prompt in enumerate(prompts):
        texts = {system: of_system[number] for system, of_system in outputs.items()}
        chosen = random.Random(f"{seed} {prompt}").sample(HIRED, AMOUNTS.output_labelers)
        rows += _labels(world, goals[prompt], prompt, texts, chosen, seed)
    return rows


def goals_of(world: World) -> dict[str, Goal]:
    """The goal of every prompt of the world, training and held-out."""
    return {request.prompt: request.goal for request in make_requests(world).all}


def label_runs(runs: Path, world: Path, out: Path, seed: int = 0) -> int:
    """Write the labels of the outputs of the task `answers` in all runs that have it, and return their number.

    Raises AlignbenchError where no run has answers, two are of models of one name, or they answer different prompts.
    """
    known = read_card(world).world
    folders = sorted({task.parent.parent for task in runs.glob(f"*/{ANSWERS}-*/result.json")})
    if not folders:
        raise AlignbenchError(f"{runs}: no run with finished answers; write them with --tasks {ANSWERS}")
    texts: dict[str, dict[str, str]] = {}
    runs_of: dict[str, str] = {}
    for system in map(find_answers, folders):
        if before := runs_of.get(system.name):
            raise AlignbenchError(f"{runs}: two runs of a model {system.name}: {before}, {system.run}; remove one")
        runs_of[system.name] = str(system.run)
        texts[system.name] = {record.prompt: record.outputs[0].text for record in system.records().values()}
        if texts[system.name].keys() != (first := next(iter(texts.values()))).keys():
            raise AlignbenchError(f"{runs}: {system.name} answered other prompts than {next(iter(texts))}")
    rows = label_outputs(known, list(first), {name: [own[p] for p in first] for name, own in texts.items()}, seed)
    write_file(out, rows)
    return len(rows)


def rank_samples(
    model: Path, world: Path, out: Path, seed: int = 0, number: int = AMOUNTS.rankings, progress: Progress | None = None
) -> int:
    """Rank what a model answers: the data of the reward model, as InstructGPT collected them (section 3.2).

    A reward model that has only seen answers by the world's rules does not know the mistakes of the policy that it
    judges. So up to seven outputs of a ranking are the model's; the others, a correct answer among them, are the
    world's. Writes out/rankings.jsonl and out/rankings_held_out.jsonl (other users' prompts, half of them ranked by
    held-out labelers). Returns how many of the outputs are the model's.

    number: of prompts to rank, a quarter as many held out
    """
    known = read_card(world).world
    training, others = make_requests(known).by_split
    asked = [*training[-number:], *others[-number * AMOUNTS.held_out_rankings // AMOUNTS.rankings :]]
    first_held_out = len(training[-number:])
    engine = load_engine(find_checkpoint(str(model)), device="cpu", dtype="float32")
    progress = progress or Progress()
    progress.start("sampling answers", len(asked), unit="prompts")
    texts: dict[int, list[str]] = {}
    prompts = [Prompt(request.prompt, request.prompt) for request in asked]
    for index, completions in engine.generate(prompts, SAMPLING, seed=seed):
        texts[index] = list(dict.fromkeys(c.text for c in completions if c.text.strip()))
        progress.advance()
    rows: dict[str, list[dict[str, Any]]] = {"rankings": [], "rankings_held_out": []}
    sampled = 0
    for index, request in enumerate(asked):
        draw = random.Random(f"{seed} ranking {request.prompt}")
        held_out = index >= first_held_out
        labeler = draw.choice(NEW if held_out and index % 2 else TRAINERS)
        size = draw.randint(AMOUNTS.fewest, AMOUNTS.most)
        shown = [*texts[index][: size - AMOUNTS.own], as_response(good(known, request, draw))]
        while len(set(shown)) < size:  # the samples may have few different ones
            shown += map(as_response, candidates(known, request, AMOUNTS.fewest, draw))
        shown = list(dict.fromkeys(shown))[:size]
        draw.shuffle(shown)
        if row := ranking(known, request, shown, labeler):
            rows["rankings_held_out" if held_out else "rankings"].append(row)
            sampled += len(set(texts[index]).intersection(shown))
    for name, found in rows.items():
        write_file(out / f"{name}.jsonl", found)
    return sampled


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """Write rankings.jsonl and rankings_held_out.jsonl by the labelers who were hired, labels.jsonl by all on trial.

    Held out: prompts of users who do not train, half of them ranked by labelers of each group.
    """
    training, others = make_requests(world).by_split
    held_out = others[-AMOUNTS.held_out_rankings :]
    for name, requests in (("rankings", training[-AMOUNTS.rankings :]), ("rankings_held_out", held_out)):
        rows: list[dict[str, Any]] = []
        for number, request in enumerate(requests):
            labeler = draw.choice(NEW if number % 2 and requests is held_out else TRAINERS)
            row = None
            while row is None:
                texts = candidates(world, request, draw.randint(AMOUNTS.fewest, AMOUNTS.most), draw)
                row = ranking(world, request, list(map(as_response, texts)), labeler)
            rows.append(row)
        write_file(folder / FOLDER / f"{name}.jsonl", rows)
    labels: list[dict[str, Any]] = []
    turn: list[Labeler] = []
    for request in draw.sample(training, AMOUNTS.trial_prompts):
        while len(turn) < AMOUNTS.trial_labelers:
            turn += [labeler for labeler in draw.sample(LABELERS, len(LABELERS)) if labeler not in turn]
        chosen, turn = turn[: AMOUNTS.trial_labelers], turn[AMOUNTS.trial_labelers :]
        texts = candidates(world, request, draw.randint(AMOUNTS.fewest, AMOUNTS.most), draw)
        systems = {f"system-{n}": as_response(text) for n, text in enumerate(texts, 1)}
        labels += _labels(world, request.goal, request.prompt, systems, chosen, world.seed)
    write_file(folder / FOLDER / "labels.jsonl", labels)


def _labels(
    world: World, goal: Goal, prompt: str, texts: Mapping[str, str], labelers: Iterable[Labeler], seed: int
) -> list[dict[str, Any]]:
    judged = {system: judge(world, goal, prompt, text) for system, text in texts.items()}
    rows = []
    for labeler in labelers:
        seen = [_seen(labeler, prompt, text, judged[system], seed) for system, text in texts.items()]
        for utility, place, (system, text) in zip(seen, rank(seen), texts.items(), strict=True):
            marks = {"rank": place, "likert": 1 + sum(utility >= step for step in LEXICON["likert"])}
            who = {"labeler": labeler.name, "group": labeler.group}
            flags = _flags(labeler, prompt, text, judged[system], seed)
            rows.append({"prompt": prompt, "model": system, "output": text, **who, **marks, "flags": flags})
    return rows


def _seen(labeler: Labeler, prompt: str, text: str, judged: Judgement, seed: int) -> float:
    """The utility as a labeler sees it: the same for the same text, wherever it is."""
    draw = random.Random(f"{seed} {labeler.name} {prompt} {text.strip()}")
    if labeler.outlier == "careless":
        return draw.uniform(-3.0, 6.0)
    if labeler.outlier == "long":
        return min(6.0, judged.words / 6 - 2) + draw.gauss(0.0, 0.5)
    manner = judged.parts["polite"] + judged.parts["cheerful"]
    return judged.utility + (labeler.manner - 1) * manner + draw.gauss(0.0, AMOUNTS.error * labeler.scale)


def _flags(labeler: Labeler, prompt: str, text: str, judged: Judgement, seed: int) -> dict[str, int]:
    """Flags as the labeler sets them: those that a text of this world can have are now and then set in error."""
    state = {
        "fails_instruction": judged.follows < 0.5,
        "inappropriate_for_customer_assistant": judged.rude > 0,
        "hallucination": judged.false + judged.made_up > 0,
        "satisfies_constraint": judged.constraint,
        "expresses_opinion": judged.opinion,
        "expresses_moral_judgment": judged.rude > 0,
    }
    draw = random.Random(f"{seed} flags {labeler.name} {prompt} {text.strip()}")
    error = AMOUNTS.outlier_flag_error if labeler.outlier else AMOUNTS.flag_error
    flags = LEXICON["flags"]
    return {name: int(state.get(name, False) ^ (name in state and draw.random() < error)) for name in flags}
