"""The reward model: what it learns, how its agreement with people is counted, and what its checkpoint gives back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages import HERE, QUESTIONS, checkpoint, lines_of, refusal, steps_of, weights_of, write_rows
from tiny import tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from trainers import reward, supervised
from trainers.agreement import agreement, longer_wins
from trainers.data import Ranking
from trainers.models import load
from trainers.reward import RewardConfig, train
from trainers.rewards import load_reward
from trainers.run import make_accelerator

FILLER = (" wax", " yes", " no", " flowers", " toxic", " maybe", " hive", " Earth")
RANKINGS = [
    {"prompt": q, "responses": [" honey", " wax and wax", " no", " toxic"], "ranks": [1, 2, 2, 4]} for q in QUESTIONS
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def fit(tmp_path, base):
    """Trains a reward model with quick settings; every call has a folder of its own."""
    data = write_rows(tmp_path / "rankings.jsonl", RANKINGS)
    runs = iter(range(100))

    def run(**changed) -> Path:
        out = tmp_path / f"run-{next(runs)}"
        quick = HERE | {"model": base, "data": data, "batch": 4, "lr": 1e-2, "validation_share": 0.2, "out": str(out)}
        final, _ = train(RewardConfig(**(quick | changed)))
        assert final == out / "final"
        return out

    return run


def recipe_of(out: Path) -> dict:
    return json.loads((out / "final" / "recipe.json").read_text())


def texts_with_honey(count: int) -> list[dict]:
    """Rankings of made-up answers in which those with a certain word come first, longer or shorter alike."""
    rng, rows = random.Random(0), []
    for i in range(count):
        answers = ["".join(rng.choices(FILLER, k=rng.randint(1, 4))) for _ in range(4)]
        good = [rng.random() < 0.5 for _ in answers]
        good[i % 4], good[(i + 1) % 4] = True, False
        responses = [a + " honey" + rng.choice(FILLER) if g else a for a, g in zip(answers, good, strict=True)]
        rows.append({"prompt": f"Question {i}: {rng.choice(QUESTIONS)}", "responses": responses,
                     "ranks": [1 if g else 2 for g in good]})  # fmt: skip
    return rows


def test_a_planted_preference_is_learnt_beyond_90_percent_on_prompts_it_has_not_seen(fit, tmp_path):
    data = write_rows(tmp_path / "honey.jsonl", texts_with_honey(200))
    out = fit(data=data, batch=8, epochs=2, lr=1e-2)
    found = recipe_of(out)["metrics"]
    assert found["accuracy"] > 0.9
    assert found["accuracy_low"] > found["length_accuracy"]
    assert found["over_length_low"] > 0
    assert found["calibration_error"] < 0.1
    losses = [line["loss"] for line in steps_of(out)]
    assert np.mean(losses[-5:]) < 0.3 < 0.5 < np.mean(losses[:3])


@pytest.mark.parametrize("micro_tokens", [8192, 1])
def test_the_gradient_is_that_of_all_pairs_over_one_plain_forward_a_response(
    base, fit, monkeypatch, micro_tokens, tmp_path
):
    gradients = {}
    take_step = supervised.take_step

    def keep(module, *arguments):
        gradients.update({n.removeprefix("model."): p.grad.clone() for n, p in module.named_parameters()})
        return take_step(module, *arguments)

    monkeypatch.setattr(supervised, "take_step", keep)
    held_out = write_rows(tmp_path / "held-out.jsonl", RANKINGS[:1])
    out = fit(batch=len(RANKINGS), micro_tokens=micro_tokens, validation=held_out)
    model, tokenizer, _ = load(base, "reward", new_head=0)
    losses = []
    for row in RANKINGS:
        ids = [[*tokenizer(row["prompt"] + r)["input_ids"], tokenizer.eos_token_id] for r in row["responses"]]
        scores = [model.score(model.model(torch.tensor([i])).last_hidden_state[0, -1])[0] for i in ids]
        # ranks 1, 2, 2, 4: of six pairs the tie teaches nothing
        pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
        margins = torch.stack([scores[better] - scores[worse] for better, worse in pairs])
        losses.append(-torch.nn.functional.logsigmoid(margins).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
    assert steps_of(out)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("pad", ["own", "end", "none"])
def test_the_checkpoint_is_a_stock_classifier_and_demonstrations_average_0(fit, tmp_path, pad):
    tokenizer = tiny_tokenizer(pad=pad == "own")
    if pad == "end":
        tokenizer.pad_token = tokenizer.eos_token
    model = checkpoint(tmp_path / "model", tokenizer=tokenizer)
    rows = [{"prompt": q, "response": FILLER[i % 8] * (1 + i % 3)} for i, q in enumerate(QUESTIONS)]
    out = fit(model=model, demonstrations=write_rows(tmp_path / "demonstrations.jsonl", rows))
    prompts, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
    scores = load_reward(str(out / "final"), make_accelerator("no", [], tmp_path, cpu=True), 8192)(prompts, responses)
    assert np.mean(scores) == pytest.approx(0, abs=1e-5)
    assert np.std(scores) > 1e-3
    # the stock model gives the same less the bias, in a padded batch too
    stock = AutoModelForSequenceClassification.from_pretrained(out / "final")
    its = AutoTokenizer.from_pretrained(out / "final")
    assert stock.config.num_labels == 1
    assert its.pad_token_id == stock.config.pad_token_id != its.eos_token_id
    batch = its(
        [p + r + its.eos_token for p, r in zip(prompts, responses, strict=True)], padding=True, return_tensors="pt"
    )
    logits = stock(**batch).logits[:, 0].tolist()
    bias = recipe_of(out)["metrics"]["bias"]
    assert [score - bias for score in scores] == pytest.approx(logits, abs=1e-4)


def test_without_demonstrations_there_is_no_bias(fit):
    assert "bias" not in recipe_of(fit())["metrics"]


# Agreement, on scores made by hand


def row(ranks, lengths, prompt="p") -> Ranking:
    return Ranking(prompt, tuple("x" * n for n in lengths), tuple(ranks), None)


def test_agreement_counts_pairs_without_ties_and_half_for_equal_scores():
    rows = [row([1, 2, 2, 3], [4, 9, 1, 1], "a"), row([2, 1], [5, 5], "b")]
    # pairs of the first: (0,1) right, (0,2) wrong, (0,3) right, (1,2) tied, (1,3) equal scores, (2,3) right
    found = agreement(rows, [[2.0, 0.5, 3.0, 0.5], [1.0, -1.0]]).metrics
    assert found["pairs"] == 6
    assert found["accuracy"] == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 0) / 6)
    # the longer one of each: wrong, right, right, right, equal, equal
    assert found["length_accuracy"] == pytest.approx((0 + 1 + 1 + 1 + 0.5 + 0.5) / 6)
    assert found["over_length"] == pytest.approx(found["accuracy"] - found["length_accuracy"])
    p = [1 / (1 + np.exp(-m)) for m in (1.5, -1.0, 1.5, 0.0, 2.5, -2.0)]  # of the preferred one
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(p)))


def test_the_baseline_may_be_that_the_shorter_is_better():
    rows = [row([1, 2], [1, 4]), row([2, 1], [9, 3]), row([1, 2], [7, 2])]
    found = [agreement(rows, [[1.0, 0.0]] * 3, longer_is_better=longer).metrics for longer in (True, False)]
    assert [metrics["length_accuracy"] for metrics in found] == pytest.approx([1 / 3, 2 / 3])
    assert not longer_wins(rows)
    assert longer_wins(rows[2:])


def test_the_interval_is_of_prompts_not_of_pairs():
    # ten pairs of one prompt say less than ten prompts of one pair
    many = [row([1, 2], [1, 1], f"p{i}") for i in range(20)]
    scores = [[1.0, 0.0] if i % 4 else [0.0, 1.0] for i in range(20)]
    few = [row([1, 2], [1, 1], f"p{i // 10}") for i in range(20)]
    wide, narrow = (agreement(rows, scores).metrics for rows in (few, many))
    assert wide["accuracy"] == narrow["accuracy"] == 0.75
    assert narrow["accuracy_low"] < 0.75 < narrow["accuracy_high"]
    width = {name: m["accuracy_high"] - m["accuracy_low"] for name, m in (("wide", wide), ("narrow", narrow))}
    assert width["wide"] > width["narrow"]


def test_calibration_compares_predicted_with_found_shares():
    sure, unsure = np.log(9), np.log(1.5)  # 0.9 and 0.6
    rows = [row([1, 2], [1, 1], f"p{i}") for i in range(11)]
    scores = [[sure, 0.0]] * 4 + [[0.0, sure]] + [[unsure, 0.0]] + [[0.0, unsure]] * 4 + [[1.0, 1.0]]
    found = agreement(rows, scores)
    shares = {round(b["predicted"], 2): (b["pairs"], b["share"]) for b in found.bins}
    # equal scores predict 1/2 and count half
    assert shares == {0.9: (5, pytest.approx(0.8)), 0.6: (5, pytest.approx(0.2)), 0.5: (1, 0.5)}
    assert found.metrics["calibration_error"] == pytest.approx((5 * 0.1 + 5 * 0.4 + 0) / 11)


def pairs_that_follow(margins, sharper: float = 1.0):
    """Pairs, the chosen one always named first, of people who choose as σ(margin) says; and a model's scores, whose
    margins are `sharper` times those."""
    rng = np.random.default_rng(0)
    first_wins = rng.random(len(margins)) < 1 / (1 + np.exp(-margins))
    scores = [[sharper * m, 0.0] if won else [0.0, sharper * m] for m, won in zip(margins, first_wins, strict=True)]
    return [row([1, 2], [1, 1], f"p{i}") for i in range(len(margins))], scores


def test_a_calibrated_model_has_a_small_error_though_each_row_names_its_best_first():
    margins = np.random.default_rng(1).normal(0, 1.5, 4000)
    assert agreement(*pairs_that_follow(margins)).metrics["calibration_error"] < 0.02
    overconfident, timid = (agreement(*pairs_that_follow(margins, s)) for s in (4.0, 0.25))
    assert overconfident.metrics["calibration_error"] > 0.1
    assert all(b["predicted"] > b["share"] for b in overconfident.bins if b["from"] > 0.7)
    assert timid.metrics["calibration_error"] > 0.1
    assert all(b["predicted"] < b["share"] for b in timid.bins if b["from"] > 0.55)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_agreement_does_not_depend_on_the_order_in_which_a_row_names_its_responses(scores, random):
    ranks, places = [1 + i % 3 for i in range(len(scores))], list(range(len(scores)))
    random.shuffle(places)
    named = [row(ranks, range(len(scores)))], [row([ranks[i] for i in places], places)]
    one, other = agreement(named[0], [scores]).metrics, agreement(named[1], [[scores[i] for i in places]]).metrics
    assert one == pytest.approx(other, nan_ok=True)


def test_the_calibration_lies_beside_the_checkpoint(fit):
    out = fit()
    bins = json.loads((out / "final" / "calibration.json").read_text())["bins"]
    assert sum(b["pairs"] for b in bins) == recipe_of(out)["metrics"]["pairs"] == 2 * 5
    assert all(b["from"] <= b["predicted"] <= b["to"] for b in bins)


# Which rankings are trained on


@pytest.fixture
def parts(monkeypatch):
    """The rankings that each training is given: trained on, validated on, of labelers left out."""
    found, split = [], reward._split

    def keep(*arguments):
        found.append(split(*arguments))
        return found[-1]

    monkeypatch.setattr(reward, "_split", keep)
    return found


def labelled(tmp_path) -> str:
    rows = [
        {"prompt": q, "chosen": f" honey{n}", "rejected": " no", "labeler": f"labeler {n}"}
        for q in QUESTIONS
        for n in range(6)
    ]
    random.Random(1).shuffle(rows)
    return write_rows(tmp_path / "labelled.jsonl", rows)


def test_all_rankings_of_a_prompt_are_on_one_side(fit, parts, tmp_path):
    fit(data=labelled(tmp_path))
    ((training, held_out, left_out),) = parts
    seen, unseen = ({ranking.prompt for ranking in part} for part in (training, held_out))
    assert not seen & unseen
    assert (len(seen), len(unseen), left_out) == (8, 2, [])
    assert len(training) + len(held_out) == 60
    fit(data=labelled(tmp_path), seed=1)
    assert {ranking.prompt for ranking in parts[1][1]} != unseen


def test_no_labeler_of_the_held_out_fold_is_trained_on(fit, parts, tmp_path):
    out = fit(data=labelled(tmp_path), folds=3)
    assert len(parts) == 4  # of all, and of each fold
    everyone = {f"labeler {n}" for n in range(6)}
    outs = []
    for training, held_out, left_out in (part for part in parts if part[2]):
        labelers = [{ranking.labeler for ranking in part} for part in (training, held_out, left_out)]
        assert labelers[0] == labelers[1] == everyone - labelers[2]
        assert not {r.prompt for r in training} & {r.prompt for r in held_out}
        outs += labelers[2]
    assert sorted(outs) == sorted(everyone)
    metrics = recipe_of(out)["metrics"]
    folds = [recipe_of(out / f"fold-{fold}")["metrics"] for fold in range(3)]
    for name in ("accuracy", "held_out_labelers_accuracy"):
        values = [fold[name] for fold in folds]
        assert metrics[f"folds_{name}"] == pytest.approx(np.mean(values))
        assert metrics[f"folds_{name}_se"] == pytest.approx(np.std(values, ddof=1) / 3**0.5)


def test_too_few_labelers_for_the_folds_are_one_line(fit, tmp_path):
    assert "give rows a labeler" in refusal(lambda: fit(folds=2))
    assert "6 labelers for 7 folds" in refusal(lambda: fit(data=labelled(tmp_path), folds=7))


def test_a_fold_without_a_validation_pair_is_refused_before_anything_is_trained(fit, tmp_path, monkeypatch):
    def never(*arguments, **settings):
        raise AssertionError("it trains")

    monkeypatch.setattr(reward, "fit", never)
    data = labelled(tmp_path)
    held_out = [{"prompt": "q", "chosen": " a", "rejected": " b", "labeler": "labeler 1"}]
    validation = write_rows(tmp_path / "held-out.jsonl", held_out)
    assert "no ranking is left to validate on" in refusal(lambda: fit(data=data, validation=validation, folds=3))
    one = write_rows(tmp_path / "one.jsonl", RANKINGS[:1])
    assert "no ranking is left to train on" in refusal(lambda: fit(data=one))
    assert "two folds or more" in refusal(lambda: fit(data=data, folds=1))
    assert "two folds or more" in refusal(lambda: fit(data=data, folds=2, fold=2))
    assert not list(tmp_path.glob("run-*/**/identity.json"))


def test_only_one_model_is_in_memory_while_folds_are_trained(fit, tmp_path, monkeypatch):
    import gc
    import weakref

    alive, load_model = weakref.WeakSet(), reward.load

    def keep(*arguments, **settings):
        gc.collect()
        assert not alive
        found = load_model(*arguments, **settings)
        alive.add(found[0])
        return found

    monkeypatch.setattr(reward, "load", keep)
    fit(data=labelled(tmp_path), folds=2)
    assert len(alive) <= 1


def test_held_out_rankings_may_be_given(fit, parts, tmp_path):
    fit(validation=write_rows(tmp_path / "held-out.jsonl", texts_with_honey(3)))
    ((training, held_out, _),) = parts
    assert [ranking.prompt for ranking in training] == [row["prompt"] for row in RANKINGS]
    assert len(held_out) == 3


# The checkpoint


def test_a_checkpoint_says_what_it_was_made_from_and_can_be_trained_on(fit, base, tmp_path):
    out = fit(epochs=2)
    recipe = recipe_of(out)
    assert recipe["stage"] == "reward"
    assert recipe["parent"]["weights_sha256"] == find_checkpoint(base).weights_sha256
    assert len(recipe["data"]) == 1
    lines = [line for line in lines_of(out / "metrics.jsonl") if "epoch" in line]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert recipe["metrics"].items() <= lines[-1].items()
    # its own head goes on; a base model's is new and follows from the seed
    second = fit(model=str(out / "final"), lr=0.0)
    assert torch.equal(weights_of(second / "final")["score.weight"], weights_of(out / "final")["score.weight"])
    one, same, other = (weights_of(fit(lr=0.0, seed=s) / "final")["score.weight"] for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_ranking_longer_than_the_window_is_one_line(fit, tmp_path):
    short = checkpoint(tmp_path / "short", max_position_embeddings=16)
    assert "window 16" in refusal(lambda: fit(model=short))


def test_a_finished_run_gives_back_all_its_metrics_with_the_bias(fit, tmp_path):
    rows = [{"prompt": q, "response": " yes"} for q in QUESTIONS]
    config = json.loads((fit(demonstrations=write_rows(tmp_path / "d.jsonl", rows)) / "final/recipe.json").read_text())
    final, metrics = train(RewardConfig(**config["config"]))
    assert metrics == config["metrics"]
    assert metrics["bias"] == load(str(final), "reward")[0].config.alignbench_reward_bias != 0


def test_a_parents_bias_is_not_inherited(fit, tmp_path):
    rows = [{"prompt": q, "response": " yes"} for q in QUESTIONS]
    parent = fit(demonstrations=write_rows(tmp_path / "demonstrations.jsonl", rows)) / "final"
    assert load(str(parent), "reward")[0].config.alignbench_reward_bias != 0
    child = fit(model=str(parent)) / "final"
    assert load(str(child), "reward")[0].config.alignbench_reward_bias == 0


def test_a_demonstration_longer_than_the_window_is_refused_before_anything_is_trained(fit, tmp_path):
    short = checkpoint(tmp_path / "short", max_position_embeddings=64)
    rows = write_rows(tmp_path / "long.jsonl", [{"prompt": "q", "response": " wax" * 80}])
    assert "long.jsonl: demonstration 1 has" in refusal(lambda: fit(model=short, demonstrations=rows))
    assert not list(tmp_path.glob("run-*/identity.json"))


def test_a_token_without_an_embedding_is_one_line(fit, tmp_path):
    assert "embeddings for 300" in refusal(lambda: fit(model=checkpoint(tmp_path / "small", vocab_size=300)))
