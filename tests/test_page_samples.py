"""The samples of a task in headless Chromium: differences, links, export, thoughts, and files beside the page."""

import re
import shutil
from pathlib import Path

import pytest
from report_runs import evidence_of, wrote
from test_page_browser import squad2, text, visit, written

from reports.page import samples

pytest_plugins = ("browser", "report_fixtures", "test_page_browser")
pytestmark = pytest.mark.needs_browser
BEFORE = "The old red barn. It is far, far away.\n北京大学"
OTHER = " ".join(f"word{n}" for n in range(1500))
AFTER = {  # output -> its text with the differences marked, or a remark
    "The new barn! It is far away.\n北京市": "The [-old red -][+new +]barn[-. -][+! +]It is "
    "far [-, far -]away.\n北京[-大学-][+市+]",
    BEFORE: "The same text as the reference.",
    BEFORE.replace(" ", "  "): "The same words as the reference; only spaces differ.",
    OTHER: "More than 1,000 changed words, or more than 500,000 characters: differences are not marked.",
    f"\n{BEFORE}": "The same words as the reference; only spaces differ.",
    f"\n{BEFORE}!": f"\n{BEFORE}[+!+]",
    "": "[-The old red barn. It is far, far away.\n北京大学-]",
}


def rows(*texts, **more):
    return [{"prompt": f"Prompt {n}", **wrote(text, **more)} for n, text in enumerate(texts)]


@pytest.fixture
def pair(tmp_path):
    """Evidence of two systems: one always answers BEFORE, the other with AFTER."""
    return evidence_of(
        squad2(tmp_path, rows(*[BEFORE] * len(AFTER)), name="a"), squad2(tmp_path, rows(*AFTER), name="b")
    )


def test_differences_are_marked_word_by_word(page, pair, tmp_path):
    visit(page, written(tmp_path, pair), "#task/squad2")
    assert page.locator(".diff").count() == 0
    page.check("#task-diff")
    page.wait_for_selector(".diff")
    mark = "({ DEL: `[-${own.textContent}-]`, INS: `[+${own.textContent}+]` })[own.tagName] ?? own.textContent"
    script = f"box => [...box.childNodes].map((own) => {mark}).join('')"
    for card, words in enumerate(AFTER.values()):
        output = page.locator(".sample").nth(card).locator(".answer").nth(1).locator(".output")
        marks = output.locator(".diff")
        found = marks.evaluate(script) if marks.count() else output.locator(".remarks").inner_text()
        assert found.replace("  ", " ") == words.replace("  ", " ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marked_differences_fit_the_window_and_axe_finds_nothing(page, pair, tmp_path, scheme, violations):
    page.emulate_media(color_scheme=scheme)
    visit(page, written(tmp_path, pair), "#task/squad2/1/sample/document%200")
    page.check("#task-diff")
    page.wait_for_selector(".diff")
    page.locator(".sample input[type=checkbox]").first.check()
    for width in (1280, 375, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


def test_a_link_shows_a_sample_with_its_position_whatever_the_filters_are(page, file, tmp_path):
    visit(page, file, "#task/squad2/1/sample/document%2087")
    linked = page.locator(".sample.linked")
    assert linked.locator("h3").inner_text() == "document 87"
    place = linked.locator(".position").inner_text()
    assert re.fullmatch(r"\d+ of 120", place)
    assert page.evaluate("document.activeElement.textContent") == "document 87"
    page.select_option("#task-show", "improvement")
    page.wait_for_selector("text=No matching samples.")
    page.goto(f"{file.resolve().as_uri()}#task/squad2/1/sample/document%205")
    page.wait_for_selector(".sample.linked h3:text-is('document 5')")
    page.locator(".sample.linked ~ .sample button:has-text('Copy link')").first.click()
    assert page.evaluate("location.hash").startswith("#task/squad2/1/sample/document%20")
    page.goto(f"{file.resolve().as_uri()}#task/squad2/1/sample/nowhere")
    page.wait_for_selector("#task-absent:has-text('nowhere is not among the samples')")
    twice = tmp_path / "twice"
    found = evidence_of(*(squad2(twice, [{"prompt": own, **wrote("x")}], name=own) for own in ("one", "other")))
    visit(page, written(twice, found), "#task/squad2/1/sample/document%200/2")  # another document with the same id
    assert text(page, ".sample.linked .prompt .text") == "other"


def test_selected_or_filtered_samples_are_exported_as_markdown(page, tmp_path):
    columns = rows("plain", "has ```` a fence\n# no heading", "third", thoughts="I think *so*")
    visit(page, written(tmp_path, evidence_of(squad2(tmp_path, columns))), "#task/squad2")
    with page.expect_download() as started:
        page.click("button:has-text('Export these 3 samples')")
    assert len(re.findall("^## `document", Path(started.value.path()).read_text(), re.MULTILINE)) == 3
    page.locator(".sample input[type=checkbox]").nth(1).check()
    with page.expect_download() as started:
        page.click("button:has-text('Export 1 selected sample')")
    content = Path(started.value.path()).read_text(encoding="utf-8")
    assert started.value.suggested_filename == "squad2.md"
    heads = re.findall("^#.*", content, re.MULTILINE)
    assert heads[:3] == ["# Samples of `squad2`", "## `document 1`", "### `one`, the reference"]
    assert "`````text\nhas ```` a fence\n# no heading\n`````\n" in content
    assert "Thoughts:\n\n```text\nI think *so*\n```" in content
    assert "`#task/squad2/1/sample/document%201`" in content


def test_thoughts_are_folded_and_found(page, tmp_path):
    found = evidence_of(squad2(tmp_path, rows("answer", thoughts="a deep idea")))
    visit(page, written(tmp_path, found), "#task/squad2")
    assert page.locator(".thoughts .text").is_hidden()
    assert text(page, ".thoughts summary") == "Thoughts (11 characters)"
    page.fill("#task-text", "deep")
    page.wait_for_selector(".thoughts[open] mark")


def test_files_beside_the_page_are_read_when_they_are_needed(page, chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "PART", 1000)
    columns = rows(*(f"needle{n % 7} {'x' * 90}" for n in range(100)))
    file = written(tmp_path, evidence_of(squad2(tmp_path, columns)), shards=True)
    read = []
    page.on("request", lambda request: read.append(request.url))
    visit(page, file, "#task/squad2/1/sample/document%2099")
    assert text(page, ".sample.linked .position") == "100 of 100"
    few = len(read)
    page.fill("#task-text", "needle3")
    page.wait_for_selector("#task-count:has-text('14 of 100')")
    assert 2 < few < len(read) == 1 + len([*(tmp_path / "samples").iterdir()])
    shutil.rmtree(tmp_path / "samples")
    other = chromium.new_page()  # whose console has the error of the browser
    other.goto(f"{file.resolve().as_uri()}#task/squad2")
    other.wait_for_selector("#task-count:has-text('is not beside this page')")
    other.close()
