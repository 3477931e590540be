"""Data cards and their loader: what is read, how errors are reported, and behaviour offline."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import httpx
import pytest
from cases import cases
from commands import assert_one_line_error, assert_refused, refusal, run

import alignbench.data.cards as cards
from alignbench.data import Loaded, card_names, load, read_card
from alignbench.data.fetch import download

CASES = cases("data")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE, WEB = "http://127.0.0.1:9", "http://web"
ROW = '{"q": 1}\n'
HUB_SOURCE = {"hub": "acme/quiz", "revision": COMMIT, "split": "test", "rows": 2}


def file_source(**changes: Any) -> dict[str, Any]:
    source = {"file": "quiz.jsonl", "format": "jsonl", "rows": 1, "sha256": sha256(ROW)} | changes
    return {key: value for key, value in source.items() if value is not None}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rows(folder: Path | None = None, parse: Any = lambda row: row) -> Loaded[Any]:
    return load("quiz", "test", parse, folder)


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, an empty cache, and no hub: nothing of the real machine is used."""
    for name in ("ALIGNBENCH_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", NOWHERE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name -> content of the files at WEB; other hosts are real."""
    files, get = {"q.jsonl": ROW}, httpx.get

    def answer(request: httpx.Request) -> httpx.Response:
        content = files.get(request.url.path.removeprefix("/"))
        return httpx.Response(404) if content is None else httpx.Response(200, text=content)

    fake = httpx.Client(transport=httpx.MockTransport(answer)).get
    monkeypatch.setattr(httpx, "get", lambda url, **options: (fake if WEB in url else get)(url, **options))
    return files


@pytest.fixture
def write_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the only card, "quiz", with these sources of the split "test"."""
    monkeypatch.setattr(cards, "CARDS_DIR", tmp_path)

    def write(*sources: dict[str, Any], **changes: Any) -> Path:
        texts = dict.fromkeys(("name", "title", "folder", "paper", "licence", "citation"), "quiz")
        front = texts | {"homepage": "https://example.org", "splits": {"test": list(sources)}} | changes
        front = {key: value for key, value in front.items() if value is not None}
        (tmp_path / "quiz.md").write_text(f"---\n{json.dumps(front)}\n---\n\nText.\n")
        return tmp_path / "quiz.md"

    return write


def write_local(tmp_path: Path, content: str, name: str = "quiz.jsonl") -> Path:
    """A data folder with a file of the card."""
    file = tmp_path / "data" / "quiz" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return tmp_path / "data"


@pytest.mark.parametrize("name", card_names())
def test_every_card_is_well_formed_and_has_its_sections(name):
    card = read_card(name)
    assert 20 <= len(card.text.splitlines()) <= 60
    assert "## Known flaws" in card.text
    assert "## Contamination" in card.text


def test_what_does_not_exist_gets_a_suggestion_and_a_cache_that_cannot_be_written_a_remedy(tmp_path):
    assert_refused("did you mean 'hellaswag'", read_card, "helaswag")
    line = "'truthfulqa' has no split 'mc_2022': did you mean 'mc_202"
    assert_refused(line, load, "truthfulqa", "mc_2022", dict)
    (tmp_path / "cache").write_text("a file, not a folder")
    file = tmp_path / "cache" / "quiz" / "q"
    assert_refused("set ALIGNBENCH_CACHE", download, f"{NOWHERE}/q", "0" * 64, file)


@pytest.mark.parametrize("case", cases("cards"))
def test_a_malformed_card_is_named_with_the_field(write_card, case):
    card = write_card(file_source(**case.get("source", {})), **case.get("changes", {}))
    if "text" in case:
        card.write_text(case["text"])
    assert case["message"] in refusal(read_card, "quiz")


@pytest.mark.parametrize("content", [ROW, ROW * 2])
def test_a_local_file_is_pinned_only_if_its_sha256_is_the_cards(write_card, tmp_path, content):
    write_card(file_source())
    loaded = rows(write_local(tmp_path, content))
    assert loaded.items == [{"q": 1}] * content.count("\n")
    found = loaded.provenance
    assert (found.pinned, found.revision, found.rows) == (content == ROW, sha256(content), content.count("\n"))
    assert found.source == "quiz.jsonl"  # without the folder: the same on every machine


def test_an_invalid_row_is_named_by_file_and_line(write_card, tmp_path):
    write_card(file_source())
    for content, message in (
        (ROW + '\n{"p": 2}\n', "quiz.jsonl:3: no field 'q'"),
        (ROW + '{"q": "many"}\n', "quiz.jsonl:2: invalid literal for int()"),
        ("\n", "quiz.jsonl: no rows; the card says 1"),
    ):
        line = refusal(rows, write_local(tmp_path, content), lambda row: int(row["q"]))
        assert line.startswith(f"{tmp_path}/data/quiz/{message}")


def test_the_data_folder_is_the_argument_or_the_environments_and_the_first_source_in_it_is_read(
    write_card, tmp_path, monkeypatch
):
    write_card(file_source(file="better.jsonl"), file_source())
    monkeypatch.setenv("ALIGNBENCH_DATA", str(write_local(tmp_path, ROW)))
    assert rows().items == [{"q": 1}]
    write_local(tmp_path, '{"q": 2}\n', "better.jsonl")
    assert rows().items == [{"q": 2}]
    assert_refused("nowhere does not exist", rows, tmp_path / "nowhere")


def test_a_file_is_downloaded_once_and_a_damaged_copy_in_the_cache_replaced(write_card, web, tmp_path):
    write_card(file_source(url=f"{WEB}/q.jsonl"))
    cached = tmp_path / "cache" / "quiz" / "quiz.jsonl"
    cached.parent.mkdir(parents=True)
    cached.write_text('{"q"')
    first = rows()
    assert cached.read_text() == ROW
    web.clear()
    assert rows() == first
    assert first.provenance.pinned


def test_a_constant_is_read_from_python_source_that_is_not_executed(write_card, web, tmp_path):
    web["presets.py"] = f'open({str(tmp_path / "executed")!r}, "w")\nOTHER = 1\nPRIMER = """Q: a\nA: b\n"""\n'
    text = {"format": "text", "sha256": sha256("Q: a\nA: b"), "url": f"{WEB}/presets.py"}
    write_card(file_source(**text, constant="PRIMER"))
    loaded = rows()
    assert loaded.items == [{"text": "Q: a\nA: b"}]
    assert loaded.provenance.pinned
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("source", "message"), CASES["downloads"])
def test_of_a_download_that_is_not_the_pinned_one_nothing_is_kept(write_card, web, tmp_path, source, message):
    web |= {"tampered": '{"q": tampered', "presets.py": "OTHER = 1\n"}
    write_card(file_source(**source))
    assert_refused(message, rows)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("source", "setting", "reason"), CASES["unreachable"])
def test_an_unreachable_source_is_one_line_at_once(write_card, web, tmp_path, monkeypatch, source, setting, reason):
    if setting:
        monkeypatch.setenv(setting, "1")
    write_card(*((file_source(), source) if "hub" in source else (file_source(**source),)))
    began = time.monotonic()
    for folder, place in ((None, "DIR/quiz/ and set ALIGNBENCH_DATA=DIR or pass --data-dir DIR"), (tmp_path, "quiz/")):
        message = refusal(rows, folder)
        for words in (reason, f"put quiz.jsonl into {'' if folder is None else f'{folder}/'}{place}"):
            assert words in message
        assert "'quiz', split 'test'" in message
    assert time.monotonic() - began < 10
    assert not datasets.config.HF_HUB_OFFLINE


def hub_copy(folder: Path, commit: str) -> datasets.Dataset:
    """A split as `datasets` caches one of the hub, under the commit's name."""
    target = folder / "acme___quiz" / "default" / "0.0.0" / commit
    target.mkdir(parents=True)
    split = datasets.Dataset.from_list([{"q": 1}, {"q": 2}])
    split.info.config_name, split.info.dataset_name, split.info.builder_name = "default", "quiz", "parquet"
    split.info.version = datasets.Version("0.0.0")
    split.info.splits = datasets.SplitDict({"test": datasets.SplitInfo("test", num_bytes=16, num_examples=2)})
    split.info.write_to_directory(str(target))
    with datasets.arrow_writer.ArrowWriter(path=str(target / "quiz-test.arrow"), features=split.features) as writer:
        for row in split:
            writer.write(row)
        writer.finalize()
    return datasets.Dataset.from_file(str(target / "quiz-test.arrow"))


@pytest.mark.parametrize("commit", [COMMIT, "f" * 40])
def test_offline_the_hubs_cache_is_read_with_its_own_commit_and_a_folder_of_its_name_is_not_pinned(
    write_card, tmp_path, monkeypatch, commit
):
    write_card(HUB_SOURCE)
    hub_copy(tmp_path / "hub", commit)
    with mock.patch.object(datasets, "load_dataset", wraps=datasets.load_dataset) as asked:
        loaded = rows()
    asked.assert_called_once_with("acme/quiz", None, split="test", revision=COMMIT)
    found = loaded.provenance
    assert (loaded.items, found.source, found.revision) == ([{"q": 1}, {"q": 2}], "acme/quiz", commit)
    assert found.pinned == (commit == COMMIT)
    assert_refused(r"^hub acme/quiz test row 0: no field 'answer'$", rows, parse=lambda row: row["answer"])
    (tmp_path / "acme" / "quiz").mkdir(parents=True)
    (tmp_path / "acme" / "quiz" / "test.jsonl").write_text('{"q": 7}\n')
    monkeypatch.chdir(tmp_path)
    loaded = rows()
    assert (loaded.items, loaded.provenance.revision, loaded.provenance.pinned) == ([{"q": 7}], "unknown", False)


def test_list_and_fetch_show_the_place_of_a_split(write_card, web, tmp_path):
    def shown(*arguments: object) -> str:
        return run("data", *arguments).stdout.splitlines()[1].removeprefix("quiz\ttest\t")

    write_card(file_source(url=f"{WEB}/q.jsonl"))
    assert shown("list") == "1\tquiz\tremote"
    assert shown("fetch") == "fetched: quiz.jsonl"
    assert (tmp_path / "cache" / "quiz" / "quiz.jsonl").read_text() == ROW
    assert shown("fetch") == "cache: quiz.jsonl"
    assert shown("list", "--data-dir", write_local(tmp_path, ROW)) == "1\tquiz\tlocal"
    write_card(file_source(file="other.jsonl"))
    assert shown("list") == "1\tquiz\tmissing"
    assert "cannot be downloaded; put other.jsonl into DIR/quiz/" in shown("fetch")


@pytest.mark.parametrize(("content", "code", "result"), CASES["checked"])
def test_check_reads_local_files_and_fails_on_any_problem(write_card, tmp_path, content, code, result):
    write_card(file_source())
    assert_one_line_error(run("data", "check"))  # nothing to check
    done = run("data", "check", "quiz", "--data-dir", write_local(tmp_path, content))
    assert (done.returncode, result in done.stdout) == (code, True)
