"""Token entropy: of known distributions, of the definition in double precision, and in the two tasks."""

import json
import math
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from cases import cases, write_lines
from commands import assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from standin_server import StandIn
from test_engine import alone
from tiny import save_tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.evaluation.evaluate import check_model, evaluate, prepare
from alignbench.models.distributions import entropies
from alignbench.models.encode import Encoder
from alignbench.models.model import Model
from alignbench.models.remote.endpoint import EndpointEngine
from alignbench.models.remote.vllm import VllmEngine
from alignbench.tasks import find_task
from alignbench.tasks.token_entropy import CHARACTERS, POSITIONS, clean, evenly, passages
from alignbench.types.engine import Loglikelihood, Prompt, Request, Sampling
from alignbench.types.settings import TaskSettings
from alignbench.types.task import Document, Options, Output

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCE = "The {0} barn stands on hill {0} , and two @-@ year @-@ old hens ( all {0} of them ) sleep in it . "
TASKS = ["token_entropy", "token_entropy_on_policy"]


def of_row(logits):
    """Both entropies of one row, in nats."""
    return entropies(torch.as_tensor(logits)[None], [0])[:, 0].tolist()


def by_definition(logits):
    """−Σ p log p in double precision, over all tokens and over the five most likely, renormalised."""
    logits = logits.double()
    parts = (torch.softmax(part, -1) for part in (logits, logits.sort(descending=True).values[:5]))
    return [float(torch.special.entr(part).sum()) for part in parts]


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 5, 127, 128, 640, 641, 1_000, 50_257])
def test_the_entropy_of_equally_likely_tokens_is_the_logarithm_of_their_number_and_of_a_certain_one_zero(vocabulary):
    whole, top = of_row(torch.full((vocabulary,), 3.0))
    assert whole == pytest.approx(math.log(vocabulary), rel=1e-6)
    assert top == pytest.approx(math.log(min(5, vocabulary)), rel=1e-12)
    assert of_row(1_000.0 * torch.eye(1, vocabulary)[0]) == [0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 5, 200, 700, 4_099]), st.floats(0.01, 15), st.floats(-1e3, 1e3))
def test_both_entropies_are_the_definition_in_double_precision(seed, vocabulary, scale, shift):
    logits = (scale * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) + shift).float()
    for own in (logits, logits.round(), logits.bfloat16()):  # with ties, and in half precision
        assert of_row(own) == pytest.approx(by_definition(own), rel=1e-5, abs=1e-6)


def test_a_row_is_bit_identical_whatever_the_other_rows_are_and_no_logit_is_changed():
    logits = torch.randn((37, 50_257), generator=torch.Generator().manual_seed(2))
    before, together = logits.clone(), entropies(logits, range(37))
    for rows in ([], [0], [36], [7, 7, 3], range(20, 29), range(36, -1, -1)):
        assert (entropies(logits, list(rows)) == together[:, list(rows)]).all()
    assert torch.equal(logits, before)
    logits[1, 5], logits[2, 5] = torch.nan, torch.inf
    together[:, 1:3] = torch.nan
    np.testing.assert_array_equal(entropies(logits, range(37)), together)


def wiki_lines():
    """Two articles in WikiText's layout: the first with a section that is too short, then one of three paragraphs."""
    long, short = "".join(SENTENCE.format(n) for n in range(12)), SENTENCE.format(99)
    return [
        *("", " = Old Barn = ", "", f" {short}", "", " = = Hens = = ", "", f" {short}", f" {long}", f" {long}"),
        *("", " = Hay ( grass ) = ", "", f" {short}", " = of no article = ", f" {long}", "", " = = Use = = ", ""),
        *(f" {long}", " "),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "wikitext-2-raw").mkdir()
    (folder / "wikitext-2-raw" / "wiki.test.raw").write_text("\n".join(wiki_lines()), encoding="utf-8")
    (folder / "self-instruct").mkdir()
    row = {"id": "user_oriented_task_1", "instruction": "Name animals.", "instances": [{"input": "", "output": ""}]}
    (folder / "self-instruct" / "user_oriented_instructions.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("raw", "read"), cases("wikitext"))
def test_wikitexts_tokenisation_is_undone(raw, read):
    assert clean(raw) == read
    assert clean(read) == read


def test_a_passage_is_from_one_section_begins_with_a_paragraph_and_is_cut_at_a_space():
    found = list(passages(wiki_lines()))
    assert [article for article, _ in found] == ["Old Barn", "Old Barn", "Hay (grass)", "Hay (grass)"]
    short, long = clean(SENTENCE.format(99)), clean("".join(SENTENCE.format(n) for n in range(12)))
    for (_, text), whole in zip(found, [f"{short}\n{long}", long, long, long], strict=True):
        assert whole.startswith(text)
        assert whole[len(text)] == " "
        assert CHARACTERS - 20 < len(text) <= CHARACTERS
        assert "= " not in text


@given(st.lists(st.integers(), max_size=300, unique=True), st.integers(1, 120))
def test_evenly_selects_items_in_order_with_gaps_that_differ_by_at_most_one(items, n):
    found = evenly(items, n)
    assert len(found) == min(n, len(items))
    gaps = np.diff([items.index(item) for item in found])
    assert (gaps > 0).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_documents_depend_on_no_seed_own_prompts_replace_them_and_a_text_without_passages_is_an_error(folder, tmp_path):
    task = find_task("token_entropy")
    documents = task.load(Options(data_dir=folder)).documents
    assert documents == task.load(Options(data_dir=folder, seed=5)).documents
    assert [document.group for document in documents] == ["Old Barn"] * 2 + ["Hay (grass)"] * 2
    assert {document.prompt for document in documents} == {""}
    own = write_lines(tmp_path / "own.jsonl", [{"id": "mine", "prompt": "Which animal gives wool?"}])
    (document,) = find_task("token_entropy_on_policy").load(Options(data_dir=folder, prompts=own)).documents
    assert (document.id, document.prompt) == ("mine", "Which animal gives wool?")
    (tmp_path / "wikitext-2-raw").mkdir()
    (tmp_path / "wikitext-2-raw" / "wiki.test.raw").write_text(" = Hay = \n\n Hay is dry grass . \n")
    line = r"token_entropy: wiki\.test\.raw has no passage of 600 characters"
    assert_refused(line, task.load, Options(data_dir=tmp_path))


@pytest.mark.needs_data
def test_the_original_test_set_gives_a_hundred_passages_of_many_articles(data_dir):
    data = find_task("token_entropy").load(Options(data_dir=data_dir))
    assert data.provenance[0].pinned
    assert len(data.documents) == 100
    assert len({document.group for document in data.documents}) == 48
    assert all(580 < len(document.choices[0]) <= 600 for document in data.documents)
    assert not any(" @" in document.choices[0] or " ," in document.choices[0] for document in data.documents)
    assert len(find_task("token_entropy_on_policy").load(Options(data_dir=data_dir)).documents) == 100


def test_the_metrics_of_a_passage_are_means_over_its_tokens_in_bits():
    nats = [math.log(2) * bits for bits in (8.0, *[4.0] * 7, *[2.0] * 8, *[1.0] * 16, *[0.5] * 32, *[0.0] * 36)]
    answer = Loglikelihood(-300 * math.log(2), 100, None, tuple(nats), (math.log(5),) * 100)
    found = find_task("token_entropy").score(Document("a", "", choices=("x" * 400,)), [answer])
    expected = {"entropy": 0.84, "top5_entropy": math.log2(5), "surprisal": 3.0, "excess_surprisal": 2.16}
    expected |= {"entropy_per_character": 0.21, "surprisal_per_character": 0.75, "entropy_1": 8, "entropy_2_8": 4}
    assert found == pytest.approx(expected | {"entropy_9_16": 2, "entropy_17_32": 1, "entropy_33_64": 0.5})
    assert set(found) == {metric.name for metric in find_task("token_entropy").metrics}


def test_a_short_output_has_no_metric_of_positions_that_it_does_not_reach_and_none_without_entropies():
    generation, document = find_task("token_entropy_on_policy").generation, Document("a", "Name one.")
    nats = (math.log(2) * np.array([[-1.0, -2.0, -3.0], [4.0, 3.0, 1.0], [1.0, 1.0, 1.0]])).tolist()
    output = Output("A hen.", logprobs=tuple(nats[0]), entropies=tuple(nats[1]), top_entropies=tuple(nats[2]))
    expected = {"entropy": 8 / 3, "top5_entropy": 1, "surprisal": 2, "entropy_1": 4, "entropy_2_8": 2, "words": 2}
    assert generation.score(document, [output]) == pytest.approx(expected)
    found = generation.score(document, [Output("A hen.")])
    assert math.isnan(found["entropy"] + found["top5_entropy"])
    assert POSITIONS[-1][1] == generation.sampling.max_tokens


def test_a_run_on_shared_text_gives_the_entropies_of_a_single_forward_pass(folder, tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    (finished,) = evaluate([str(checkpoint)], TASKS, tmp_path / "runs", data_dir=folder)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    values = {name: [] for name in ("entropy", "top5_entropy", "surprisal", "entropy_per_character")}
    (file,) = finished.folder.glob("token_entropy-*/documents.jsonl")
    for record in map(json.loads, file.read_text().splitlines()):
        (text,) = record["choices"]
        logprob, whole, top = alone(model, tokenizer, Request("", text))
        assert record["tokens"] == [len(whole)]
        assert record["entropies"][0] == pytest.approx(whole, abs=2e-4)
        assert record["top_entropies"][0] == pytest.approx(top, abs=2e-4)
        means = np.mean(whole), np.mean(top), -logprob / len(whole), np.sum(whole) / len(text)
        for name, mean in zip(values, means, strict=True):
            values[name].append(mean / math.log(2))
    result, generated = finished.results
    assert (result.n_scored, generated.n_scored) == (4, 1)
    found = {metric.metric: metric for metric in result.metrics}
    for name, own in values.items():
        assert found[name].value == pytest.approx(np.mean(own), rel=1e-5)
        assert (found[name].unit, found[name].better, found[name].n_clusters) == ("bits", "–", 2)


def test_engines_without_entropies_are_refused_before_any_request(world):
    asked = [Request("", "hay"), Request("", "hens", entropies=True)]
    sampling = Sampling(4, temperature=1.0, top_entropies=True)
    with StandIn() as server:
        engines = (VllmEngine(MagicMock(), Encoder(tiny_tokenizer()), ()), EndpointEngine(server.spec, timeout=5.0))
        server.asked.clear()
        for engine in engines:
            assert_refused("no entropies", lambda engine=engine: next(engine.loglikelihood(asked)))
            assert_refused("no entropies", lambda engine=engine: next(engine.generate([Prompt("a", "hay")], sampling)))
        assert not server.asked
    far = Model("far", {}, chat_template=True, scores=True, entropies=False, open=lambda: None)
    for job in prepare(dict.fromkeys(TASKS, TaskSettings(template="none")), world):
        assert_refused(r"far: task token_entropy.* needs token entropies", check_model, far, [job])
