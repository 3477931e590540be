"""Scorers of single texts: a text's numbers do not depend on its batch, and unusable models are refused in one line."""

import hashlib
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from cases import cases
from commands import assert_refused, refusal
from scipy.special import expit, softmax
from scorer_models import DETOXIFY_CLASSES, TEXTS, save_classifier, save_detoxify, stock_logits

from alignbench.errors import AlignbenchError
from alignbench.scorers import DEFAULTS, SCORERS, Item, ScorerIdentity, detoxify, find_scorer
from alignbench.scorers.classifier import sentiment_values, toxic_label

CASES = cases("scorers")
ITEMS = [Item(text) for text in TEXTS]
pytestmark = pytest.mark.usefixtures("one_thread")


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: usable ones, and ones that a scorer has to refuse."""
    folder = tmp_path_factory.mktemp("models")
    save_classifier(folder / "toxic", ("neutral", "toxic"))
    save_classifier(folder / "good", ("good", "bad"))
    save_classifier(folder / "nli", ("contradiction", "entailment", "neutral"), "DebertaV2", positions=40)
    save_classifier(folder / "detoxify", tuple(DETOXIFY_CLASSES))
    for name in ("headless", "pickled"):
        shutil.copytree(folder / "toxic", folder / name)
    transformers.RobertaModel.from_pretrained(folder / "headless").save_pretrained(folder / "headless")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    whole = torch.load(save_detoxify(folder / "incomplete"), weights_only=True)
    del whole["state_dict"]["classifier.out_proj.weight"]
    torch.save(whole, folder / "incomplete" / "toxic.ckpt")
    (folder / "code").mkdir()
    torch.save({"config": Bomb(folder / "code" / "ran"), "state_dict": {}}, folder / "code" / "toxic.ckpt")
    (folder / "nameless.jsonl").write_text('{"prompt_id": "q", "output": "a", "labeler": "ann", "rank": 1}')
    return folder


@pytest.mark.parametrize(("spec", "message"), CASES["unusable"])
def test_an_unusable_scorer_is_refused_in_one_line_and_code_in_a_checkpoint_is_not_run(spec, message, models) -> None:
    assert message in refusal(find_scorer, spec.format(models))
    trace = models / "code" / "ran"
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    trace.unlink()  # unrestricted unpickling made it


def test_the_defaults_are_in_the_table_which_loads_no_torch() -> None:
    assert DEFAULTS["toxicity"] == "toxicity=detoxify-unbiased"
    assert set(DEFAULTS.values()) <= {f"{row.kind}={row.name}" for row in SCORERS}
    program = "import sys, alignbench.cli.scorers; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_labels_are_recognised_by_their_names() -> None:
    for labels, toxic in CASES["toxic_labels"]:
        with nullcontext() if toxic else pytest.raises(AlignbenchError, match="none of its labels"):
            assert toxic_label(labels, "any") == toxic
    for labels, values in CASES["sentiment_labels"]:
        assert sentiment_values(labels) == values, labels


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "DebertaV2"])
def test_probabilities_do_not_depend_on_batch_or_order(architecture: str, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "toxic", ("neutral", "toxic"), architecture)
    scorer = find_scorer(f"toxicity=classifier:{folder}")
    texts = [text * repeats for text in TEXTS for repeats in (1, 2, 3)] * 15  # several batches
    found = scorer.score([Item(text) for text in texts])
    for text, numbers in zip(texts[:15], found, strict=False):
        neutral, toxic = softmax(stock_logits(folder, text, truncation=True, max_length=scorer.reader.window))
        assert numbers["toxicity"] == numbers["toxic"] == pytest.approx(toxic, abs=1e-5)
        assert numbers["neutral"] == pytest.approx(neutral, abs=1e-5)
    backward = scorer.score([Item(text) for text in texts[::-1]])[::-1]
    assert [f["toxicity"] for f in found] == pytest.approx([b["toxicity"] for b in backward], abs=1e-5)
    assert scorer.score([]) == []
    other = save_classifier(tmp_path / "other" / "toxic", ("neutral", "toxic"), architecture, seed=1)
    one, two = map(ScorerIdentity.of, (scorer, find_scorer(f"toxicity=classifier:{other}")))
    assert one.name == two.name == "classifier:toxic[toxic]"
    assert (len(one.revision), one.revision != two.revision) == (64, True)


def test_a_text_beyond_the_window_is_truncated_and_counted_and_a_lone_surrogate_a_question_mark(models: Path) -> None:
    scorer = find_scorer(f"toxicity=classifier:{models / 'toxic'}")
    assert scorer.reader.window == 64  # 67 positions, of which RoBERTa never uses the first three
    fits, long, longer = scorer.score([Item("a" * 62), Item("a" * 63), Item("a" * 500)])
    assert (fits["cut"], long["cut"], longer["cut"]) == (0, 1, 1)
    assert fits["toxicity"] == pytest.approx(long["toxicity"], abs=1e-5) == pytest.approx(longer["toxicity"], abs=1e-5)
    surrogate, mark = scorer.score([Item("a \ud83d b"), Item("a ? b")])
    assert surrogate == mark
    long = "\ud83d" * 60
    assert find_scorer(f"entailment=nli:{models / 'nli'}").score([Item(long, source=long)])[0]["cut"] == 1


def test_independent_labels_have_a_sigmoid_each_and_sentiment_is_an_expected_value(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "a", ("toxicity", "insult"), problem_type="multi_label_classification")
    numbers = find_scorer(f"toxicity=classifier:{folder}").score(ITEMS[:1])[0]
    expected = expit(stock_logits(folder, TEXTS[0]))
    assert [numbers["toxicity"], numbers["insult"]] == pytest.approx(expected, abs=1e-5)
    folder = save_classifier(tmp_path / "b", ("negative", "neutral", "positive"))
    low, _, high = softmax(stock_logits(folder, TEXTS[0]))
    numbers = find_scorer(f"sentiment=classifier:{folder}").score(ITEMS[:1])[0]
    assert numbers["sentiment"] == pytest.approx(high - low, abs=1e-5)


def test_a_checkpoint_scores_as_in_detoxify_itself(models: Path, tmp_path: Path) -> None:
    from detoxify import Detoxify

    file = save_detoxify(tmp_path, config_labels=8)
    theirs = Detoxify(checkpoint=str(file), huggingface_config_path=str(tmp_path)).predict(list(TEXTS))
    ours = find_scorer(f"toxicity=detoxify-unbiased:{file}").score(ITEMS)
    assert set(theirs) == set(ours[0]) - {"cut"}
    for label, values in theirs.items():
        assert [numbers[label] for numbers in ours] == pytest.approx(values, abs=1e-5)
    # with the base model's own configuration of two labels, given by file or by folder
    save_detoxify(tmp_path)
    for place in (file, tmp_path):
        scorer = find_scorer(f"toxicity=detoxify-original:{place}")
        assert (scorer.name, scorer.score(ITEMS)) == ("detoxify-original", ours)
    # a folder with safetensors
    scorer = find_scorer(f"toxicity=detoxify-original:{models / 'detoxify'}")
    numbers, expected = scorer.score(ITEMS)[0], expit(stock_logits(models / "detoxify", TEXTS[0]))
    assert scorer.name == "detoxify-original"
    assert [numbers["toxicity"], numbers["identity_attack"]] == pytest.approx(expected[[0, 5]], abs=1e-5)


def test_cached_weights_are_used_after_their_hash_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, file, _ = detoxify.published("detoxify-unbiased")
    save_detoxify(file.parent).rename(file)
    assert_refused(r"has sha256 .* not c7548aa0", find_scorer, "toxicity=detoxify-unbiased")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(detoxify.SHA256, "unbiased", sha256[:8])
    assert find_scorer("toxicity=detoxify-unbiased").revision == sha256


def test_missing_weights_are_one_line_with_the_address_and_alternatives(tmp_path: Path, monkeypatch) -> None:
    from detoxify.detoxify import MODEL_URLS

    assert detoxify.BASES.keys() == MODEL_URLS.keys()
    assert {f"detoxify-{name}" for name in MODEL_URLS} <= {row.name for row in SCORERS}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refusal(find_scorer, "toxicity=detoxify-unbiased")
    for part in (MODEL_URLS["unbiased"], "toxicity=detoxify-unbiased:/path/to/", "toxicity=alt-profanity-check"):
        assert part in message


def test_scorers_without_a_download_separate_insult_and_praise_from_other_lines() -> None:
    scorer = find_scorer("toxicity=alt-profanity-check")
    insult, polite = scorer.score([Item("What a stupid idiot, fuck you."), Item("Thank you for your kind letter.")])
    assert polite["toxicity"] < 0.2 < 0.9 < insult["toxicity"]
    assert (scorer.score([]), scorer.score(ITEMS)[2]) == ([], scorer.score([ITEMS[2]])[0])
    pytest.importorskip("textblob", reason="the extra `sentiment` is not installed")
    texts = ("A wonderful, lovely day.", "A terrible, awful day.", "Not good.", "")
    found = find_scorer("sentiment=textblob").score([Item(text) for text in texts])
    praise, blame, denied, nothing = (numbers["sentiment"] for numbers in found)
    assert blame < -0.4 < denied < 0 == nothing < 0.4 < praise
