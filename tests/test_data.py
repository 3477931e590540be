"""Data cards and their loader: what is read, how faults are named, and what happens without a network."""

import functools
import gzip
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


def as_is(row: dict[str, Any], schema: str | None) -> dict[str, Any]:
    return row


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def own_machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, an empty cache, no proxy, and no hub: nothing of the real machine is read."""
    if request.node.get_closest_marker("needs_data"):
        return  # the fixture data_dir may look at the real settings
    for name in ("ALIGNBENCH_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", folder
    web.shutdown()
    thread.join()
    web.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def write_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives write(sources): from then on there is one card, "quiz", with the split "test"."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(cards, "CARDS_DIR", folder)

    def write(*sources: dict[str, Any], **changes: Any) -> None:
        front = {
            "name": "quiz",
            "title": "A quiz",
            "folder": "quiz",
            "paper": "arXiv:0000.00000",
            "homepage": "https://example.org",
            "licence": "MIT",
            "citation": "Nobody 2020",
            "splits": {"test": list(sources)},
        }
        front = {key: value for key, value in (front | changes).items() if value is not None}
        (folder / "quiz.md").write_text(f"---\n{json.dumps(front)}\n---\n\nText.\n", encoding="utf-8")

    return write


@pytest.fixture
def write_local(tmp_path: Path) -> Any:
    """Gives write(content): puts it into quiz/quiz.jsonl of a data folder, and returns that folder."""

    def write(content: str) -> Path:
        folder = tmp_path / "data"
        (folder / "quiz").mkdir(parents=True, exist_ok=True)
        (folder / "quiz" / "quiz.jsonl").write_text(content, encoding="utf-8")
        return folder

    return write


def file_source(content: bytes = b'{"q": 1}\n', url: str | None = None, **changes: Any) -> dict[str, Any]:
    source = {"file": "quiz.jsonl", "format": "jsonl", "rows": 1, "sha256": sha256(content)}
    return source | ({"url": url} if url else {}) | changes


HUB_SOURCE = {"hub": "acme/quiz", "revision": COMMIT, "split": "test", "rows": 2}


# Rows and the lines they start on


def rows_of(tmp_path: Path, content: str | bytes, format: str, at: str | None = None) -> list[Any]:
    path = tmp_path / f"file.{format}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return list(read_rows(path, format, at))


def test_jsonl_rows_carry_their_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '{"a": 1}\n\n{"a": 2}\n', "jsonl") == [(1, {"a": 1}), (3, {"a": 2})]


def test_line_separators_inside_json_strings_do_not_end_a_row(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '{"a": "x\u2028y"}\n{"a": 2}\n', "jsonl")[1] == (2, {"a": 2})


def test_csv_rows_with_multi_line_cells_start_where_the_editor_shows_them(tmp_path: Path) -> None:
    content = 'q,a\n"one\ntwo\nthree",1\n"say ""no""",2\n\nlast,3\n'
    assert rows_of(tmp_path, content, "csv") == [
        (2, {"q": "one\ntwo\nthree", "a": "1"}),
        (5, {"q": 'say "no"', "a": "2"}),
        (7, {"q": "last", "a": "3"}),
    ]


def test_csv_with_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfq,a\r\nx,1\r\ny,2\r\n"
    assert rows_of(tmp_path, content, "csv") == [(2, {"q": "x", "a": "1"}), (3, {"q": "y", "a": "2"})]


def test_tsv_takes_quotes_as_they_are(tmp_path: Path) -> None:
    content = 'q\ta\n"x said\t1\n'
    assert rows_of(tmp_path, content, "tsv") == [(2, {"q": '"x said', "a": "1"})]


@pytest.mark.parametrize("at", [None, "test"])
def test_json_elements_carry_their_line(tmp_path: Path, at: str | None) -> None:
    elements = '[\n {"a": "]\\n["},\n\n {"a":\n  2}, {"a": 3}]'
    content = elements if at is None else '{"other": [{"test": [1]}], "test"\n: ' + elements + "}"
    shift = 0 if at is None else 1
    expected = [(2 + shift, {"a": "]\n["}), (4 + shift, {"a": 2}), (5 + shift, {"a": 3})]
    assert rows_of(tmp_path, content, "json", at) == expected


def test_an_empty_json_list_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '{"test": [ ]}', "json", "test") == []


def test_text_is_one_row(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "Q: x\nA: y\n", "text") == [(1, {"text": "Q: x\nA: y\n"})]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert list(read_rows(path, "jsonl", None)) == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(AlignbenchError, match=r"rows\.jsonl\.gz: not a whole gzip file"):
        list(read_rows(path, "jsonl", None))


@pytest.mark.parametrize(
    ("content", "format", "at", "message"),
    [
        ('{"a": 1}\n{"a": \n', "jsonl", None, "file.jsonl:2: not valid JSON"),
        ('{"a": 1}\n[1, 2]\n', "jsonl", None, "file.jsonl:2: expected a JSON object, found a list"),
        ("q,a\nx,1\ny\n", "csv", None, "file.csv:3: 1 fields, but the header has 2 (q, a)"),
        ('q,a\n"x\ny",1,2\n', "csv", None, "file.csv:2: 3 fields, but the header has 2 (q, a)"),
        ('q,a\nx,1\n"never closed,2\nz,3\n', "csv", None, "file.csv:3: unexpected end of data"),
        ("q,q\nx,1\n", "csv", None, "file.csv:1: a column name occurs twice"),
        ("q\ta\nx\t1\t2\n", "tsv", None, "file.tsv:2: 3 fields, but the header has 2 (q, a)"),
        ('[{"a": 1},\n {"a" 2}]', "json", None, "file.json:2: not valid JSON"),
        ('[{"a": 1},\n 7]', "json", None, "file.json:2: expected a JSON object, found a number"),
        (
            '{"dev": []}',
            "json",
            "test",
            "file.json:1: expected a JSON object with a list under the key 'test'",
        ),
        ('{"test": {}}', "json", "test", "expected a JSON list under the key 'test', found an object"),
        ('{"test": []}', "json", None, "file.json:1: expected a JSON list, found an object"),
        (
            b"\xef\xbb\xbf" + b'{"a": 1}\n{"a": "\xff"}\n',
            "jsonl",
            None,
            "file.jsonl:2: byte 0xff is not UTF-8",
        ),
    ],
)
def test_what_does_not_parse_is_named_by_file_and_line(
    tmp_path: Path, content: str | bytes, format: str, at: str | None, message: str
) -> None:
    with pytest.raises(AlignbenchError) as caught:
        rows_of(tmp_path, content, format, at)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Cards


@pytest.mark.parametrize("name", card_names())
def test_every_card_is_well_formed_and_says_something(name: str) -> None:
    card = read_card(name)
    assert 20 <= len(card.text.splitlines()) <= 60
    assert "## Known flaws" in card.text
    assert "## Contamination" in card.text


def test_the_cards_of_the_tasks_are_there() -> None:
    assert set(card_names()) >= {"truthfulqa", "hellaswag", "crows_pairs", "winogender"}


def test_an_unknown_card_or_split_gets_a_suggestion() -> None:
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
def test_a_malformed_card_names_the_card_and_the_field(
    write_card: Any, sources: list[Any], changes: dict[str, Any], message: str
) -> None:
    write_card(*sources, **changes)
    with pytest.raises(AlignbenchError) as caught:
        read_card("quiz")
    assert message in str(caught.value)


# Loading local files


def test_a_local_file_is_pinned_only_where_its_sha256_is_the_card_s(write_card: Any, write_local: Any) -> None:
    write_card(file_source(b'{"q": 1}\n'))
    loaded = load("quiz", "test", as_is, data_dir=write_local('{"q": 1}\n'))
    assert loaded.items == [{"q": 1}]
    assert loaded.provenance.pinned
    assert loaded.provenance.revision == sha256(b'{"q": 1}\n')

    loaded = load("quiz", "test", as_is, data_dir=write_local('{"q": 1}\n{"q": 2}\n'))
    assert not loaded.provenance.pinned
    assert loaded.provenance.revision == sha256(b'{"q": 1}\n{"q": 2}\n')
    assert loaded.provenance.rows == 2


def test_provenance_does_not_depend_on_the_machine(write_card: Any, write_local: Any, tmp_path: Path) -> None:
    write_card(file_source())
    provenance = load("quiz", "test", as_is, data_dir=write_local('{"q": 1}\n')).provenance
    assert provenance.source == "quiz.jsonl"
    assert str(tmp_path) not in repr(provenance)


def test_a_missing_field_is_named_by_file_line_and_field(write_card: Any, write_local: Any) -> None:
    write_card(file_source())
    folder = write_local('{"q": 1}\n\n{"p": 2}\n')
    with pytest.raises(AlignbenchError) as caught:
        load("quiz", "test", lambda row, schema: row["q"], data_dir=folder)
    assert str(caught.value) == f"{folder}/quiz/quiz.jsonl:3: no field 'q'"


def test_a_value_that_the_task_refuses_is_named_by_file_and_line(write_card: Any, write_local: Any) -> None:
    write_card(file_source())
    folder = write_local('{"q": 1}\n{"q": "many"}\n')
    with pytest.raises(AlignbenchError, match=r"quiz\.jsonl:2: invalid literal for int\(\)"):
        load("quiz", "test", lambda row, schema: int(row["q"]), data_dir=folder)


def test_an_empty_file_is_an_error(write_card: Any, write_local: Any) -> None:
    write_card(file_source())
    with pytest.raises(AlignbenchError, match=r"quiz\.jsonl: no rows"):
        load("quiz", "test", as_is, data_dir=write_local("\n"))


def test_the_first_source_that_is_there_wins_and_its_schema_reaches_the_task(write_card: Any, write_local: Any) -> None:
    write_card(file_source(file="better.jsonl"), file_source(schema="other"))
    loaded = load("quiz", "test", lambda row, schema: schema, data_dir=write_local('{"q": 1}\n'))
    assert loaded.items == ["other"]


def test_the_data_folder_comes_from_the_argument_else_the_environment(
    write_card: Any, write_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(file_source())
    monkeypatch.setenv("ALIGNBENCH_DATA", str(write_local('{"q": 1}\n')))
    assert load("quiz", "test", as_is).items == [{"q": 1}]
    with pytest.raises(AlignbenchError, match="nowhere does not exist"):
        load("quiz", "test", as_is, data_dir=tmp_path / "nowhere")


# Downloads


def test_a_file_is_downloaded_once_and_then_read_from_the_cache(write_card: Any, server: Any) -> None:
    address, web = server
    (web / "q.jsonl").write_bytes(b'{"q": 1}\n')
    write_card(file_source(url=f"{address}/q.jsonl"))
    first = load("quiz", "test", as_is)
    (web / "q.jsonl").unlink()
    assert load("quiz", "test", as_is) == first
    assert first.provenance.pinned


def test_a_download_with_another_sha256_is_refused_and_nothing_is_kept(
    write_card: Any, server: Any, tmp_path: Path
) -> None:
    address, web = server
    (web / "q.jsonl").write_bytes(b'{"q": "tampered"}\n')
    write_card(file_source(url=f"{address}/q.jsonl"))
    with pytest.raises(AlignbenchError, match=r"q\.jsonl: sha256 is .*nothing was kept"):
        load("quiz", "test", as_is)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_damaged_file_in_the_cache_is_not_used(write_card: Any, server: Any, tmp_path: Path) -> None:
    address, web = server
    (web / "q.jsonl").write_bytes(b'{"q": 1}\n')
    write_card(file_source(url=f"{address}/q.jsonl"))
    cached = tmp_path / "cache" / "quiz" / "quiz.jsonl"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b'{"q"')
    assert load("quiz", "test", as_is).items == [{"q": 1}]
    assert cached.read_bytes() == b'{"q": 1}\n'


def test_a_constant_is_read_out_of_python_source_that_never_runs(write_card: Any, server: Any, tmp_path: Path) -> None:
    address, web = server
    ran = tmp_path / "ran"
    source = f'open({str(ran)!r}, "w")\nOTHER = 1\nPRIMER = """Q: a\nA: b\n"""\n'
    (web / "presets.py").write_text(source)
    sha256 = hashlib.sha256(b"Q: a\nA: b").hexdigest()
    text = {"format": "text", "sha256": sha256, "url": f"{address}/presets.py"}
    write_card(file_source(**text, constant="PRIMER"))
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"text": "Q: a\nA: b"}]
    assert loaded.provenance.pinned
    assert not ran.exists()
    write_card(file_source(**text, constant="ABSENT", file="other.txt"))
    with pytest.raises(AlignbenchError, match="no text constant ABSENT"):
        load("quiz", "test", as_is)


def test_a_cache_that_cannot_be_written_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(AlignbenchError, match="set ALIGNBENCH_CACHE"):
        download("http://127.0.0.1:9/q", "0" * 64, tmp_path / "cache" / "quiz" / "q")


@pytest.mark.parametrize("why", ["offline", "no network", "not found"])
def test_without_the_file_the_error_names_card_url_and_folder(
    write_card: Any, server: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    url = "http://127.0.0.1:9/q.jsonl" if why == "no network" else f"{server[0]}/q.jsonl"
    if why == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_card(file_source(url=url))
    started = time.monotonic()
    with pytest.raises(AlignbenchError) as caught:
        load("quiz", "test", as_is)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "'quiz', split 'test'" in message
    assert url in message
    assert "put quiz.jsonl into DIR/quiz/ and set ALIGNBENCH_DATA=DIR or pass --data-dir DIR" in message
    assert "\n" not in message


def test_with_a_data_folder_the_error_names_that_folder(write_card: Any, tmp_path: Path) -> None:
    write_card(file_source())
    with pytest.raises(AlignbenchError) as caught:
        load("quiz", "test", as_is, data_dir=tmp_path)
    assert f"put quiz.jsonl into {tmp_path}/quiz/" in str(caught.value)


# The hub


def hub_copy(folder: Path, commit: str) -> datasets.Dataset:
    """A split as `datasets` keeps one of the hub's in its cache, under the commit's name."""
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


def test_a_hub_split_is_asked_for_at_its_commit_and_is_pinned(
    write_card: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_without_a_network_the_hub_s_cache_is_read_and_its_commit_told(
    write_card: Any, tmp_path: Path, commit: str
) -> None:
    write_card(HUB_SOURCE)
    hub_copy(tmp_path / "hub", commit)
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"q": 1}, {"q": 2}]
    assert loaded.provenance.revision == commit
    assert loaded.provenance.pinned == (commit == COMMIT)


def test_a_folder_that_is_named_like_the_hub_id_is_not_taken_for_the_pin(
    write_card: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(HUB_SOURCE)
    (tmp_path / "acme" / "quiz").mkdir(parents=True)
    (tmp_path / "acme" / "quiz" / "test.jsonl").write_text('{"q": 7}\n')
    monkeypatch.chdir(tmp_path)
    loaded = load("quiz", "test", as_is)
    assert loaded.items == [{"q": 7}]
    assert loaded.provenance.revision == "unknown"
    assert not loaded.provenance.pinned


def test_a_hub_row_without_the_field_is_named(write_card: Any, tmp_path: Path) -> None:
    write_card(HUB_SOURCE)
    hub_copy(tmp_path / "hub", COMMIT)
    with pytest.raises(AlignbenchError, match=r"^hub acme/quiz test row 0: no field 'answer'$"):
        load("quiz", "test", lambda row, schema: row["answer"])


@pytest.mark.parametrize("offline", [True, False])
def test_an_unreachable_hub_is_one_line_at_once(
    write_card: Any, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    if offline:
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    write_card(file_source(), HUB_SOURCE)
    started = time.monotonic()
    with pytest.raises(AlignbenchError) as caught:
        load("quiz", "test", as_is)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "'quiz'" in message
    assert "hub acme/quiz" in message
    assert ("HF_DATASETS_OFFLINE is set" if offline else "http://127.0.0.1:9 does not answer") in message
    assert "put quiz.jsonl into DIR/quiz/" in message
    assert "\n" not in message
    assert not datasets.config.HF_HUB_OFFLINE


# The commands


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_list_tells_where_a_split_is(write_card: Any, write_local: Any) -> None:
    write_card(file_source(url="http://127.0.0.1:9/q.jsonl"))
    assert run("list").stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tremote"
    folder = write_local('{"q": 1}\n')
    assert run("list", "--data-dir", str(folder)).stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tlocal"
    write_card(file_source())
    assert run("list").stdout.splitlines()[1] == "quiz\ttest\t1\tMIT\tmissing"


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        ('{"q": 1}\n', 0, "ok: 1 rows"),
        ('{"q": 2}\n', 2, "quiz.jsonl: sha256 is"),
        ('{"q": 1}\n{"q": 2}\n', 2, "quiz.jsonl: 2 rows, the card says 1"),
        ('{"q": 1}\n{"q"\n', 2, "quiz.jsonl:2: not valid JSON"),
    ],
)
def test_check_reads_local_files_and_fails_on_any_problem(
    write_card: Any, write_local: Any, content: str, code: int, told: str
) -> None:
    write_card(file_source())
    result = run("check", "quiz", "--data-dir", str(write_local(content)))
    assert result.exit_code == code
    assert told in result.stdout


def test_check_with_nothing_to_check_is_an_error(write_card: Any) -> None:
    write_card(file_source())
    assert isinstance(run("check").exception, AlignbenchError)


def test_fetch_fills_the_cache(write_card: Any, server: Any, tmp_path: Path) -> None:
    address, web = server
    (web / "q.jsonl").write_bytes(b'{"q": 1}\n')
    write_card(file_source(url=f"{address}/q.jsonl"))
    assert run("fetch").stdout.splitlines()[1] == "quiz\ttest\tfetched: quiz.jsonl"
    assert (tmp_path / "cache" / "quiz" / "quiz.jsonl").read_bytes() == b'{"q": 1}\n'
    assert run("fetch").stdout.splitlines()[1] == "quiz\ttest\tcache: quiz.jsonl"


def test_fetch_tells_what_only_a_person_can_put_there(write_card: Any) -> None:
    write_card(file_source())
    result = run("fetch")
    assert result.exit_code == 0
    assert "cannot be downloaded; put quiz.jsonl into DIR/quiz/" in result.stdout


# The authors' own files


@pytest.mark.needs_data
def test_the_authors_files_are_the_ones_that_the_cards_pin(data_dir: Path) -> None:
    result = run("check", "--data-dir", str(data_dir))
    assert result.exit_code == 0, result.stdout
    loaded = load("truthfulqa", "mc_2021", as_is, data_dir=data_dir)
    assert len(loaded.items) == 817
    assert loaded.provenance.pinned


@pytest.mark.needs_data
def test_lines_in_the_authors_files_are_where_an_editor_finds_them(data_dir: Path) -> None:
    path = data_dir / "truthfulqa" / "mc_task_v1_2021.json"
    lines = path.read_text(encoding="utf-8").split("\n")
    for line, row in read_rows(path, "json", None):
        assert line is not None
        assert json.loads("{" + lines[line].strip().rstrip(",") + "}") == {"question": row["question"]}
