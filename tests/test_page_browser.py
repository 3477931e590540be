"""The page in a browser, from disk: it can be read and worked by anyone, and no sample can do anything to it."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audit_runs import shares, write_run
from browser import Watched, chromium  # noqa: F401
from page_runs import ARABIC, CONTROL, LONG, MARKUP, N, evidence_of, many, nasty_evidence, rte, wrote

from reports.drawing import Drawing
from reports.evidence import gather
from reports.page import samples
from reports.page.page import write_page
from reports.style import new_figure, styled

pytestmark = pytest.mark.needs_browser
SECTIONS = ("verdict", "audit", "figures", "tasks", "provenance")


def figure() -> Drawing:
    with styled():
        drawn, axes = new_figure(2.0)
        axes.plot([0, 1, 2], [1, 3, 2])
    table = pd.DataFrame({"step": range(60), "name": [MARKUP] * 60, "value": [float("nan")] + [0.5] * 59})
    return Drawing(
        "a_figure", "A <b>figure</b>", "InstructGPT, Fig. 6", drawn, table, "What it shows.", "Rises, then falls."
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    evidence = nasty_evidence(tmp_path_factory.mktemp("runs"))
    return write_page(evidence, [figure()], [("Likert", "no labels")], out, "Nasty samples")


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:  # noqa: F811
    """A page that must have asked for nothing but itself, and complained about nothing, when the test is over."""
    found = Watched(chromium)
    yield found
    assert found.errors == []
    assert {url.partition("#")[0].rpartition("/")[2] for url in found.requests} <= {"index.html"}
    found.close()


def open_task(watched: Watched, file: Path, name: str) -> Any:
    page = watched.open(file, f"#task/{name}")
    page.wait_for_selector(".sample")
    return page


def column(page: Any, name: str) -> list[str]:
    """The first line of each cell of a column of the audit table."""
    names = page.locator("#audit-table thead th").all_inner_texts()
    place = next(place for place, own in enumerate(names) if own.rstrip(" ↑↓") == name) + 1
    return [
        cell.split("\n")[0] for cell in page.locator(f"#audit-table tbody tr > :nth-child({place})").all_inner_texts()
    ]


def test_no_sample_acts(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.evaluate("for (const button of document.querySelectorAll('#samples button')) button.click()")
    assert page.locator("#samples .text", has_text=MARKUP).count() > 0
    assert page.locator(".output").count() > 3 * page.locator(".sample").count()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#samples img, #samples script, #samples b").count() == 0


def test_figures_with_markup_in_their_numbers_do_not_act(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    assert page.evaluate("window.hacked") is None
    assert page.locator("figure h3").inner_text() == "A <b>figure</b> after InstructGPT, Fig. 6"
    assert page.locator("figure img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.locator("figure img").get_attribute("alt") == "Rises, then falls."
    page.locator("figure summary").click()
    assert page.locator("figure tbody tr").count() == 50
    assert page.locator("figure tbody td").nth(2).inner_text() == "–"


@pytest.mark.parametrize("width", [320, 375, 768, 1280, 1600])
@pytest.mark.parametrize("place", ["", "#task/squad2", "#task/rte"])
def test_nothing_is_wider_than_the_window(chromium: Any, file: Path, width: int, place: str) -> None:  # noqa: F811
    watched = Watched(chromium, width=width)
    page = watched.open(file, place)
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    watched.close()


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("place", ["", "#task/squad2", "#task/rte"])
def test_axe_finds_no_serious_fault(chromium: Any, file: Path, place: str, dark: bool, width: int) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python").Axe()
    watched = Watched(chromium, dark=dark, width=width)
    page = watched.open(file, place)
    page.evaluate("for (const sample of [...document.querySelectorAll('.sample')].slice(7)) sample.remove()")
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    watched.close()
    told = [(own["id"], own["nodes"][0]["html"][:120]) for own in found if own["impact"] in ("serious", "critical")]
    assert told == []


def test_text_from_right_to_left_stays_in_its_box(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.fill("#task-text", "بالعربية")
    page.wait_for_selector("#samples mark")
    box = page.locator("#samples .text", has_text="مرحبا").first
    assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"
    assert box.evaluate("box => getComputedStyle(box.closest('.answer').querySelector('h4')).direction") == "ltr"
    assert "⟨U+202E⟩" in box.inner_text()
    assert ARABIC.count("\u202e") == box.inner_text().count("⟨U+202E⟩")


def test_control_characters_are_seen(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.fill("#task-text", "escape")
    page.wait_for_selector("#samples mark")
    assert "bell␇ escape␛[31m red ⟨U+009B⟩ null␀ end" in page.locator("#samples").inner_text()
    assert "\x1b" in CONTROL


def test_a_long_text_is_cut_and_shown_whole_when_asked_for(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.fill("#task-text", LONG[:50])
    page.wait_for_selector("#samples mark")
    cut = page.locator(".cut").first
    assert len(cut.locator(".text").inner_text()) < 2100
    cut.get_by_role("button", name="Show all 100,000 characters").click()
    assert len(page.locator(".cut .text").first.inner_text()) == len(LONG)


def test_a_missing_value_is_a_dash(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "rte")
    assert "NaN" not in page.locator("main").inner_text()
    assert "null" not in page.locator("#results").inner_text()


def test_the_table_sorts_by_a_click_and_by_the_keyboard(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    page.select_option("#audit-metrics", "all")
    header = page.locator("#audit-table thead th", has_text="change")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    changes = [float(text.replace("−", "-")) for text in column(page, "change")]
    assert changes == sorted(changes, reverse=True)
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    changes = [float(text.replace("−", "-")) for text in column(page, "change")]
    assert changes == sorted(changes)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator("#audit-table thead th", has_text="metric").get_attribute("aria-sort") == "ascending"
    assert header.get_attribute("aria-sort") == "none"


def test_the_table_filters_and_tells_how_many(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    assert page.locator("#audit-table tbody tr").count() == 6
    page.select_option("#audit-verdict", "cost")
    assert set(column(page, "task")) == {"squad2"}
    page.select_option("#audit-verdict", "")
    page.select_option("#audit-group", "inference")
    assert set(column(page, "task")) == {"rte"}
    page.select_option("#audit-group", "")
    page.fill("#audit-text", "squad sft")
    page.wait_for_selector("#audit-table tbody:not(:has(tr:nth-child(3)))")
    assert page.locator("#audit-count").inner_text().startswith("2 of ")


def test_another_reference_gives_its_own_comparisons(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    page.select_option("#audit-reference", "ppo")
    assert set(column(page, "systems")) == {"base", "sft"}
    page.select_option("#audit-aligned", "base")
    assert column(page, "verdict") == ["▼ cost", "▲ gain"]
    assert sorted(column(page, "task")) == ["rte", "squad2"]
    assert sorted(column(page, "change")) == ["+0.300", "−0.300"]


def test_the_csv_holds_what_is_shown(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    page.select_option("#audit-verdict", "gain")
    with page.expect_download() as started:
        page.click("#audit-csv")
    text = Path(started.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert started.value.suggested_filename == "audit.csv"
    assert {(row["aligned_model"], row["task"], row["verdict"]) for row in rows} == {("ppo", "rte", "gain")}
    assert all(float(row["delta"]) > 0 for row in rows)


def test_a_figures_csv_holds_all_rows(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    page.locator("figure summary").click()
    with page.expect_download() as started:
        page.locator("figure button.download").click()
    assert len(pd.read_csv(started.value.path())) == 60


def test_a_link_to_a_task_opens_it_and_back_leads_to_the_overview(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "rte")
    assert page.locator("#task-title").inner_text() == "rte"
    assert page.locator("#overview").is_hidden()
    page.locator("#task .back a").click()
    page.wait_for_selector("#tasks", state="visible")
    assert page.locator("#task").is_hidden()
    page.locator("#tasks a", has_text="squad2").click()
    page.wait_for_selector(".sample")
    assert page.locator("#task-title").inner_text() == "squad2"
    assert page.evaluate("document.activeElement.id") == "task-title"
    page.go_back()
    page.wait_for_selector("#overview", state="visible")


def test_the_audit_leads_to_the_set_that_a_row_is_of(watched: Watched, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, name, rte(zero), ("rte", {"acc": shares(four)}, {"shots": 4, "documents_sha256": "e" * 64}))
        for name, zero, four in (("a", 0.3, 0.4), ("b", 0.8, 0.9))
    ]
    page = watched.open(write_page(gather(runs), [], [], tmp_path, "t"))
    page.locator("#audit-table tr", has_text="0.400").locator("a").click()
    page.wait_for_selector(".sample")
    assert page.locator("#task-sets a[aria-current]").inner_text() == "shots 4"
    assert "0.400" in page.locator("#results").inner_text()


def test_a_cut_text_says_how_long_it_was(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_TEXT", 200)
    columns = [{"prompt": "p" * 4500, **wrote("o" * 4501)}]
    folder = write_run(tmp_path, "one", ("squad2", {"f1": [0.5]}, {"columns": columns}))
    page = open_task(watched, write_page(evidence_of(folder), [], [], tmp_path, "t"), "squad2")
    told = page.locator(".sample").inner_text()
    assert "Cut in this file, whole in the run folder: prompt (4,500 characters)." in told
    assert "200 of 4,501 characters are in this file" in told


def test_folded_comparisons_open(watched: Watched, tmp_path: Path) -> None:
    found = nasty_evidence(tmp_path / "runs")
    many = replace(found.audits[""], contrasts=found.audits[""].contrasts * 3)
    page = watched.open(write_page(replace(found, audits={"": many}), [], [], tmp_path, "t"))
    folded = page.locator("details.folded").last
    assert folded.locator(".findings").first.is_hidden()
    assert "against" in folded.locator("summary").first.inner_text()
    folded.locator("summary").first.click()
    assert folded.locator(".findings").first.is_visible()


def test_an_unknown_task_says_so(watched: Watched, file: Path) -> None:
    page = watched.open(file, "#task/%3Cimg%20src=x%3E")
    assert page.locator("#task-title").inner_text() == "No task is called <img src=x>"


def test_the_worst_regressions_come_first(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    assert page.locator("#task-order").input_value() == "worst"
    first = page.locator(".sample").first
    assert "▼ −1.000 worse" in first.inner_text()
    page.select_option("#task-show", "improvement")
    assert page.locator("#task-count").inner_text().startswith(f"0 of {N}")
    page.select_option("#task-show", "regression")
    assert page.locator("#task-count").inner_text().startswith("36 of ")
    page.select_option("#task-reference", "2")  # against ppo, what was lost is gained
    page.select_option("#task-show", "improvement")
    assert page.locator("#task-count").inner_text().startswith("36 of ")


def test_samples_are_filtered_by_category_and_searched(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "rte")
    page.select_option("#task-category", "odd")
    assert page.locator("#task-count").inner_text().startswith(f"{N // 2} of {N}")
    page.fill("#task-text", "Question 77.")
    page.wait_for_selector("#samples:not(:has(.sample:nth-child(2))) mark")
    assert page.locator(".sample h3").inner_text() == "document 77"
    assert page.locator("#samples mark").first.inner_text() == "Question 77."
    page.fill("#task-text", "nowhere to be found")
    page.wait_for_selector("text=No sample is like that.")


def test_samples_stand_side_by_side_with_what_is_right(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "rte")
    first = page.locator(".sample").first
    assert [text.split("\n")[0] for text in first.locator("thead th").all_inner_texts()] == [
        "choice",
        "base",
        "sft",
        "ppo",
    ]
    assert "✓ right" in first.locator("tbody tr").first.inner_text()
    page = open_task(watched, file, "squad2")
    first = page.locator(".sample").first
    assert first.locator("h4").all_inner_texts() == ["base reference", "sft", "ppo"]
    first.locator(".answer").first.get_by_role("button", name="2 more").click()
    assert first.locator(".answer").first.locator(".output").count() == 3


def test_pages_turn_by_the_keyboard(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.select_option("#task-order", "document")
    assert page.locator(".sample h3").first.inner_text() == "document 0"
    page.get_by_role("button", name="Next ›").focus()
    page.keyboard.press("Enter")
    assert page.locator(".sample h3").first.inner_text() == "document 25"
    assert page.evaluate("document.activeElement.textContent") == "Next ›"
    page.get_by_role("button", name="Last »").click()
    assert page.locator(".sample").count() == N - 100


def test_the_first_stop_of_the_keyboard_leads_to_the_content(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    assert page.locator("#overview").is_visible()


def test_the_theme_can_be_chosen(watched: Watched, file: Path) -> None:
    page = watched.open(file)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    assert page.evaluate(paper) == light
    page.click("#theme")
    assert page.evaluate(paper) != light
    assert "dark" in page.locator("#theme").inner_text()


def test_printed_are_all_sections_and_no_controls(watched: Watched, file: Path) -> None:
    page = open_task(watched, file, "squad2")
    page.emulate_media(media="print")
    for name in SECTIONS:
        assert page.locator(f"#{name}").is_visible(), name
    assert page.locator("form:visible, button:visible:not(.sort), nav:visible").count() == 0
    assert page.locator(".sample:visible").count() == 5


def test_without_a_script_the_verdict_and_the_figures_are_there(chromium: Any, file: Path) -> None:  # noqa: F811
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".verdict").count() == 3
    assert page.locator("figure img").is_visible()
    assert "need JavaScript" in page.locator("main").inner_text()
    context.close()


def test_ten_thousand_samples_of_four_systems_can_be_paged_and_searched(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = many(tmp_path)
    began = time.perf_counter()
    written = write_page(evidence, [], [], tmp_path, "Many")
    took = time.perf_counter() - began
    page = watched.open(written)
    opened = page.evaluate(
        """async () => {
            const began = performance.now();
            location.hash = "#task/squad2";
            while (!document.querySelector(".sample")) await new Promise(requestAnimationFrame);
            return performance.now() - began;
        }"""
    )
    page.wait_for_timeout(500)
    searched = page.evaluate(
        """async () => {
            const found = [], box = document.querySelector("#task-text");
            for (const word of ["needle", "capital of country 77", "kalomir", "zzz", ""]) {
                const told = document.querySelector("#task-count"), before = told.textContent;
                const began = performance.now();
                box.value = word;
                box.dispatchEvent(new Event("input", { bubbles: true }));
                while (told.textContent === before) await new Promise(requestAnimationFrame);
                found.push([word, Math.round(performance.now() - began), told.textContent]);
            }
            return found;
        }"""
    )
    assert searched[0][2].startswith("10 of 10,000")
    assert searched[-1][2].startswith("10,000 of 10,000")
    assert page.locator(".sample").count() == 25
    with capsys.disabled():
        megabytes = written.stat().st_size / 1e6
        print(
            f"\n10,000 × 4 samples: written in {took:.1f} s, {megabytes:.1f} MB, opened in {opened:.0f} ms; search",
            searched,
        )


def test_a_word_far_inside_a_long_text_is_shown_where_it_is_found(watched: Watched, tmp_path: Path) -> None:
    text = "early " + "filler " * 1000 + "needle" + " after" * 1000
    columns = [{"prompt": f"Prompt {row}", **wrote(text if row == 7 else "short")} for row in range(30)]
    folder = write_run(tmp_path, "one", ("squad2", {"f1": [0.5] * 30}, {"columns": columns}))
    page = open_task(watched, write_page(evidence_of(folder), [], [], tmp_path, "t"), "squad2")
    page.fill("#task-text", "needle")
    page.wait_for_selector("#samples mark")
    shown = page.locator(".output .text").first.inner_text()
    assert "needle after" in shown
    assert shown.startswith("…")
    assert "early" not in shown
