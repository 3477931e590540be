"""The page in a browser, from disk: it can be read and operated by anyone, and no sample can act on it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from audit_runs import shares, write_run
from browser import Watched, chromium  # noqa: F401
from report_runs import ARABIC, LONG, MARKUP, WORDS, N, evidence_of, rte, write_nasty_texts, wrote

from reports.drawing import Drawing
from reports.evidence import gather
from reports.page import samples
from reports.page.page import write_page
from reports.style import new_figure, styled

pytestmark = pytest.mark.needs_browser
PLACES = ["", "#task/squad2", "#task/rte"]
OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"
FOCUS = "document.activeElement"


def figure() -> Drawing:
    with styled():
        drawn, axes = new_figure(2.0)
        axes.plot([0, 1, 2], [1, 3, 2])
    table = pd.DataFrame({"step": range(60), "name": [MARKUP] * 60, "value": [float("nan")] + [0.5] * 59})
    title, source = "A <b>figure</b>", "InstructGPT, Fig. 6"
    return Drawing("a_figure", title, source, drawn, table, "What it shows.", "Rises, then falls.")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return gather(write_nasty_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def file(evidence, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page")
    return write_page(evidence, [figure()], {"Likert ratings": "no labels"}, out, "Nasty samples")


@pytest.fixture
def watched(chromium):  # noqa: F811
    """A page that must not have requested anything but itself, nor logged an error, when the test is over."""
    found = Watched(chromium)
    yield found
    assert found.errors == []
    fetched = {url.partition("#")[0] for url in found.requests if not url.startswith(("data:", "blob:"))}
    assert {url.rpartition("/")[2] for url in fetched} <= {"index.html"}
    found.context.close()


def open_task(watched, file, name, search=""):
    page = watched.open(file, f"#task/{name}")
    page.wait_for_selector(".sample")
    if search:
        page.fill("#task-text", search)
        page.wait_for_selector("#samples mark")
    return page


def written(out, evidence):
    return write_page(evidence, [], {}, out, "t")


def squad2(out, columns, f1=0.5, name="one"):
    return write_run(out, name, ("squad2", {"f1": [f1] * len(columns)}, {"columns": columns}))


def column(page, name):
    """The first line of each cell of a column of the audit table."""
    names = page.locator("#audit-table thead th").all_inner_texts()
    place = next(place for place, own in enumerate(names) if own.rstrip(" ↑↓") == name) + 1
    cells = page.locator(f"#audit-table tbody tr > :nth-child({place})").all_inner_texts()
    return [cell.split("\n")[0] for cell in cells]


class TestSafety:
    def test_no_sample_acts(self, watched, file):
        page = open_task(watched, file, "squad2")
        page.evaluate("for (const button of document.querySelectorAll('#samples button')) button.click()")
        assert page.locator("#samples .text", has_text=MARKUP).count() > 0
        assert page.locator(".output").count() > 3 * page.locator(".sample").count()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#samples img, #samples script, #samples b").count() == 0

    def test_no_figure_acts(self, watched, file):
        page = watched.open(file)
        assert page.evaluate("window.hacked") is None
        assert page.locator("figure h3").inner_text() == "A <b>figure</b> after InstructGPT, Fig. 6"
        assert page.locator("figure img").evaluate("image => image.complete && image.naturalWidth > 0")
        assert page.locator("figure img").get_attribute("alt") == "Rises, then falls."
        page.locator("figure summary").click()
        assert page.locator("figure tbody tr").count() == 50
        assert page.locator("figure tbody td").nth(2).inner_text() == "–"
        with page.expect_download() as started:
            page.locator("figure button.download").click()
        assert len(pd.read_csv(started.value.path())) == 60

    def test_an_unknown_task_is_named(self, watched, file):
        page = watched.open(file, "#task/%3Cimg%20src=x%3E")
        assert page.locator("#task-title").inner_text() == "Unknown task <img src=x>"


class TestLayout:
    @pytest.mark.parametrize("place", PLACES)
    def test_nothing_is_wider_than_the_window(self, watched, file, place):
        page = watched.open(file, place)
        page.evaluate(OPEN_ALL)
        for width in (320, 375, 768, 1280, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize(
        ("place", "dark", "width"),
        [(PLACES[0], False, 1280), (PLACES[0], True, 375), (PLACES[1], True, 1280), (PLACES[2], False, 375)],
    )
    def test_axe_finds_no_serious_violation(self, chromium, file, place, dark, width):  # noqa: F811
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python").Axe()
        watched = Watched(chromium, dark=dark, width=width)
        page = watched.open(file, place)
        page.evaluate("for (const sample of [...document.querySelectorAll('.sample')].slice(7)) sample.remove()")
        page.evaluate(OPEN_ALL)
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        watched.context.close()
        serious = [own for own in found if own["impact"] in ("serious", "critical")]
        assert [(own["id"], own["nodes"][0]["html"][:120]) for own in serious] == []

    def test_print_has_all_sections_and_no_controls(self, watched, file):
        page = open_task(watched, file, "squad2")
        page.emulate_media(media="print")
        for name in ("verdict", "audit", "figures", "tasks", "provenance"):
            assert page.locator(f"#{name}").is_visible(), name
        assert page.locator("form:visible, button:visible:not(.sort), nav:visible").count() == 0
        assert page.locator(".sample:visible").count() == 5

    def test_without_javascript_verdict_and_figures_are_there(self, chromium, file):  # noqa: F811
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.locator(".verdict").count() == 3
        assert page.locator("figure img").is_visible()
        assert "need JavaScript" in page.locator("main").inner_text()
        context.close()

    def test_the_theme_can_be_chosen_and_the_first_tab_stop_skips_to_the_content(self, watched, file):
        page = watched.open(file)
        page.keyboard.press("Tab")
        assert page.evaluate(f"{FOCUS}.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate(f"{FOCUS}.id") == "content"
        assert page.locator("#overview").is_visible()
        papers = [page.evaluate("getComputedStyle(document.body).backgroundColor")]
        for _ in range(2):
            page.click("#theme")
            papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert papers[0] == papers[1] != papers[2]
        assert "dark" in page.locator("#theme").inner_text()

    def test_folded_comparisons_open(self, watched, evidence, tmp_path):
        audit = evidence.audits[""]
        many = replace(evidence, audits={"": replace(audit, contrasts=audit.contrasts * 3)})
        page = watched.open(written(tmp_path, many))
        folded = page.locator("details.folded").last
        assert folded.locator(".findings").first.is_hidden()
        assert "against" in folded.locator("summary").first.inner_text()
        folded.locator("summary").first.click()
        assert folded.locator(".findings").first.is_visible()


class TestAudit:
    def test_it_sorts_by_click_and_by_keyboard(self, watched, file):
        page = watched.open(file)
        page.select_option("#audit-metrics", "all")
        header = page.locator("#audit-table thead th", has_text="change")
        header.locator("button").click()
        for order in ("descending", "ascending"):
            assert header.get_attribute("aria-sort") == order
            changes = [float(text.replace("−", "-")) for text in column(page, "change")]
            assert changes == sorted(changes, reverse=order == "descending")
            page.keyboard.press("Enter")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert page.locator("#audit-table thead th", has_text="metric").get_attribute("aria-sort") == "ascending"
        assert header.get_attribute("aria-sort") == "none"

    def test_it_filters_and_the_csv_contains_the_shown_rows(self, watched, file):
        page = watched.open(file)
        assert page.locator("#audit-table tbody tr").count() == 6
        for control, choice, tasks in (("verdict", "loss", {"squad2"}), ("group", "inference", {"rte"})):
            page.select_option(f"#audit-{control}", choice)
            assert set(column(page, "task")) == tasks
            page.select_option(f"#audit-{control}", "")
        page.fill("#audit-text", "squad sft")
        page.wait_for_selector("#audit-table tbody:not(:has(tr:nth-child(3)))")
        assert page.locator("#audit-count").inner_text().startswith("2 of ")
        page.fill("#audit-text", "")
        page.select_option("#audit-verdict", "gain")
        page.wait_for_selector("#audit-table tbody tr:has-text('rte')")
        with page.expect_download() as started:
            page.click("#audit-csv")
        rows = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
        assert started.value.suggested_filename == "audit.csv"
        assert {(row["aligned_model"], row["task"], row["verdict"]) for row in rows} == {("ppo", "rte", "gain")}
        assert all(float(row["delta"]) > 0 for row in rows)

    def test_another_reference_has_its_own_comparisons(self, watched, file):
        page = watched.open(file)
        page.select_option("#audit-reference", "ppo")
        assert set(column(page, "systems")) == {"base", "sft"}
        page.select_option("#audit-aligned", "base")
        assert column(page, "verdict") == ["▼ loss", "▲ gain"]
        assert sorted(column(page, "task")) == ["rte", "squad2"]
        assert sorted(column(page, "change")) == ["+0.300", "−0.300"]

    def test_a_row_links_to_the_folders_that_it_compares(self, watched, tmp_path):
        other = {"shots": 4, "documents_sha256": "e" * 64}
        runs = [
            write_run(tmp_path, name, rte(zero), ("rte", {"acc": shares(four)}, other))
            for name, zero, four in (("a", 0.3, 0.4), ("b", 0.8, 0.9))
        ]
        page = watched.open(written(tmp_path, gather(runs)))
        page.locator("#audit-table tr", has_text="0.400").locator("a").click()
        page.wait_for_selector(".sample")
        assert page.locator("#task-sets a[aria-current]").inner_text() == "shots 4"
        assert "0.400" in page.locator("#results").inner_text()


class TestSamples:
    def test_a_task_opens_by_a_link_and_back_leads_to_the_overview(self, watched, file):
        page = open_task(watched, file, "rte")
        assert page.locator("#task-title").inner_text() == "rte"
        assert page.locator("#overview").is_hidden()
        assert "NaN" not in page.locator("main").inner_text()
        assert "null" not in page.locator("#results").inner_text()
        page.locator("#task .back a").click()
        page.wait_for_selector("#tasks", state="visible")
        page.locator("#tasks a", has_text="squad2").click()
        page.wait_for_selector(".sample")
        assert page.locator("#task-title").inner_text() == "squad2"
        assert page.evaluate(f"{FOCUS}.id") == "task-title"
        page.go_back()
        page.wait_for_selector("#overview", state="visible")

    def test_the_worst_regressions_are_first_and_pages_turn_by_keyboard(self, watched, file):
        page = open_task(watched, file, "squad2")
        assert page.locator("#task-order").input_value() == "worst"
        assert "▼ −1.000 worse" in page.locator(".sample").first.inner_text()
        for reference, show, count in (("0", "improvement", 0), ("0", "regression", 36), ("2", "improvement", 36)):
            page.select_option("#task-reference", reference)
            page.select_option("#task-show", show)
            assert page.locator("#task-count").inner_text().startswith(f"{count} of {N}")
        page.select_option("#task-show", "")
        page.select_option("#task-order", "document")
        assert page.locator(".sample h3").first.inner_text() == "document 0"
        page.get_by_role("button", name="Next ›").focus()
        page.keyboard.press("Enter")
        assert page.locator(".sample h3").first.inner_text() == "document 25"
        assert page.evaluate(f"{FOCUS}.textContent") == "Next ›"
        page.get_by_role("button", name="Last »").click()
        assert page.locator(".sample").count() == N - 100

    def test_they_are_filtered_by_category_and_text(self, watched, file):
        page = open_task(watched, file, "rte")
        page.select_option("#task-category", "odd")
        assert page.locator("#task-count").inner_text().startswith(f"{N // 2} of {N}")
        page.fill("#task-text", "Question 77.")
        page.wait_for_selector("#samples:not(:has(.sample:nth-child(2))) mark")
        assert page.locator(".sample h3").inner_text() == "document 77"
        assert page.locator("#samples mark").first.inner_text() == "Question 77."
        page.fill("#task-text", "nowhere to be found")
        page.wait_for_selector("text=No matching samples.")

    def test_systems_are_side_by_side_with_the_correct_answer(self, watched, file):
        first = open_task(watched, file, "rte").locator(".sample").first
        heads = [text.split("\n")[0] for text in first.locator("thead th").all_inner_texts()]
        assert heads == ["choice", "base", "sft", "ppo"]
        assert "✓ correct" in first.locator("tbody tr").first.inner_text()
        first = open_task(watched, file, "squad2").locator(".sample").first
        assert first.locator("h4").all_inner_texts() == ["base reference", "sft", "ppo"]
        first.locator(".answer").first.get_by_role("button", name="2 more").click()
        assert first.locator(".answer").first.locator(".output").count() == 3

    def test_any_text_is_visible_and_stays_in_its_box(self, watched, file):
        page = open_task(watched, file, "squad2", search="بالعربية")
        box = page.locator("#samples .text", has_text="مرحبا").first
        assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"
        assert box.evaluate("box => getComputedStyle(box.closest('.answer').querySelector('h4')).direction") == "ltr"
        assert ARABIC.count("\u202e") == box.inner_text().count("⟨U+202E⟩") == 1
        page.fill("#task-text", "escape")
        page.wait_for_selector("#samples mark:has-text('escape')")
        assert "bell␇ escape␛[31m red ⟨U+009B⟩ null␀ end" in page.locator("#samples").inner_text()
        page.fill("#task-text", LONG[:50])
        cut = page.locator(".cut").first
        cut.wait_for()
        assert len(cut.locator(".text").inner_text()) < 2100
        cut.get_by_role("button", name="Show all 100,000 characters").click()
        assert len(page.locator(".cut .text").first.inner_text()) == len(LONG)

    def test_a_match_far_inside_a_long_text_is_shown(self, watched, tmp_path):
        text = "early " + "filler " * 1000 + "needle" + " after" * 1000
        columns = [{"prompt": f"Prompt {row}", **wrote(text if row == 7 else "short")} for row in range(30)]
        page = open_task(watched, written(tmp_path, evidence_of(squad2(tmp_path, columns))), "squad2", search="needle")
        shown = page.locator(".output .text").first.inner_text()
        assert shown.startswith("…")
        assert "needle after" in shown
        assert "early" not in shown

    def test_a_text_cut_in_the_file_has_its_length(self, watched, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_TEXT", 200)
        folder = squad2(tmp_path, [{"prompt": "p" * 4500, **wrote("o" * 4501)}])
        sample = open_task(watched, written(tmp_path, evidence_of(folder)), "squad2").locator(".sample").inner_text()
        assert "Cut in this file, complete in the run folder: prompt (4,500 characters)." in sample
        assert "200 of 4,501 characters in this file" in sample

    @pytest.mark.slow
    def test_ten_thousand_samples_of_two_systems_can_be_paged_and_searched(self, watched, tmp_path):
        texts = (
            f"{' '.join(WORDS[(row + k * k) % 12] for k in range(40))} needle{row % 1000}" for row in range(10_000)
        )
        columns = [{"prompt": f"Capital of country {row}?", **wrote(text)} for row, text in enumerate(texts)]
        found = evidence_of(*(squad2(tmp_path, columns, f1, f"system {f1}") for f1 in (0.4, 0.5)))
        page = open_task(watched, written(tmp_path, found), "squad2", search="needle77")
        assert page.locator("#task-count").inner_text().startswith("110 of 10,000")
        page.fill("#task-text", "")
        page.wait_for_selector("#task-pager >> text=page")
        assert page.locator(".sample").count() == 25
