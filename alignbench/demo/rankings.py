"""Rankings of what a model answers: the data of the reward model, as InstructGPT gathered them (arXiv 2203.02155, 3.2).

A reward model that has only seen answers by the world's own rules does not know the mistakes of the policy that it
is to judge. So up to seven outputs of a ranking are the SFT model's; the others, a right answer among them, are the
world's, so that what no model says yet has been judged as well.
"""

from __future__ import annotations

import random
from pathlib import Path

from alignbench.demo.answers import as_response, candidates, good
from alignbench.demo.judge import read_card
from alignbench.demo.labelers import FEWEST, HELD_OUT_RANKINGS, HIRED, MOST, RANKINGS, ranking
from alignbench.demo.layout import write_lines
from alignbench.demo.requests import is_training, make_requests
from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.progress import Progress
from alignbench.types.engine import Prompt, Sampling

OWN = 2  # outputs at least of a ranking that are the world's
SAMPLING = Sampling(max_tokens=48, samples=MOST - OWN, temperature=1.0)  # fewer where some are the same


def rank_samples(
    model: Path, world: Path, out: Path, seed: int = 0, number: int = RANKINGS, progress: Progress | None = None
) -> int:
    """Write out/rankings.jsonl and out/rankings_held_out.jsonl (other users' prompts, half of them ranked by other
    labelers): {prompt, labeler, group, responses, ranks}. How many of the outputs are the model's.

    number: of prompts to rank, a quarter as many held out
    """
    known = read_card(world).world
    everyone = make_requests(known).training
    training = [request for request in everyone if is_training(request.user)][-number:]
    others = [request for request in everyone if not is_training(request.user)]
    others = others[-number * HELD_OUT_RANKINGS // RANKINGS :]
    held_out = {request.prompt for request in others}
    engine = load_engine(find_checkpoint(str(model)), device="cpu", dtype="float32")
    asked = [*training, *others]
    progress = progress or Progress()
    progress.start("sampling answers", len(asked), unit="prompts")
    texts: dict[int, list[str]] = {}
    prompts = [Prompt(request.prompt, request.prompt) for request in asked]
    for index, completions in engine.generate(prompts, SAMPLING, seed=seed):
        texts[index] = list(dict.fromkeys(c.text for c in completions if c.text.strip()))
        progress.advance()
    groups = {group: [labeler for labeler in HIRED if labeler.group == group] for group in ("training", "held-out")}
    rows = []
    for index, request in enumerate(asked):
        draw = random.Random(f"{seed} ranking {request.prompt}")
        new = index >= len(training) and index % 2 == 1
        labeler = draw.choice(groups["held-out" if new else "training"])
        size = draw.randint(FEWEST, MOST)
        shown = [*texts[index][: size - OWN], as_response(good(known, request, draw))]
        while len(set(shown)) < size:  # different samples may be few
            shown += map(as_response, candidates(known, request, FEWEST, draw))
        shown = list(dict.fromkeys(shown))[:size]
        draw.shuffle(shown)
        rows.append(ranking(known, request, shown, labeler))
    rows = [row for row in rows if len(set(row["ranks"])) > 1]  # where all are tied there is nothing to learn
    write_lines(out / "rankings.jsonl", [row for row in rows if row["prompt"] not in held_out])
    write_lines(out / "rankings_held_out.jsonl", [row for row in rows if row["prompt"] in held_out])
    of_model = {request.prompt: set(texts[index]) for index, request in enumerate(asked)}
    return sum(len(of_model[row["prompt"]].intersection(row["responses"])) for row in rows)
