"""Token entropy: of known distributions, of the plain formula in double precision, and through the two tasks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from standin_server import StandIn
from tiny import save_tiny_checkpoint, tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from alignbench.cli.app import app
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import _check, evaluate, prepare
from alignbench.models.encode import Encoder
from alignbench.models.endpoint import connect
from alignbench.models.entropy import entropies, top_entropies
from alignbench.models.model import Model
from alignbench.models.vllm import VllmEngine
from alignbench.tasks import find_task
from alignbench.tasks.token_entropy import CHARACTERS, POSITIONS, clean, evenly, passages
from alignbench.types.engine import Loglikelihood, Prompt, Request, Sampling
from alignbench.types.task import Document, Options, Output

SENTENCE = "The {0} barn stands on hill {0} , and two @-@ year @-@ old hens ( all {0} of them ) sleep in it . "


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def of_row(logits):
    """Both entropies of one row, in nats."""
    whole, top = entropies(torch.as_tensor(logits, dtype=torch.float32)[None], [0])
    return whole[0], top[0]


def by_definition(logits):
    """−Σ p log p in double precision, over all tokens and over the five likeliest, renormalised."""
    logits = np.asarray(logits, np.float64)
    found = []
    for kept in (logits, np.sort(logits)[::-1][:5]):
        p = np.exp(kept - kept.max())
        p /= p.sum()
        found.append(-sum(x * math.log(x) for x in p if x > 0))
    return found


# ---- entropies of known distributions ------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 5, 127, 128, 640, 641, 1_000, 50_257])
def test_of_equally_likely_tokens_it_is_the_logarithm_of_their_number(vocabulary):
    whole, top = of_row(torch.full((vocabulary,), 3.0))
    assert whole == pytest.approx(math.log(vocabulary), rel=1e-6)
    assert top == pytest.approx(math.log(min(5, vocabulary)), rel=1e-12)


def test_of_a_certain_token_it_is_zero_and_never_less():
    logits = torch.zeros(50_257)
    logits[17] = 1_000.0
    assert of_row(logits) == (0.0, 0.0)
    assert of_row([5.0]) == (0.0, 0.0)


def test_a_token_that_cannot_come_has_no_part_in_it():
    logits = torch.full((1_000,), -torch.inf)
    logits[[3, 400, 999]] = torch.tensor([0.5, -1.0, 2.0])
    assert of_row(logits) == pytest.approx(by_definition([0.5, -1.0, 2.0]), rel=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_where_a_logit_is_no_number_it_is_none_and_its_neighbours_are_as_before(value):
    logits = torch.randn((3, 1_000), generator=torch.Generator().manual_seed(0))
    whole, top = entropies(logits, [0, 2])
    logits[1, 5] = value
    found_whole, found_top = entropies(logits, [0, 1, 2])
    assert np.isnan([found_whole[1], found_top[1]]).all()
    assert (found_whole[[0, 2]] == whole).all()
    assert (found_top[[0, 2]] == top).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 5, 200, 700, 4_099]), st.floats(0.01, 15), st.floats(-1e3, 1e3))
def test_both_are_the_definition_in_double_precision(seed, vocabulary, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(vocabulary, generator=generator) + shift).float()
    assert of_row(logits) == pytest.approx(by_definition(logits.double()), rel=1e-5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3_000), st.booleans())
def test_the_likeliest_five_are_those_that_sorting_finds(seed, vocabulary, with_ties):
    logits = torch.randn((4, vocabulary), generator=torch.Generator().manual_seed(seed))
    logits = logits.round() if with_ties else logits
    best = torch.log_softmax(logits.double().sort(-1, descending=True).values[:, :5], -1)
    assert top_entropies(logits).tolist() == pytest.approx((-(best.exp() * best).sum(-1)).tolist(), abs=1e-12)


def test_in_bfloat16_it_is_that_of_the_rounded_logits():
    logits = (4 * torch.randn((1, 2_000), generator=torch.Generator().manual_seed(1))).bfloat16()
    whole, top = entropies(logits, [0])
    assert (whole[0], top[0]) == pytest.approx(tuple(by_definition(logits[0].double())), rel=1e-5)


def test_a_row_is_the_same_to_the_last_bit_whatever_rows_stand_beside_it():
    logits = torch.randn((37, 50_257), generator=torch.Generator().manual_seed(2))
    together = np.stack(entropies(logits, range(37)))
    for rows in ([0], [36], [7, 7, 3], range(20, 29), range(36, -1, -1)):
        assert (np.stack(entropies(logits, list(rows))) == together[:, list(rows)]).all()


class Sizes(TorchDispatchMode):
    """Counts the elements of every tensor that is made while it is open."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.made += [t.numel() for t in (found if isinstance(found, tuple) else (found,)) if torch.is_tensor(t)]
        return found


def test_no_copy_of_the_logits_is_made_and_they_are_left_as_they_were():
    logits = torch.randn((300, 20_000))
    before = logits.clone()
    with Sizes() as sizes:
        entropies(logits, range(300))
    assert max(sizes.made) <= 2**18
    assert torch.equal(logits, before)
    with Sizes() as sizes:
        entropies(logits, [])
    assert sizes.made == []


# ---- the shared text -----------------------------------------------------------------------------------------------


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
    rows = [
        {
            "id": f"user_oriented_task_{n}",
            "instruction": f"Name {n} animals.",
            "instances": [{"input": "", "output": ""}],
        }
        for n in range(6)
    ]
    path = folder / "self-instruct" / "user_oriented_instructions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (" He was 1 @.@ 5 m tall , a two @-@ metre man . ", "He was 1.5 m tall, a two-metre man."),
        ("It cost $ 1 @,@ 000 ( about £ 600 ) ; too much !", "It cost $1,000 (about £600); too much!"),
        ('He said " no " , then " I can \'t " .', 'He said "no", then "I can\'t".'),
        ("the cow 's milk , the cows ' milk", "the cow's milk, the cows ' milk"),
        ("95 km / h [ sic ] – 50 % : fast", "95 km/h [sic] – 50%: fast"),
        ('an odd " quote', 'an odd " quote'),
    ],
)
def test_wikitexts_spaces_and_marks_are_undone(raw, read):
    assert clean(raw) == read
    assert clean(read) == read


def test_a_passage_is_of_one_section_begins_with_a_paragraph_and_is_cut_at_a_space():
    found = list(passages(wiki_lines()))
    assert [article for article, _ in found] == ["Old Barn", "Old Barn", "Hay (grass)", "Hay (grass)"]
    short, long = clean(SENTENCE.format(99)), clean("".join(SENTENCE.format(n) for n in range(12)))
    wholes = [f"{short}\n{long}", long, long, long]
    for (_, text), whole in zip(found, wholes, strict=True):
        assert whole.startswith(text)
        assert whole[len(text)] == " "
        assert CHARACTERS - 20 < len(text) <= CHARACTERS
        assert "= " not in text


@given(st.lists(st.integers(), max_size=300, unique=True), st.integers(1, 120))
def test_evenly_takes_that_many_in_their_order_and_leaves_gaps_that_differ_by_one(items, n):
    found = evenly(items, n)
    assert len(found) == min(n, len(items))
    places = [items.index(item) for item in found]
    gaps = np.diff(places)
    assert (gaps > 0).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_every_model_reads_the_same_documents_whatever_the_seed(folder):
    task = find_task("token_entropy")
    documents = task.load(Options(data_dir=folder)).documents
    assert documents == task.load(Options(data_dir=folder, seed=5)).documents
    assert [document.group for document in documents] == ["Old Barn"] * 2 + ["Hay (grass)"] * 2
    assert {document.prompt for document in documents} == {""}


def test_a_text_without_a_passage_is_an_error_of_one_line(tmp_path):
    (tmp_path / "wikitext-2-raw").mkdir()
    (tmp_path / "wikitext-2-raw" / "wiki.test.raw").write_text(" = Hay = \n\n Hay is dry grass . \n")
    with pytest.raises(AlignbenchError, match=r"token_entropy: wiki\.test\.raw has no passage of 600 characters"):
        find_task("token_entropy").load(Options(data_dir=tmp_path))


@pytest.mark.needs_data
def test_the_authors_test_set_gives_a_hundred_passages_of_many_articles(data_dir):
    data = find_task("token_entropy").load(Options(data_dir=data_dir))
    assert data.provenance[0].pinned
    assert len(data.documents) == 100
    assert len({document.group for document in data.documents}) == 48
    assert all(580 < len(document.choices[0]) <= 600 for document in data.documents)
    assert not any(" @" in document.choices[0] or " ," in document.choices[0] for document in data.documents)
    assert len(find_task("token_entropy_on_policy").load(Options(data_dir=data_dir)).documents) == 100


# ---- what is made of them ------------------------------------------------------------------------------------------


def test_a_passages_numbers_are_means_over_its_tokens_in_bits():
    nats = [math.log(2) * bits for bits in (8.0, *[4.0] * 7, *[2.0] * 8, *[1.0] * 16, *[0.5] * 32, *[0.0] * 36)]
    answer = Loglikelihood(-300 * math.log(2), 100, None, tuple(nats), (math.log(5),) * 100)
    found = find_task("token_entropy").score(Document("a", "", choices=("x" * 400,)), [answer])
    assert found == pytest.approx(
        {"entropy": 0.84, "top5_entropy": math.log2(5), "surprisal": 3.0, "excess_surprisal": 2.16}
        | {"entropy_per_character": 0.21, "surprisal_per_character": 0.75}
        | {"entropy_1": 8, "entropy_2_8": 4, "entropy_9_16": 2, "entropy_17_32": 1, "entropy_33_64": 0.5}
    )
    assert set(found) == {metric.name for metric in find_task("token_entropy").metrics}


def test_a_short_output_has_no_number_for_the_stretches_that_it_does_not_reach():
    score = find_task("token_entropy_on_policy").generation.score
    log2 = math.log(2)
    nats = [tuple(log2 * x for x in bits) for bits in ((-1.0, -2.0, -3.0), (4.0, 3.0, 1.0), (1.0, 1.0, 1.0))]
    written = Output("A hen.", logprobs=nats[0], entropies=nats[1], top_entropies=nats[2])
    assert score(Document("a", "Name one."), [written]) == pytest.approx(
        {"entropy": 8 / 3, "top5_entropy": 1, "surprisal": 2, "entropy_1": 4, "entropy_2_8": 2, "words": 2}
    )


def test_without_entropies_an_output_is_not_told_to_be_certain():
    found = find_task("token_entropy_on_policy").generation.score(Document("a", "Name one."), [Output("A hen.")])
    assert math.isnan(found["entropy"])
    assert math.isnan(found["top5_entropy"])


def test_the_stretches_cover_what_may_be_written_without_a_gap():
    assert [first for first, _ in POSITIONS] == [1, *(last + 1 for _, last in POSITIONS[:-1])]
    assert POSITIONS[-1][1] == find_task("token_entropy_on_policy").generation.sampling.max_tokens


# ---- whole runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def records_of(run_folder, task):
    (folder,) = run_folder.glob(f"{task}-*")
    return [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]


TASKS = ["token_entropy", "token_entropy_on_policy"]


@pytest.fixture(scope="module")
def finished(checkpoint, folder, tmp_path_factory):
    (result,) = evaluate([str(checkpoint)], TASKS, tmp_path_factory.mktemp("runs"), data_dir=folder)
    return result


def test_a_run_on_shared_text_is_the_plain_forward_pass_in_double_precision(finished, checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    values = {name: [] for name in ("entropy", "top5_entropy", "surprisal", "entropy_per_character")}
    for record in records_of(finished.folder, "token_entropy"):
        ids = tokenizer(record["choices"][0]).input_ids  # begins with the start token
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double()
        whole, top = map(np.array, zip(*map(by_definition, logits.numpy()), strict=True))
        assert record["tokens"] == [len(ids) - 1]
        assert record["entropies"][0] == pytest.approx(whole.tolist(), abs=2e-4)
        assert record["top_entropies"][0] == pytest.approx(top.tolist(), abs=2e-4)
        logprob = torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].sum().item()
        values["entropy"].append(whole.mean() / math.log(2))
        values["top5_entropy"].append(top.mean() / math.log(2))
        values["surprisal"].append(-logprob / math.log(2) / len(whole))
        values["entropy_per_character"].append(whole.sum() / math.log(2) / len(record["choices"][0]))
    result, _ = finished.results
    assert result.n_scored == 4
    found = {metric.metric: metric for metric in result.metrics}
    for name, own in values.items():
        assert found[name].value == pytest.approx(np.mean(own), rel=1e-5)
        assert (found[name].unit, found[name].better, found[name].n_clusters) == ("bits", "–", 2)
    assert found["excess_surprisal"].value == pytest.approx(found["surprisal"].value - found["entropy"].value)


def test_a_run_of_the_models_own_text_has_one_number_a_token(finished):
    _, result = finished.results
    records = records_of(finished.folder, "token_entropy_on_policy")
    assert [record["prompt"] for record in records] == [f"Name {n} animals." for n in range(6)]
    for record in records:
        (output,) = record["outputs"]
        assert len(output["tokens"]) == len(output["entropies"]) == len(output["top_entropies"]) > 0
        assert record["entropy"] == pytest.approx(np.mean(output["entropies"]) / math.log(2))
        assert record["top5_entropy"] == pytest.approx(np.mean(output["top_entropies"]) / math.log(2))
        assert record["surprisal"] == pytest.approx(-np.mean(output["logprobs"]) / math.log(2))
        assert 0 <= record["top5_entropy"] <= math.log2(5)
    assert result.n_scored == 6


def test_a_second_run_in_other_batches_gives_the_same_text_and_entropies(finished, checkpoint, folder, tmp_path):
    (again,) = evaluate([str(checkpoint)], TASKS, tmp_path / "a", data_dir=folder)
    (other,) = evaluate([str(checkpoint)], TASKS, tmp_path / "b", data_dir=folder, token_budget=96)
    for task in TASKS:
        assert records_of(again.folder, task) == records_of(finished.folder, task)
    for one, two in zip(finished.results, other.results, strict=True):
        for metric, same in zip(one.metrics, two.metrics, strict=True):
            assert same.value == pytest.approx(metric.value, rel=1e-4)


def test_a_limit_draws_some_of_the_documents(checkpoint, folder, tmp_path):
    (limited,) = evaluate([str(checkpoint)], TASKS, tmp_path, data_dir=folder, limit=2)
    assert [result.n for result in limited.results] == [2, 2]


def test_the_command_line_prints_both_and_takes_prompts_of_ones_own(checkpoint, folder, tmp_path):
    words = ["evaluate", checkpoint, "--tasks", ",".join(TASKS), "--data-dir", folder, "--out", tmp_path / "runs"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    cells = [line.split("\t") for line in done.stdout.splitlines()]
    assert {(row[1], row[2]) for row in cells if row[1:2] and row[1] in TASKS} >= {
        (task, metric) for task in TASKS for metric in ("entropy", "top5_entropy", "surprisal", "entropy_33_64")
    }
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "mine", "prompt": "Which animal gives wool?"}\n')
    documents = find_task("token_entropy_on_policy").load(Options(data_dir=folder, prompts=own)).documents
    assert [(document.id, document.prompt) for document in documents] == [("mine", "Which animal gives wool?")]


# ---- engines that cannot tell --------------------------------------------------------------------------------------


def test_vllm_says_at_once_that_it_tells_no_entropies():
    engine = VllmEngine(None, Encoder(tiny_tokenizer()), window=64)
    with pytest.raises(AlignbenchError, match="no entropies: use the local engine"):
        next(engine.loglikelihood([Request("", "hay"), Request("", "hens", entropies=True)]))
    with pytest.raises(AlignbenchError, match="no entropies: use the local engine"):
        next(engine.generate([Prompt("a", "hay")], Sampling(4, temperature=1.0, top_entropies=True)))


def test_an_endpoint_says_at_once_that_it_tells_no_entropies():
    with StandIn() as standin:
        engine = connect(standin.spec, timeout=5.0)
        standin.asked.clear()
        with pytest.raises(AlignbenchError, match="tells no entropies of its tokens; use a local checkpoint"):
            next(engine.loglikelihood([Request("The hive", " hums", entropies=True)]))
        with pytest.raises(AlignbenchError, match="tells no entropies of its tokens; use a local checkpoint"):
            next(engine.generate([Prompt("a", "hay")], Sampling(4, temperature=1.0, top_entropies=True)))
        assert not standin.asked
        engine.close()


@pytest.mark.parametrize("name", ["token_entropy", "token_entropy_on_policy"])
def test_an_engine_that_tells_no_entropies_is_refused_before_any_work(world, name):
    (job,) = prepare([name], limit=None, shots=None, seed=0, data_dir=world)
    endpoint = Model("far", {}, chat_template=True, scores=True, entropies=False, open=lambda: None)
    with pytest.raises(AlignbenchError, match=f"far: task {name} needs token entropies"):
        _check(endpoint, [job], "none")
