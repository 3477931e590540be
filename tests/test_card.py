"""The audit card of `alignbench compare --card`: its two pages, its Markdown, and the link from a model card."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_runs import rte, shares, weights_of, write_run
from commands import assert_one_line_error, run
from figure_checks import assert_nothing_overlaps, shown_texts
from report_runs import BASE, NASTY, contest, judged_truth, model, tax_tasks

from alignbench import __version__
from alignbench.audit.compare import compare
from alignbench.data.load import SYNTHETIC
from alignbench.runs.read import read_runs
from reports.card.card import make_card, to_markdown
from reports.card.pages import draw

MARKDOWN = (Path(__file__).parent / "cases" / "audit-card.md").read_text()


def card_of(runs, **settings):
    """The card of all runs of a folder, the first as the reference."""
    folders = [str(folder) for folder in runs]
    return make_card(compare(folders, resamples=200, **settings), read_runs(folders, Path()))


def text_of(page):
    return " ".join(text for text, _ in shown_texts(page))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A base model, and one with a loss on RTE, a gain on SST-2 of which two documents are not scored, and a win."""
    out = tmp_path_factory.mktemp("two")
    write_run(out, "base", rte(0.8), ("sst2", {"acc": shares(0.5)}))
    judged = {"acc": [None, None, *shares(0.9)[2:]]}
    write_run(out, "owner/aligned", rte(0.6), ("sst2", judged), contest(0.75, "base"), lineage=BASE)
    return out


def test_a_card_has_two_pages_of_text_and_the_same_bytes_for_the_same_runs(two, tmp_path):
    for folder in ("once", "twice"):
        done = run("compare", "base", "owner", "--runs", two, "--resamples", 200, "--card", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    files = [tmp_path / folder / f"audit-card.{kind}" for kind in ("pdf", "md") for folder in ("once", "twice")]
    pdf, again, text, text_again = (file.read_bytes() for file in files)
    assert (pdf, text) == (again, text_again)
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 2
    assert b"Audit card: owner/aligned" in pdf
    assert not re.search(rb"CreationDate|Producer|/Subtype /Image", pdf)
    if tool := shutil.which("pdftotext"):  # letters, not outlines
        shown = subprocess.run([tool, "-layout", files[0], "-"], capture_output=True, text=True, check=True).stdout
        assert "▼ loss" in shown
        assert weights_of("owner/aligned") in shown
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        arguments = ("base", "owner", "--runs", two, "--resamples", 200, "--card", tmp_path / folder)
        assert_one_line_error(run("compare", *arguments), "cannot be written")


def test_a_lineage_that_a_file_gives_is_in_the_card(tmp_path):
    for name, rate in (("start", 0.5), ("tuned", 0.7)):
        write_run(tmp_path, name, rte(rate))
    (tmp_path / "lineage.yaml").write_text("tuned: start\n")
    settings = ("--runs", tmp_path, "--resamples", 200, "--lineage", tmp_path / "lineage.yaml", "--card", tmp_path)
    assert run("compare", "start", "tuned", *settings).returncode == 0
    (line,) = re.findall(r"- \*\*tuned\*\*: .*", (tmp_path / "audit-card.md").read_text())
    assert re.search("; lineage .*start → .*tuned; ", line)


def test_markdown_has_verdict_table_provenance_and_limits(two):
    assert to_markdown(card_of(sorted(two.iterdir()))) == MARKDOWN.replace("VERSION", __version__)


def test_the_pages_say_what_was_compared_what_changed_and_by_which_files(two):
    verdict, table = draw(card_of(sorted(two.iterdir())))
    first, second = text_of(verdict), text_of(table)
    assert "owner/aligned against base, its pretrained model. 3 benchmarks (gain 2, loss 1," in first
    assert "The win rate against base is 0.750 (95 % interval" in first
    assert "mean of groups" in first
    assert "Not measured: truthfulness," in second
    for words in ("0.800", "0.600", "−0.200", "118 (-2)", weights_of("base"), "rte test@rrrr", "200 paired resamples"):
        assert words in second


@pytest.mark.parametrize("number", [3, 12])
def test_names_of_any_length_and_up_to_eight_comparisons_fit(tmp_path, number):
    """Of more than eight, the pages show eight; the Markdown has all."""
    many = [*NASTY, *(f"model {place}" for place in range(6))]
    few = [(f"truthfulqa_mc{year}", {"mc2": shares(0.4)}, {}) for year in ("", "_2025")]
    runs = [
        model(tmp_path, name, *tax_tasks(0.03 * place), *judged_truth(0.3 + 0.05 * place), *few, stage=None)
        for place, name in enumerate(many[:number])
    ]
    card = card_of(runs, reference=many[0])
    assert len(card.audit.contrasts) == number - 1
    pages = draw(card)
    for page in pages:
        assert_nothing_overlaps(page)
    assert ("3 more comparisons in audit-card.md" in text_of(pages[0])) == (number == 12)
    assert ("rows are only in audit-card.md" in text_of(pages[1])) == (number == 12)
    text, parser = to_markdown(card), HTMLParser()
    parser.handle_starttag = pytest.fail
    parser.feed(re.sub(r"\\<", "", text))
    assert text.count("\n### ") >= number - 1


def test_what_is_not_known_is_said_and_data_of_the_demo_are_named(tmp_path):
    data = [{"card": "", "split": "test", "source": f"{SYNTHETIC}f", "revision": "r", "rows": 3, "pinned": False}]
    runs = [write_run(tmp_path, name, (*rte(p), {"data": data}), weights=name) for name, p in (("a", 0.5), ("b", 0.9))]
    for folder in runs:
        description = json.loads((folder / "run.json").read_text())
        description |= {"model": {"name": description["model"]["name"]}, "engine": {"kind": "endpoint"}}
        (folder / "run.json").write_text(json.dumps(description))
    card = card_of(runs)
    for text in (*map(text_of, draw(card)), to_markdown(card)):
        assert "The data are synthetic" in text
    assert "weights are not recorded; endpoint; " in to_markdown(card)
    assert "(not the pinned revision)" in to_markdown(card)


def test_a_model_card_links_the_audit_card_of_its_model(two, tmp_path):
    arguments = ("export", "hf", "owner", "--runs", two, "--out", tmp_path / "README.md")
    done = run(*arguments)
    assert f"see `alignbench compare --card {tmp_path}`" in done.stdout
    assert run("compare", "base", "owner", "--runs", two, "--resamples", 200, "--card", tmp_path).returncode == 0
    for _ in range(2):
        done = run(*arguments)
        assert done.stdout == f"owner/aligned: {tmp_path / 'README.md'}\n"
        text = (tmp_path / "README.md").read_text()
        assert text.count("[audit card](audit-card.md) ([PDF](audit-card.pdf))") == 1
    # the reference is not a model that the card is of
    done = run("export", "hf", "base", "--runs", two, "--out", tmp_path / "README.md")
    assert "no audit card of this model" in done.stdout
    assert "audit-card" not in (tmp_path / "README.md").read_text()
