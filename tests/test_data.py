"""Data cards and their loader: what is read, how errors are reported, and behaviour offline."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from typer.testing import CliRunner

import alignbench.data.cards as cards
from alignbench.cli.data import app
from alignbench.data import card_names, load, read_card
from alignbench.data.fetch import download
from alignbench.data.tables import read_rows
from alignbench.errors import AlignbenchError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"
ROW = b'{"q": 1}\n'


def as_is(row: dict[str, Any]) -> dict[str, Any]:
    return row


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def own_machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, an empty cache, no proxy, and no hub: nothing of the real machine is used."""
    if request.node.get_closest_marker("needs_data"):
        return  # the fixture data_dir may use the real settings
    for name in ("ALIGNBENCH_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", NOWHERE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and its folder with the file q.jsonl."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "q.jsonl").write_bytes(ROW)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}", folder
        web.shutdown()
        thread.join()


@pytest.fixture
def write_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the only card, "quiz", with these sources of the split "test"."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(cards, "CARDS_DIR", folder)

    def write(*sources: dict[str, Any], **changes: Any) -> None:
        front = {
            "name": "quiz", "title": "A quiz", "folder": "quiz", "paper": "arXiv:0000.00000",
            "homepage": "https://example.org", "licence": "MIT", "citation": "Nobody 2020",
            "splits": {"test": list(sources)},
        }  # fmt: skip
        front = {key: value for key, value in (front | changes).items() if value is not None}
        (folder / "quiz.md").write_text(f"---\n{json.dumps(front)}\n---\n\nText.\n", encoding="utf-8")

    return write


@pytest.fixture
def write_local(tmp_path: Path) -> Any:
    """A function that writes quiz/quiz.jsonl into a data folder, and returns that folder."""

    def write(content: str) -> Path:
        (tmp_path / "data" / "quiz").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "quiz" / "quiz.jsonl").write_text(content, encoding="utf-8")
        return tmp_path / "data"

    return write


def file_source(url: str | None = None, **changes: Any) -> dict[str, Any]:
    source = {"file": "quiz.jsonl", "format": "jsonl", "rows": 1, "sha256": sha256(ROW)}
    return source | ({"url": url} if url else {}) | changes


HUB_SOURCE = {"hub": "acme/quiz", "revision": COMMIT, "split": "test", "rows": 2}


# ---- cards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", card_names())
def test_every_card_is_well_formed_and_has_its_sections(name):
    card = read_card(name)
    assert 20 <= len(card.text.splitlines()) <= 60
    assert "## Known flaws" in card.text
    assert "## Contamination" in card.text


def test_an_unknown_card_or_split_gets_a_suggestion():
    with pytest.raises(AlignbenchError, match="did you mean 'hellaswag'"):
        read_card("helaswag")
    with pytest.raises(AlignbenchError, match="'truthfulqa' has no split 'mc_2022': did you mean 'mc_202"):
        load("truthfulqa", "mc_2022", as_is)


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ([file_source()], {"licence": None}, "quiz.md: field 'licence' is missing"),
        ([file_source()], {"licence": 3}, "quiz.md: field 'licence' is 3"),
        ([file_source()], {"name": "other"}, "quiz.md: field 'name' is 'other'"),
        ([file_source()], {"extra": "x"}, "quiz.md: unknown field 'extra'"),
        ([file_source()], {"splits": {"test": []}}, "quiz.md: field 'splits.test' must be a list"),
        ([file_source(format="xml")], {}, "quiz.md: splits.test[0]: field 'format' is 'xml'"),
        ([file_source(sha256="abc")], {}, "splits.test[0]: field 'sha256' is 'abc'"),
        ([file_source(rows="many")], {}, "splits.test[0]: field 'rows' is 'many'"),
        ([{"file": "f", "format": "csv", "rows": 1, "url": "http://x"}], {}, "field 'sha256' is missing"),
        ([HUB_SOURCE | {"revision": "main"}], {}, "splits.test[0]: field 'revision' is 'main'"),
        ([file_source(), {"rows": 1}], {}, "splits.test[1]: a source must be a mapping with one of"),
    ],
)
def test_a_malformed_card_is_named_with_the_field(write_card, sources, changes, message):
    write_card(*sources, **changes)
    with pytest.raises(AlignbenchError) as caught:
        read_card("quiz")
    assert message in str(caught.value)


# ---- local files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "pinned"), [('{"q": 1}\n', True), ('{"q": 1}\n{"q": 2}\n', False)])
def test_a_local_file_is_pinned_only_if_its_sha256_is_the_cards(write_card, write_local, content, pinned):
    write_card(file_source())
    loaded = load("quiz", "test", as_is, write_local(content))
    assert loaded.items == [json.loads(line) for line in content.splitlines()]
    found = loaded.provenance
    assert (found.pinned, found.revision, found.rows) == (pinned, sha256(content.encode()), content.count("\n"))
    assert found.source == "quiz.jsonl"  # without the folder: the same on every machine


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"q": 1}\n\n{"p": 2}\n', "quiz.jsonl:3: no field 'q'"),
        ('{"q": 1}\n{"q": "many"}\n', "quiz.jsonl:2: invalid literal for int()"),
        ("\n", "quiz.jsonl: no rows; the card says 1"),
    ],
)
def test_an_invalid_row_is_named_by_file_and_line(write_card, write_local, content, message):
    write_card(file_source())
    folder = write_local(content)
    with pytest.raises(AlignbenchError) as caught:
        load("quiz", "test", lambda row: int(row["q"]), folder)
    assert str(caught.value).startswith(f"{folder}/quiz/{message}")


def test_the_data_folder_is_the_argument_or_the_environments_and_the_first_source_in_it_is_read(
    write_card, write_local, tmp_path, monkeypatch
):
    write_card(file_source(file="better.jsonl"), file_source())
    monkeypatch.setenv("ALIGNBENCH_DATA", str(write_local('{"q": 1}\n')))
    assert load("quiz", "test", as_is).items == [{"q": 1}]
    (tmp_path / "data" / "quiz" / "better.jsonl").write_text('{"q": 2}\n')
    assert load("quiz", "test", as_is).items == [{"q": 2}]
    with pytest.raises(AlignbenchError, match="nowhere does not exist"):
        load("quiz", "test", as_is, tmp_path / "nowhere")


# ---- downloads -----------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once_and_a_damaged_copy_in_the_cache_replaced(write_card, server, tmp_path):
    address, web = server
    write_card(file_source(f"{address}/q.jsonl"))
    cached = tmp_path / "cache" / "quiz" / "quiz.jsonl"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b'{"q"')
    first = load("quiz", "test", as_is)
    assert cached.read_bytes() == ROW
    (web / "q.jsonl").unlink()
    assert load("quiz", "test", as_is) == first
    assert first.provenance.pinned


def test_a_download_with_another_sha256_is_rejected_and_nothing_is_kept(write_card, server, tmp_path):
    address, web = server
    (web / "q.jsonl").write_bytes(b'{"q": "tampered"}\n')
    write_card(file_source(f"{address}/q.jsonl"))
    with pytest.raises(AlignbenchError, match=r"q\.jsonl: sha256 is .*nothing was kept"):
        load("quiz", "test", as_is)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_constant_is_read_from_python_source_that_is_not_executed(write_card, server, tmp_path):
    address, web = server
    executed = tmp_path / "executed"
    (web / "presets.py").write_text(f'open({str(executed)!r}, "w")\nOTHER = 1\nPRIMER = """Q: a\nA: b\n"""\n')
    text = {"format": "text", "sha256": sha256(b"Q: a\nA: b"), "url": f"{address}/presets.py"}
    write_card(file_source(**text, constant="PRIMER"))
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"text": "Q: a\nA: b"}]
    assert loaded.provenance.pinned
    assert not executed.exists()
    write_card(file_source(**text, constant="ABSENT", file="other.txt"))
    with pytest.raises(AlignbenchError, match="no text constant ABSENT"):
        load("quiz", "test", as_is)


def test_a_cache_that_cannot_be_written_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(AlignbenchError, match="set ALIGNBENCH_CACHE"):
        download(f"{NOWHERE}/q", "0" * 64, tmp_path / "cache" / "quiz" / "q")


# ---- missing data and the hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "setting", "reason"),
    [
        ("server", "HF_HUB_OFFLINE", "q.jsonl not requested (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set)"),
        (NOWHERE, None, f"{NOWHERE}/gone.jsonl could not be fetched"),
        ("server", None, "gone.jsonl answered 404"),
        ("hub", "HF_DATASETS_OFFLINE", "HF_DATASETS_OFFLINE is set"),
        ("hub", None, f"{NOWHERE} does not answer"),
    ],
)
def test_an_unreachable_source_is_one_line_at_once(write_card, server, tmp_path, monkeypatch, source, setting, reason):
    if setting:
        monkeypatch.setenv(setting, "1")
    if source == "hub":
        write_card(file_source(), HUB_SOURCE)
    else:
        file = "q.jsonl" if setting else "gone.jsonl"
        write_card(file_source(f"{server[0] if source == 'server' else source}/{file}"))
    began = time.monotonic()
    for folder, place in ((None, "DIR/quiz/ and set ALIGNBENCH_DATA=DIR or pass --data-dir DIR"), (tmp_path, "quiz/")):
        with pytest.raises(AlignbenchError) as caught:
            load("quiz", "test", as_is, folder)
        message = str(caught.value)
        assert "'quiz', split 'test'" in message
        assert reason in message
        assert f"put quiz.jsonl into {'' if folder is None else f'{folder}/'}{place}" in message
        assert "\n" not in message
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


def test_a_hub_split_is_requested_at_its_commit_and_is_pinned(write_card, tmp_path, monkeypatch):
    write_card(HUB_SOURCE)
    calls = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        calls.append((args, kwargs))
        return hub_copy(tmp_path, COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load("quiz", "test", as_is)
    assert calls == [(("acme/quiz", None), {"split": "test", "revision": COMMIT})]
    assert loaded.items == [{"q": 1}, {"q": 2}]
    assert (loaded.provenance.source, loaded.provenance.revision) == ("acme/quiz", COMMIT)
    assert loaded.provenance.pinned


@pytest.mark.parametrize("commit", [COMMIT, "f" * 40])
def test_offline_the_hubs_cache_is_read_with_its_own_commit(write_card, tmp_path, commit):
    write_card(HUB_SOURCE)
    hub_copy(tmp_path / "hub", commit)
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"q": 1}, {"q": 2}]
    assert (loaded.provenance.revision, loaded.provenance.pinned) == (commit, commit == COMMIT)
    with pytest.raises(AlignbenchError, match=r"^hub acme/quiz test row 0: no field 'answer'$"):
        load("quiz", "test", lambda row: row["answer"])


def test_a_folder_with_the_name_of_the_hub_id_is_not_pinned(write_card, tmp_path, monkeypatch):
    write_card(HUB_SOURCE)
    (tmp_path / "acme" / "quiz").mkdir(parents=True)
    (tmp_path / "acme" / "quiz" / "test.jsonl").write_text('{"q": 7}\n')
    monkeypatch.chdir(tmp_path)
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"q": 7}]
    assert (loaded.provenance.revision, loaded.provenance.pinned) == ("unknown", False)


# ---- the commands --------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_list_shows_the_place_of_a_split(write_card, write_local):
    write_card(file_source(f"{NOWHERE}/q.jsonl"))
    assert run("list").stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tremote"
    folder = write_local('{"q": 1}\n')
    assert run("list", "--data-dir", str(folder)).stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tlocal"
    write_card(file_source())
    assert run("list").stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tmissing"


@pytest.mark.parametrize(
    ("content", "code", "result"),
    [
        ('{"q": 1}\n', 0, "ok: 1 rows"),
        ('{"q": 2}\n', 2, "quiz.jsonl: sha256 is"),
        ('{"q": 1}\n{"q": 2}\n', 2, "quiz.jsonl: 2 rows, the card says 1"),
        ('{"q": 1}\n{"q"\n', 2, "quiz.jsonl:2: not valid JSON"),
    ],
)
def test_check_reads_local_files_and_fails_on_any_problem(write_card, write_local, content, code, result):
    write_card(file_source())
    assert isinstance(run("check").exception, AlignbenchError)  # nothing to check
    done = run("check", "quiz", "--data-dir", str(write_local(content)))
    assert done.exit_code == code
    assert result in done.stdout


def test_fetch_fills_the_cache_or_says_which_file_is_needed(write_card, server, tmp_path):
    write_card(file_source(f"{server[0]}/q.jsonl"))
    assert run("fetch").stdout.splitlines()[1] == "quiz\ttest\tfetched: quiz.jsonl"
    assert (tmp_path / "cache" / "quiz" / "quiz.jsonl").read_bytes() == ROW
    assert run("fetch").stdout.splitlines()[1] == "quiz\ttest\tcache: quiz.jsonl"
    write_card(file_source(file="other.jsonl"))
    done = run("fetch")
    assert done.exit_code == 0
    assert "cannot be downloaded; put other.jsonl into DIR/quiz/" in done.stdout


@pytest.mark.needs_data
def test_the_authors_files_are_the_pinned_ones_and_their_rows_have_the_right_lines(data_dir):
    done = run("check", "--data-dir", str(data_dir))
    assert done.exit_code == 0, done.stdout
    path = data_dir / "truthfulqa" / "mc_task_v1_2021.json"
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = list(read_rows(path, "json"))
    assert len(rows) == 817
    for line, row in rows:
        assert json.loads("{" + lines[line].strip().rstrip(",") + "}") == {"question": row["question"]}
