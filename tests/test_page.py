"""The page holds what the run folders say, in the order of its importance, and nothing of it can act."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from audit_runs import around, shares, write_run
from hypothesis import given
from hypothesis import strategies as st
from page_runs import MARKUP, N, chose, evidence_of, nasty_evidence, rte, squad, wrote
from reports.page.audits import COLUMNS
from reports.page.blocks import number, pack, shown, told, unpack
from reports.page.preferred import win_rates
from reports.page.provenance import sources
from reports.page.verdict import FIRST, at_equal_lengths, methods, verdicts

from alignbench.audit.compare import compare
from alignbench.cli.app import app
from reports.evidence import Evidence, gather
from reports.page import samples
from reports.page.page import HERE, SCRIPTS, write_page
from reports.page.samples import block_of
from reports.page.sets import all_sets, link_to, set_of, sets_of

LEFT_OUT = [("Likert", "no labels with an overall score")]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return nasty_evidence(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(evidence, [], LEFT_OUT, tmp_path_factory.mktemp("page"), "A title <b>&").read_text(
        encoding="utf-8"
    )


def battles(share: float) -> dict[str, list[float]]:
    return {"win_rate": shares(share), "length_difference": [float(row % 7 - 3) for row in range(N)]}


class Elements(HTMLParser):
    """Start tags with attributes, and the text of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in self.inside and data.strip():
            self.inside[self.tags[-1][0]].append(data)


def block(page: str, name: str) -> object:
    found = re.search(rf'id="data-{name}">([A-Za-z0-9+/=]*)</script>', page)
    assert found
    return unpack(found.group(1))


def test_the_verdict_stands_before_the_table_the_tasks_and_the_provenance(page: str) -> None:
    places = [page.index(f'<section id="{name}"') for name in ("verdict", "audit", "figures", "tasks", "provenance")]
    assert places == sorted(places)


def test_the_verdict_tells_each_change_with_number_interval_and_documents(evidence: Evidence) -> None:
    (of_base,) = [
        v for v in verdicts(evidence.audits[""], all_sets(evidence)) if (v.aligned, v.reference) == ("ppo", "base")
    ]
    (gain,), (cost,) = of_base.gains, of_base.costs
    assert gain.link == "#task/rte"
    assert gain.numbers.startswith("0.500 → 0.800, +0.300 [+0.")
    assert cost.numbers.startswith("0.700 → 0.400, −0.300 [−0.")
    assert f"n = {N}" in gain.tail
    assert "Of 2 headline metrics, 1 gained and 1 paid; none is not decided." in of_base.summary
    assert "pretrained" in of_base.role


def test_what_is_not_decided_says_what_could_have_been_seen(evidence: Evidence) -> None:
    (of_base,) = [
        v for v in verdicts(evidence.audits[""], all_sets(evidence)) if (v.aligned, v.reference) == ("sft", "base")
    ]
    rows = {row.task: row for row in evidence.audits[""].contrasts[0].rows if row.headline}
    assert {one.link for one in of_base.open} == {"#task/rte", "#task/squad2"}
    for one in of_base.open:
        assert f"a change of {told(rows[one.link[6:]].detectable, 'share')} would have been seen" in one.tail


def test_a_win_rate_is_a_verdict_by_where_its_interval_lies_to_one_half(tmp_path: Path) -> None:
    def against(name: str, share: float) -> Path:
        task = ("win_rate", battles(share), {"baseline": {"name": "base"}})
        return write_run(tmp_path, name, task)

    found = win_rates(all_sets(evidence_of(against("good", 0.8), against("bad", 0.2), against("alike", 0.5))))
    assert [[one.title for one in found[kind]] for kind in ("gain", "cost", "open")] == [
        ["good against base"],
        ["bad against base"],
        ["alike against base"],
    ]


def battles_won_by_length(share: float) -> dict[str, list[float]]:
    """A judge who always takes the longer answer, of whichever length."""
    wins = shares(share)
    differences = [(10.0 + row % 50) * (1 if win else -1) for row, win in enumerate(wins)]
    return {
        "win_rate": wins, "length_difference": differences, "longer": wins, "agrees_with_longer": [1.0] * N,
        "words": [80.0] * N, "baseline_words": [40.0] * N, "position_consistency": [1.0] * N,
    }  # fmt: skip


AGAINST_BASE = {"baseline": {"name": "base"}}


def test_a_win_rate_that_lengths_may_explain_is_no_gain_and_stands_beside_the_lengths(tmp_path: Path) -> None:
    found = win_rates(
        all_sets(evidence_of(write_run(tmp_path, "long", ("win_rate", battles_won_by_length(0.62), AGAINST_BASE))))
    )
    assert (found["gain"], found["cost"]) == ([], [])
    (one,) = found["open"]
    assert one.caveat == "more than half as judged, but not decided at equal lengths"
    assert re.fullmatch(r"win rate 0\.617 \[0.+\]; at equal lengths 0\.\d+ \[0.+\]", one.numbers)
    assert (
        "80.0 words against 40.0; always the longer: win rate 0.617, the same verdict as this judge in 1.000"
        in one.tail
    )
    assert "the same verdict in both orders in 1.000; n = 120" in one.tail


def test_what_is_left_of_a_win_rate_at_equal_lengths() -> None:
    assert at_equal_lengths(0.3, 0.1, 0.4) == "the same way at equal lengths"
    assert at_equal_lengths(0.3, -0.1, 0.4) == "not decided at equal lengths"
    assert at_equal_lengths(0.3, -0.4, -0.1) == "the other way at equal lengths"
    assert at_equal_lengths(-0.3, 0.1, 0.4) == "the other way at equal lengths"


def test_a_gain_in_win_rate_says_what_is_left_of_it_at_equal_lengths(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, name, ("win_rate", {**battles_won_by_length(share), "words": [words] * N}, AGAINST_BASE))
        for name, share, words in (("sft", 0.4, 40.0), ("ppo", 0.8, 90.0))
    ]
    found = gather(runs)
    assert found.audit is not None
    (of_sft,) = verdicts(found.audit, all_sets(found))
    (gain,) = of_sft.gains
    assert gain.caveat.startswith("the same way at equal lengths (win_rate_length_controlled 0.411 → 0.659 [+0.")
    assert "words 40.0 → 90.0; agrees_with_longer 1.000 → 1.000" in gain.caveat


def test_every_cell_of_the_tasks_and_of_the_verdict_tells_n_and_what_is_unscored(tmp_path: Path) -> None:
    some: list[float | None] = [*shares(0.5)[:85], *[None] * 35]
    runs = [write_run(tmp_path, name, ("rte", {"acc": values})) for name, values in (("a", shares(0.5)), ("b", some))]
    found = gather(runs)
    assert found.audit is not None
    (one,) = verdicts(found.audit, all_sets(found))
    assert [row.tail.endswith("n = 85, 35 unscored") for row in (*one.open, *one.gains, *one.costs)] == [True]
    table = write_page(found, [], [], tmp_path, "t").read_text(encoding="utf-8").partition('<section id="tasks"')[2]
    assert '<span class="sub">n = 120</span>' in table
    assert '<span class="sub">n = 85, 35 unscored</span>' in table


def test_nothing_scored_is_no_dash_alone(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, name, ("rte", {"acc": values})) for name, values in (("a", shares(0.5)), ("b", [None] * N))
    ]
    systems = evidence_of(*folders).systems
    (own,) = systems[1].tasks
    bare = replace(own, result=replace(own.result, metrics=()))  # as of BLEU, where there is no output at all
    for found in (systems, (systems[0], replace(systems[1], tasks=(bare,)))):
        text = write_page(Evidence(found), [], [], tmp_path, "t").read_text(encoding="utf-8")
        assert '–<span class="sub">n = 0, 120 unscored</span>' in text


def test_an_entropy_of_a_bias_stands_beside_the_way_it_goes(tmp_path: Path) -> None:
    def run(name: str, entropy: float, share: float) -> Path:
        return write_run(tmp_path, name, ("crows_pairs", {"entropy": around(entropy), "pct_stereotype": shares(share)}))

    found = gather([run("before", 0.4, 0.6), run("after", 0.7, 0.55)])
    assert found.audit is not None
    (gain,) = verdicts(found.audit, all_sets(found))[0].gains
    assert gain.caveat == "more even, or only less sure: pct_stereotype 0.600 → 0.550"


def test_a_sentence_shows_of_the_template_what_tells_rows_apart(tmp_path: Path) -> None:
    def told_of(*templates: str) -> tuple[list[str], str]:
        runs = []
        for name, share in (("a", 0.5), ("b", 0.5)):
            tasks = [
                (task, values, {**more, "template": t})
                for t in templates
                for task, values, more in [squad(share, ["x"])]
            ]
            runs.append(write_run(tmp_path / "-".join(templates), name, *tasks))
        found = gather(runs)
        assert found.audit is not None
        one = verdicts(found.audit, all_sets(found))[0]
        return sorted(row.how for row in one.open), one.role

    alone = "f1, share, higher is better"
    assert told_of("none") == ([alone], "")
    assert told_of("chat") == ([alone], "both asked with their chat template")
    assert told_of("none", "chat") == ([f"{alone}, template chat", f"{alone}, template none"], "")


def test_a_model_asked_in_two_ways_is_told_as_such(tmp_path: Path) -> None:
    tasks = [
        (task, values, {**more, "template": t}) for t in ("none", "chat") for task, values, more in [squad(0.5, "x")]
    ]
    folder = write_run(tmp_path, "a", *tasks)
    audit = compare([str(folder)], across_templates=True)
    (one,) = verdicts(audit, all_sets(evidence_of(folder)))
    assert (one.aligned, one.reference) == ("a (chat)", "a")
    assert one.role == "the first with its chat template, the second without a template"


def test_links_lead_to_the_set_that_a_row_is_of(tmp_path: Path) -> None:
    def run(name: str, zero: float, four: float) -> Path:
        return write_run(
            tmp_path, name, rte(zero), ("rte", {"acc": shares(four)}, {"shots": 4, "documents_sha256": "e"})
        )

    found = gather([run("a", 0.3, 0.4), run("b", 0.8, 0.9)])
    assert found.audit is not None
    sets = all_sets(found)
    gains = verdicts(found.audit, sets)[0].gains
    assert {(one.link, one.numbers[:13]) for one in gains} == {
        ("#task/rte", "0.300 → 0.800"),
        ("#task/rte/2", "0.400 → 0.900"),
    }
    assert {one.how.rpartition(", ")[2] for one in gains} == {"shots 0", "shots 4"}
    core = block(write_page(found, [], [], tmp_path, "t").read_text(encoding="utf-8"), "core")
    assert isinstance(core, dict)
    (contrast,) = [core["contrasts"][place] for place in core["audits"][""]]
    before = [row[COLUMNS.index("reference")] for row in contrast["rows"]]
    assert dict(zip(before, contrast["sets"], strict=True)) == {0.3: 0, 0.4: 1}
    assert [task.link for task in sources(found, sets)[0].tasks] == ["#task/rte", "#task/rte/2"]


def test_a_row_of_the_same_settings_is_of_the_documents_that_have_its_values(tmp_path: Path) -> None:
    def run(name: str, here: float, there: float) -> Path:
        other = ("rte", {"acc": shares(there, 40)}, {"documents_sha256": "e" * 64})
        return write_run(tmp_path, name, rte(here), other)

    found = gather([run("a", 0.3, 0.4), run("b", 0.8, 0.9)])
    assert found.audit is not None
    sets = all_sets(found)["rte"]
    assert [one.note for one in sets] == ["120 documents", "another 40 documents"]
    for row in found.audit.contrasts[0].rows:
        chosen = set_of(row, found.audit.contrasts[0], sets)
        assert chosen is not None
        assert chosen.documents == row.n
    table = write_page(found, [], [], tmp_path, "t").read_text(encoding="utf-8").partition('<section id="tasks"')[2]
    assert '<a href="#task/rte/2">rte</a><span class="sub">another 40 documents</span>' in table


def test_names_of_tasks_are_whole_parts_of_an_address() -> None:
    assert link_to("a/b c") == "#task/a%2Fb%20c"


def test_the_methods_are_those_of_the_rows_and_no_other(evidence: Evidence, tmp_path: Path) -> None:
    assert methods(evidence.audits[""]) == (
        "Intervals are 95 %: of 10,000 paired resamples (seed 0); adjusted Wald where few documents changed. "
        "For yes or no, p is McNemar's."
    )
    few = [1.0] * 3 + [0.0] * 117
    runs = [write_run(tmp_path, name, ("squad2", {"f1": f1})) for name, f1 in (("a", [0.0] * N), ("b", few))]
    audit = gather(runs).audit
    assert audit is not None
    assert methods(audit) == "Intervals are 95 %: adjusted Wald where few documents changed."


def test_an_audit_against_a_chosen_reference_is_the_one_that_is_told(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name, rte(share)) for name, share in (("a", 0.3), ("b", 0.8))]
    found = gather(runs, reference="b")
    assert list(found.audits) == ["b"]
    text = write_page(found, [], [], tmp_path, "t").read_text(encoding="utf-8")
    assert "All are compared with <bdi>b</bdi>" in text
    assert "0.800 → 0.300, −0.500" in text


def test_many_comparisons_are_folded_but_for_the_first(evidence: Evidence, tmp_path: Path) -> None:
    audit = evidence.audits[""]
    many = replace(audit, contrasts=audit.contrasts * 10)
    text = write_page(replace(evidence, audits={"": many}), [], [], tmp_path, "t").read_text(encoding="utf-8")
    assert text.count('<article class="verdict">') == FIRST
    assert text.count('<details class="verdict folded">') == len(many.contrasts) - FIRST


def test_every_row_of_every_audit_is_in_the_table(evidence: Evidence, page: str) -> None:
    core = block(page, "core")
    assert isinstance(core, dict)
    assert list(core["audits"]) == list(evidence.audits)
    for reference, audit in evidence.audits.items():
        told_rows = [row for place in core["audits"][reference] for row in core["contrasts"][place]["rows"]]
        rows = [row for contrast in audit.contrasts for row in contrast.rows]
        assert [row[COLUMNS.index("delta")] for row in told_rows] == [number(row.delta) for row in rows]


def test_the_same_runs_give_the_same_bytes(evidence: Evidence, page: str, tmp_path: Path) -> None:
    again = write_page(evidence, [], LEFT_OUT, tmp_path, "A title <b>&")
    assert again.read_text(encoding="utf-8") == page


def test_the_page_holds_no_place_on_a_disk(evidence: Evidence, page: str) -> None:
    blocks = "".join(json.dumps(unpack(text)) for text in re.findall(r'id="data-[^"]*">([^<]*)<', page))
    for system in evidence.systems:
        assert str(system.run.path.parent) not in page + blocks


def test_nothing_but_the_pages_own_script_and_style_may_act(page: str) -> None:
    elements = Elements(page)
    (policy,) = [a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    script, style = elements.inside["script"][-1], elements.inside["style"][0]
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_nothing_is_fetched_and_no_markup_acts(page: str) -> None:
    for tag, attributes in Elements(page).tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_the_title_is_escaped(page: str) -> None:
    assert "<title>A title &lt;b&gt;&amp;</title>" in page


def test_names_are_escaped_and_their_control_characters_shown(tmp_path: Path) -> None:
    name = '<script>alert(1)</script>"\x1b\u202e'
    folder = write_run(tmp_path, "plain", rte(0.5))
    described = json.loads((folder / "run.json").read_text())
    described["model"]["name"] = name
    (folder / "run.json").write_text(json.dumps(described))
    text = write_page(evidence_of(folder), [], [], tmp_path, "t").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;␛⟨U+202E⟩" in text


def test_scripts_never_parse_text_as_markup_or_code() -> None:
    for name in SCRIPTS:
        text = (HERE / name).read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "fetch("):
            assert word not in text, (name, word)


def test_figures_without_data_are_listed_with_the_reason(page: str) -> None:
    assert "<strong>Likert</strong>: no labels with an overall score" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_a_block_gives_back_what_was_packed(content: object) -> None:
    assert unpack(pack(content)) == content
    assert re.fullmatch("[A-Za-z0-9+/=]*", pack(content))


@given(st.floats())
def test_numbers_keep_six_digits_and_nothing_else_is_a_number(value: float) -> None:
    found = unpack(pack(value))
    assert found is None if not math.isfinite(value) else found == pytest.approx(value, rel=1e-5, abs=0)


def test_a_lone_surrogate_does_not_stop_the_page() -> None:
    assert "\ufffd" in unpack(pack("\ud800"))
    assert shown("\ud800\x00\x1b\x7f\x85\u2066 a\n\tb") == "\ufffd␀␛␡⟨U+0085⟩⟨U+2066⟩ a\n\tb"


def test_documents_stand_side_by_side_where_id_and_prompt_are_the_same(tmp_path: Path) -> None:
    def run(name: str, prompts: list[str]) -> Path:
        columns = [{**chose(row, 1), "prompt": prompt} for row, prompt in enumerate(prompts)]
        return write_run(tmp_path, name, ("rte", {"acc": [1.0] * len(prompts)}, {"columns": columns}))

    evidence = evidence_of(run("one", ["a", "b"]), run("two", ["a", "other", "c"]))
    (chosen,) = sets_of(evidence, "rte")
    found = block_of(chosen)
    assert [document["prompt"] for document in found["documents"]] == ["a", "b", "other", "c"]
    assert [[answer is not None for answer in own] for own in found["answers"]] == [
        [True, True, False, False],
        [True, False, True, True],
    ]


def test_a_sample_has_its_texts_values_and_right_answer_and_no_heavy_columns(evidence: Evidence) -> None:
    (chosen,) = sets_of(evidence, "squad2")
    found = block_of(chosen)
    assert [metric["name"] for metric in found["metrics"]] == ["f1", "words"]
    ppo = found["answers"][found["systems"].index("ppo")]
    assert [output["text"] for output in ppo[0]["outputs"]] == [MARKUP, "second 0", "third 0"]
    assert set(ppo[0]["outputs"][0]) == {"text"}
    (chosen,) = sets_of(evidence, "rte")
    found = block_of(chosen)
    assert found["documents"][0]["right"] == [0]
    assert sorted(found["answers"][0][0]["logprobs"]) == [-2.5, -1.5]


def test_no_value_is_none_and_never_zero(tmp_path: Path) -> None:
    columns = [
        {"prompt": "p", **wrote("x")},
        {"prompt": "p", **wrote("y", scores={"toxicity": {"toxicity": 0.123456}})},
    ]
    folder = write_run(tmp_path, "one", ("squad2", {"f1": [None, 0.0]}, {"columns": columns}))
    (file,) = folder.glob("*/documents.jsonl")
    file.write_text(file.read_text().replace("0.123456", "NaN"))  # as other programs write it
    found = block_of(sets_of(evidence_of(folder), "squad2")[0])
    assert [answer["values"] for answer in found["answers"][0]] == [[None], [0]]
    assert found["answers"][0][0]["unscored"] == "made up"
    assert "scores" not in found["answers"][0][1]["outputs"][0]


def test_other_shots_scorers_and_baselines_are_sets_of_their_own(tmp_path: Path) -> None:
    def judged(name: str, *baselines: str) -> Path:
        tasks = [("win_rate", battles(0.5), {"baseline": {"name": own}}) for own in baselines]
        return write_run(tmp_path, name, *tasks)

    found = sets_of(evidence_of(judged("one", "x", "y"), judged("two", "y")), "win_rate")
    assert [(one.note, [system.name for system, _ in one.folders]) for one in found] == [
        ("against y", ["one", "two"]),
        ("against x", ["one"]),
    ]


def test_of_too_many_documents_the_worst_regressions_stay_and_the_rest_is_drawn_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_DOCUMENTS", 40)
    before, after = [1.0] * N, [0.0 if row >= 110 else 1.0 for row in range(N)]
    runs = [write_run(tmp_path, name, ("rte", {"acc": v})) for name, v in (("before", before), ("after", after))]
    found = block_of(sets_of(evidence_of(*runs), "rte")[0])
    kept = [int(document["id"].split()[1]) for document in found["documents"]]
    assert found["total"] == N
    assert len(kept) == 40
    assert set(range(110, 120)) <= set(kept)
    assert max(later - earlier for earlier, later in pairwise(kept)) <= 6


def test_long_samples_count_by_their_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_CHARACTERS", 60_000)
    folder = write_run(tmp_path, "one", squad(0.5, ["x" * 1000]))
    found = block_of(sets_of(evidence_of(folder), "squad2")[0])
    assert 0 < len(found["documents"]) < found["total"] == N
    assert sum(len(o["text"]) for answer in found["answers"][0] for o in answer["outputs"]) <= 60_000


def test_a_text_beyond_all_bounds_is_cut_and_the_sample_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_TEXT", 200)
    monkeypatch.setattr(samples, "MOST_CHARACTERS", 1000)
    columns = [{"prompt": "p" * 4500, **wrote("o" * 4501), "source": "s" * 4502, "references": ["r", "r" * 4503]}]
    folder = write_run(tmp_path, "one", ("squad2", {"f1": [0.5]}, {"columns": columns}))
    found = block_of(sets_of(evidence_of(folder), "squad2")[0])
    (document,) = found["documents"]
    assert document["cut"] == {"prompt": 4500, "right answer 2": 4503, "source text": 4502}
    assert [len(document["prompt"]), len(document["source"]), *map(len, document["references"])] == [200, 200, 1, 200]
    (output,) = found["answers"][0][0]["outputs"]
    assert (len(output["text"]), output["length"]) == (200, 4501)


def test_at_least_one_document_is_shown_however_long_all_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_CHARACTERS", 10)
    folder = write_run(tmp_path, "one", squad(0.5, ["x" * 1000]))
    assert len(block_of(sets_of(evidence_of(folder), "squad2")[0])["documents"]) == 1


def test_every_command_is_one_that_alignbench_understands(evidence: Evidence) -> None:
    for source in sources(evidence, {}):
        for task in source.tasks:
            words = parsed(task.command)
            assert words["tasks"] == task.task
            assert words["seed"] == 0


def test_a_command_has_the_settings_of_its_folder_and_is_safe_to_paste(tmp_path: Path) -> None:
    changes = {
        "limit": 50,
        "shots": 3,
        "scorers": [{"kind": "toxicity", "name": "detoxify; rm -rf", "revision": "r" * 40}],
        "template": "none",
        "baseline": {"name": "$(reboot)"},
        "data": [{"card": "", "split": "", "source": "my prompts.jsonl", "revision": "r", "rows": N, "pinned": False}],
    }
    folder = write_run(tmp_path, "it's `me`", ("answers", {"answer_rate": [1.0] * N}, changes))
    ((task,),) = [source.tasks for source in sources(evidence_of(folder), {})]
    found = parsed(task.command)
    assert found["checkpoints"] == ["it's `me`"]
    assert found["scorer"] == ["toxicity=detoxify; rm -rf"]
    assert found["baseline"] == "$(reboot)"
    assert (found["limit"], str(found["prompts"]), found["template"]) == (50, "my prompts.jsonl", "none")


def test_outputs_of_a_file_have_the_command_that_scores_the_file(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, name, ("win_rate", battles(0.5), {"baseline": {"name": "the other"}}))
        for name in ("one", "the other")
    ]
    for folder in folders:
        told_of_it = json.loads((folder / "run.json").read_text())
        del told_of_it["engine"]
        told_of_it["model"] = {"name": told_of_it["model"]["name"], "outputs": f"{told_of_it['model']['name']}.jsonl"}
        told_of_it["read"] = {"columns": {"response": "output"}, "in_order": False}
        (folder / "run.json").write_text(json.dumps(told_of_it))
    found = parsed(sources(evidence_of(*folders), {})[0].tasks[0].command)
    assert (str(found["file"]), found["name"], found["task"]) == ("one.jsonl", "one", "win_rate")
    assert (str(found["baseline"]), found["columns"]) == ("the other.jsonl", ["response=output"])


def parsed(command: str) -> dict[str, object]:
    """What the command line makes of it, without doing it."""
    program, name, *words = shlex.split(command)
    assert program == "alignbench"
    commands = typer.main.get_command(app)
    return commands.commands[name].make_context(name, words).params  # type: ignore[attr-defined]


def test_provenance_names_weights_data_and_software(evidence: Evidence) -> None:
    (ppo,) = [source for source in sources(evidence, {}) if source.name == "ppo"]
    facts = dict(ppo.facts)
    weights = next(system.run.weights for system in evidence.systems if system.name == "ppo")
    assert facts["weights sha256"] == str(weights)[:12]
    assert facts["lineage"] == "base: base → sft: sft → ppo: ppo"
    assert "revision rrrrrrrrrrrr" in dict(ppo.tasks[0].facts)["data"]


def test_one_system_alone_has_a_page(tmp_path: Path) -> None:
    text = write_page(evidence_of(write_run(tmp_path, "one", rte(0.5))), [], [], tmp_path, "t").read_text(
        encoding="utf-8"
    )
    assert "There is nothing to compare" in text
    assert '<section id="audit"' not in text
