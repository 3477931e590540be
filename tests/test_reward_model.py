"""The reward model: what it learns, its agreement with rankings, its stages.checkpoint; and rewards of texts."""

import json
import math
import random

import numpy as np
import pytest
import stages
import torch
from cases import read_lines
from commands import refusal
from hypothesis import given
from hypothesis import strategies as st
from tiny import SENTENCES, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignbench.stats.rankings import agreement, prefers_longer
from trainers import reward
from trainers.data import Ranking
from trainers.models import Scalar, Texts, load
from trainers.reward import Config, RewardModel, load_reward, score_all, train

FILLER = (" wax", " yes", " no", " flowers", " toxic", " maybe", " hive", " Earth")
folder = pytest.fixture(scope="module")(stages.prepare)
accelerator = pytest.fixture(scope="module")(stages.an_accelerator)


fit = stages.runner("reward")


def test_a_planted_preference_is_learned_and_generalises_to_new_prompts(fit, tmp_path):
    """Answers with a certain word are better, whatever their length."""
    rng, rows = random.Random(0), []
    for i in range(200):
        answers = ["".join(rng.choices(FILLER, k=rng.randint(1, 4))) for _ in range(4)]
        good = [rng.random() < 0.5 for _ in answers]
        good[i % 4], good[(i + 1) % 4] = True, False
        responses = [a + " honey" + rng.choice(FILLER) if g else a for a, g in zip(answers, good, strict=True)]
        prompt = f"Question {i}: {rng.choice(stages.QUESTIONS)}"
        rows.append({"prompt": prompt, "responses": responses, "ranks": [2 - g for g in good]})
    found = stages.recipe_of(fit(data=stages.write_rows(tmp_path / "honey.jsonl", rows), batch=8, epochs=2))["metrics"]
    assert found["accuracy"] > 0.9
    assert found["accuracy_low"] > found["length_accuracy"]
    assert found["over_length_low"] > 0
    assert found["calibration_error"] < 0.1


@pytest.mark.parametrize("micro_tokens", [8192, 1])
def test_the_gradient_is_that_of_all_pairs_with_one_stock_forward_per_response(
    folder, fit, monkeypatch, micro_tokens, tmp_path
):
    found = stages.keep_gradients(monkeypatch)
    rows = [row | {"responses": [*row["responses"], " a"], "ranks": [1, 2, 2, 4]} for row in stages.RANKINGS]
    data = stages.write_rows(tmp_path / "rankings.jsonl", rows)
    out = fit(data=data, batch=len(rows), micro_tokens=micro_tokens, validation="one-reward.jsonl")
    model, tokenizer, _ = load(str(folder / "model"), "reward", new_head=0)
    model, losses = stages.exact(model), []
    for row in rows:
        ids = [[*tokenizer(row["prompt"] + r)["input_ids"], tokenizer.eos_token_id] for r in row["responses"]]
        scores = [stages.score_alone(model, i) for i in ids]
        pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]  # of six, one is a tie
        margins = torch.stack([scores[better] - scores[worse] for better, worse in pairs])
        losses.append(-torch.nn.functional.logsigmoid(margins).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    stages.assert_same_gradients(found[0], {f"model.{name}": g for name, g in stages.gradients_of(model).items()}, 2e-5)
    assert stages.steps_of(out)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("pad", ["own", "end", "none"])
def test_the_checkpoint_is_a_stock_classifier_and_demonstrations_have_mean_0(fit, tmp_path, accelerator, pad):
    tokenizer = tiny_tokenizer(pad=pad == "own")
    if pad == "end":
        tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": q, "response": FILLER[i % 8] * (1 + i % 3)} for i, q in enumerate(stages.QUESTIONS)]
    demonstrations = stages.write_rows(tmp_path / "demonstrations.jsonl", rows)
    out = fit(model=stages.checkpoint(tmp_path / "model", tokenizer=tokenizer), demonstrations=demonstrations)
    prompts, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
    scores = load_reward(str(out / "final"), accelerator, 8192)(prompts, responses)
    assert np.mean(scores) == pytest.approx(0, abs=5e-5)
    assert len({round(score, 3) for score in scores}) > 5
    # the stock model gives the same scores minus the bias, also in a padded batch
    stock, loading = AutoModelForSequenceClassification.from_pretrained(out / "final", output_loading_info=True)
    own = AutoTokenizer.from_pretrained(out / "final")
    assert not loading["missing_keys"]
    assert stock.config.num_labels == 1
    assert own.pad_token_id == stock.config.pad_token_id != own.eos_token_id
    texts = [p + r + own.eos_token for p, r in zip(prompts, responses, strict=True)]
    logits = stages.exact(stock)(**own(texts, padding=True, return_tensors="pt")).logits[:, 0].tolist()
    bias = stages.recipe_of(out)["metrics"]["bias"]
    assert [score - bias for score in scores] == pytest.approx(logits, abs=1e-4)


def row(ranks, lengths=(1, 1), prompt="p") -> Ranking:
    return Ranking(prompt, tuple("x" * n for n in lengths), tuple(ranks), None)


def test_agreement_leaves_ties_out_and_counts_equal_scores_half():
    rows = [row([1, 2, 2, 3], [4, 9, 1, 1], "a"), row([2, 1], [5, 5], "b")]
    # pairs of the first: (0,1) right, (0,2) wrong, (0,3) right, (1,2) tied, (1,3) equal scores, (2,3) right
    found, _ = agreement(rows, [[2.0, 0.5, 3.0, 0.5], [1.0, -1.0]])
    assert found["pairs"] == 6
    assert found["accuracy"] == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 0) / 6)
    # the longer response: wrong, right, right, right, equal, equal
    assert found["length_accuracy"] == pytest.approx((0 + 1 + 1 + 1 + 0.5 + 0.5) / 6)
    assert found["over_length"] == pytest.approx(found["accuracy"] - found["length_accuracy"])
    p = [1 / (1 + np.exp(-m)) for m in (1.5, -1.0, 1.5, 0.0, 2.5, -2.0)]  # of the preferred response
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(p)))


def test_the_length_baseline_may_prefer_the_shorter_response_and_the_interval_is_clustered_by_prompt():
    rows = [row([1, 2], [1, 4]), row([2, 1], [9, 3]), row([1, 2], [7, 2])]
    found = [agreement(rows, [[1.0, 0.0]] * 3, longer_is_better=longer)[0] for longer in (True, False)]
    assert [metrics["length_accuracy"] for metrics in found] == pytest.approx([1 / 3, 2 / 3])
    assert (prefers_longer(rows), prefers_longer(rows[2:])) == (False, True)
    scores = [[1.0, 0.0] if i % 4 else [0.0, 1.0] for i in range(20)]
    wide, narrow = (agreement([row([1, 2], prompt=f"{i // n}") for i in range(20)], scores)[0] for n in (10, 1))
    assert wide["accuracy"] == narrow["accuracy"] == 0.75
    assert narrow["accuracy_low"] < 0.75 < narrow["accuracy_high"]
    assert wide["accuracy_high"] - wide["accuracy_low"] > narrow["accuracy_high"] - narrow["accuracy_low"]


def test_calibration_compares_predicted_with_observed_proportions():
    sure, unsure = np.log(9), np.log(1.5)  # 0.9 and 0.6
    scores = [[sure, 0.0]] * 4 + [[0.0, sure]] + [[unsure, 0.0]] + [[0.0, unsure]] * 4 + [[1.0, 1.0]]
    metrics, bins = agreement([row([1, 2], prompt=f"p{i}") for i in range(11)], scores)
    found = {round(b["predicted"], 2): (b["n"], b["share"]) for b in bins}
    # equal scores predict 1/2 and count half
    assert found == {0.9: (5, pytest.approx(0.8)), 0.6: (5, pytest.approx(0.2)), 0.5: (1, 0.5)}
    assert metrics["calibration_error"] == pytest.approx((5 * 0.1 + 5 * 0.4 + 0) / 11)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_agreement_does_not_depend_on_the_order_of_responses_in_a_row(scores, random):
    ranks, order = [1 + i % 3 for i in range(len(scores))], list(range(len(scores)))
    random.shuffle(order)
    one, _ = agreement([row(ranks, range(len(scores)))], [scores])
    other, _ = agreement([row([ranks[i] for i in order], order)], [[scores[i] for i in order]])
    assert one == pytest.approx(other, nan_ok=True)


EVERYONE = [f"labeler {n}" for n in range(6)]


def test_all_rankings_of_a_prompt_are_on_one_side_and_no_labeler_who_is_left_out_is_trained_on():
    rankings = [Ranking(q, (" honey", " no"), (1.0, 2.0), name) for q in stages.QUESTIONS for name in EVERYONE]

    def split(given=(), **settings):
        config = Config(model="m", data="d", out="o", validation_share=0.2, **settings)
        return reward.split_rankings(config, rankings, [*given])

    training, held_out, left_out = split()
    seen, unseen = ({ranking.prompt for ranking in part} for part in (training, held_out))
    assert not seen & unseen
    assert (len(training), len(held_out), len(unseen), left_out) == (48, 12, 2, [])
    assert {ranking.prompt for ranking in split(seed=1)[1]} != unseen
    assert [len(part) for part in split(rankings[:1])] == [60, 1, 0]
    parts = split(leave_out=(EVERYONE[1], EVERYONE[4]))
    labelers = [{ranking.labeler for ranking in part} for part in parts]
    assert labelers[0] == labelers[1] == {*EVERYONE} - labelers[2]
    assert labelers[2] == {EVERYONE[1], EVERYONE[4]}
    assert not {r.prompt for r in parts[0]} & {r.prompt for r in parts[1]}


def test_accuracy_on_the_rankings_of_labelers_who_are_left_out_is_measured_apart(fit, tmp_path):
    pairs = [{"prompt": q, "chosen": " honey", "rejected": " no"} for q in stages.QUESTIONS]
    rows = [pair | {"labeler": name} for pair in pairs for name in EVERYONE[:2]]
    rows += [pair | {"labeler": "contrary", "chosen": " no", "rejected": " honey"} for pair in pairs]
    out = fit(data=stages.write_rows(tmp_path / "labelled.jsonl", rows), leave_out=("contrary",))
    metrics = stages.recipe_of(out)["metrics"]
    assert metrics["held_out_labelers_pairs"] == len(pairs)
    assert metrics["accuracy"] == pytest.approx(1 - metrics["held_out_labelers_accuracy"])


def test_a_checkpoint_has_its_metrics_and_calibration_and_can_be_trained_further(fit):
    out = fit(epochs=2, demonstrations="sft.jsonl")
    recipe, last = stages.recipe_of(out), read_lines(out / "metrics.jsonl")[-1]
    assert (recipe["stage"], len(recipe["data"]), last["epoch"]) == ("reward", 2, 2)
    assert last.items() - {("step", 4)} <= recipe["metrics"].items()
    bins = json.loads((out / "final" / "calibration.json").read_text())["bins"]
    assert sum(b["n"] for b in bins) == recipe["metrics"]["pairs"]
    assert all(b["from"] <= b["predicted"] <= b["to"] for b in bins)
    # a finished run returns its metrics
    final, metrics = train(Config(**recipe["config"]))
    assert metrics == recipe["metrics"]
    assert metrics["bias"] == load(str(final), "reward")[0].config.alignbench_reward_bias != 0
    # its head is trained further, its bias is not inherited; the new head of a base model depends on the seed only
    second = fit(model=str(final), lr=0.0)
    assert stages.same_weights(second / "final", final)
    assert load(str(second / "final"), "reward")[0].config.alignbench_reward_bias == 0
    assert "bias" not in stages.recipe_of(second)["metrics"]
    one, same, other = (stages.weights_of(fit(lr=0.0, seed=s) / "final")["score.weight"] for s in (0, 0, 1))
    assert (torch.equal(one, same), torch.equal(one, other)) == (True, False)
    assert one.std().item() == pytest.approx(17**-0.5, rel=0.4)  # InstructGPT's initialisation, of width 16


PAIRS = [(question, answer) for question in stages.QUESTIONS[:2] for answer in (" No. Never mix them.", " Yes", "")]


def raising(prompts, responses):
    raise RuntimeError("no server\nat that address")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p, r: [1.0, math.nan], "nan for the response ' no'"),
        (lambda p, r: [math.inf, 0.0], "inf for the response ' yes'"),
        (lambda p, r: [1.0], "1 scores for 2 responses"),
        (lambda p, r: [1.0, "good"], "ValueError: could not convert"),
        (lambda p, r: [1.0, None], "TypeError: float() argument"),
        (lambda p, r: None, "TypeError: "),
        (lambda p: [1.0, 2.0], "TypeError: "),
        (raising, "RuntimeError: no server"),
    ],
)
def test_a_faulty_reward_is_named_in_one_line(accelerator, function, words):
    line = refusal(lambda: score_all(accelerator, function, "my:score", ["a", "b"], [" yes", " no"]))
    assert line.startswith(f"reward my:score: {words}")


def test_a_function_is_imported_from_the_current_folder_and_gives_numbers_of_any_library(
    folder, tmp_path, monkeypatch, accelerator
):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_reward.py").write_text("def score(prompts, responses:\n")
    assert load_reward("training_rewards:length", accelerator, 64)(["ab"], ["abc"]) == [0.3]
    for spec in ("training_rewards:lengths", "absent_reward:score", "broken_reward:score"):
        assert f"reward {spec}: no such function" in refusal(load_reward, spec, accelerator, 64)
    for scores in ([1, 2.5], np.array([1, 2.5], np.float32), torch.tensor([1, 2.5]), (float(n) for n in (1, 2.5))):
        assert score_all(accelerator, lambda p, r, s=scores: s, "my:score", ["a", "b"], ["c", "d"]) == [1.0, 2.5]


def test_a_reward_model_reads_texts_with_its_own_tokenizer_in_any_order_and_budget(accelerator):
    """Detail 20."""
    own, policys = tiny_tokenizer(bos=False), tiny_tokenizer()
    model, expected = stages.tiny_classifier("gpt2", own), []
    for prompt, response in PAIRS:
        ids = own(prompt + response)["input_ids"]
        assert ids != policys(prompt + response)["input_ids"]
        expected.append(float(stages.score_alone(stages.exact(model), ids, [own.eos_token_id])))
    for budget in (1, 50, 10**6):
        scorer = RewardModel(Scalar(model), own, 512, budget, accelerator)
        assert scorer(*zip(*PAIRS, *PAIRS[::-1], strict=True)) == pytest.approx(expected + expected[::-1], abs=5e-5)


def test_responses_to_one_prompt_compute_it_once_within_the_window(accelerator):
    tokenizer, seen = tiny_tokenizer(), []
    model = stages.tiny_classifier("llama", tokenizer)
    model.model.embed_tokens.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    responses = [" yes", " no", " maybe", " none of the above"]
    size = len(Texts(tokenizer).example(SENTENCES[0], responses))
    for budget in (4096, 16):  # also if the budget is smaller than the example
        seen.clear()
        RewardModel(Scalar(model), tokenizer, None, budget, accelerator)([SENTENCES[0]] * 4, responses)
        assert sum(seen) == size
    scorer = RewardModel(Scalar(model), tokenizer, 12, 64, accelerator)
    assert "window of 12" in refusal(lambda: scorer([SENTENCES[0]], [" yes"]))
