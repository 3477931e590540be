"""Samples of an endpoint are from the model's own distribution, or the run says that they are not."""

import json
import math

import numpy as np
import pytest
from standin_server import StandIn
from test_cli_generation import write_lines
from test_endpoint import DRAWN, PROMPTS, connected

from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.models.remote.replies import Choice
from alignbench.models.remote.sampling import NEUTRAL, measure

P = np.exp(-np.arange(60) / 12)
P /= P.sum()


def choices(change, tokens=64, number=40, shown=5):
    """Texts drawn from P as `change`d (probabilities, tokens so far), with the unmodified log-probabilities."""
    random = np.random.default_rng(0)
    top = tuple((f"t{i}", math.log(p)) for i, p in enumerate(P[:shown]))
    found = []
    for _ in range(number):
        text = []
        for _ in range(tokens):
            p = change(P.copy(), text)
            text.append(int(random.choice(len(P), p=p / p.sum())))
        pieces = tuple(f"t{i}" for i in text)
        found.append(Choice("".join(pieces), "length", None, pieces, tuple(np.log(P[text])), top=(top,) * tokens))
    return found


def cut(kept):
    return lambda p, _: np.where(np.arange(len(P)) < kept, p, 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda p, _: p, "unmodified"),
        (cut(20), "modified"),  # top_k
        (lambda p, _: np.where(p > 0.3 * p.max(), p, 0), "modified"),  # min_p
        (lambda p, _: p**0.7, "modified"),  # temperature
        (lambda p, text: np.where(np.isin(np.arange(len(P)), text), p / 5, p), "modified"),  # repetition_penalty
    ],
)
def test_a_modified_distribution_is_noticed_from_the_texts(change, found):
    assert measure(choices(change)).startswith(found)


def test_too_few_tokens_decide_nothing():
    assert measure(choices(lambda p, _: p, number=1, tokens=8)) is None
    assert measure(choices(lambda p, _: p, shown=4)) is None


@pytest.mark.parametrize("refused", [[], ["top_k", "min_p", "mirostat"], ["generation_config"]])
def test_what_a_server_accepts_is_sent_with_every_request_and_recorded(refused):
    with connected(refused=refused) as (server, engine):
        list(engine.generate(PROMPTS[:2], DRAWN))
        accepted, _ = engine.sampling(False, False)
    assert accepted == sorted(NEUTRAL.keys() - set(refused))
    for _, body, _ in server.asked:
        assert {name: body[name] for name in NEUTRAL if name in body} == {name: NEUTRAL[name] for name in accepted}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"top_k": 0}, "unmodified (reported"),
        ({"top_k": 40, "min_p": 0.05}, "modified (reported: top_k 40, min_p 0.05)"),
        (None, "not verified"),
    ],
)
def test_a_server_that_reports_its_settings_is_verified_by_them(settings, found):
    notes = []
    with connected({"notify": notes.append}, used=settings) as (_, engine):
        assert engine.sampling(True, True)[1].startswith(found)
        assert found in engine.work()["distribution"]
    assert any(found in note for note in notes) == (not found.startswith("unmodified"))


def test_diversity_of_a_modified_distribution_is_measured_only_if_the_user_allows_it(tmp_path):
    write_lines(tmp_path / "p.jsonl", [{"id": "1", "prompt": "Tell me."}])
    with StandIn(used={"top_k": 40}) as server:
        with pytest.raises(AlignbenchError, match=r"top_k 40\); change the server, or set --allow-server-sampling"):
            evaluate([server.spec], ["personas"], tmp_path / "runs", limit=1)
        assert not (tmp_path / "runs").exists()
        (run,) = evaluate([server.spec], ["personas"], tmp_path / "runs", limit=1, allow_server_sampling=True)
        server.behaviour.used = None
        with pytest.raises(AlignbenchError, match="not verified"):
            evaluate([server.spec], ["personas"], tmp_path / "runs", limit=1)
        server.behaviour.used = {}
        (other,) = evaluate([server.spec], ["personas"], tmp_path / "runs", limit=1)
    found = [json.loads((own.folder / own.folders[0] / "task.json").read_text()) for own in (run, other)]
    assert found[0]["server_sampling"] == {"neutral": sorted(NEUTRAL), "distribution": "modified"}
    assert found[1]["server_sampling"] == {"neutral": sorted(NEUTRAL)}
    assert run.folders != other.folders


def test_a_server_that_answers_under_any_name_is_reported_and_recorded():
    notes = []
    with connected({"notify": notes.append}, models=["other.gguf"]) as (_, engine):
        assert engine.identity()["reported"] == "farm-1-2026-01-01, other.gguf"
    assert any("it answers as 'farm-1', but its models are other.gguf" in note for note in notes)
