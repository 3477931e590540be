"""The page contains what the run folders contain, in order of importance, and no text in it can act."""

import base64
import gzip
import hashlib
import html
import json
import math
import re
from dataclasses import replace
from itertools import chain, pairwise, product
from xml.etree import ElementTree

import pytest
from audit_runs import around, shares, write_run
from cases import update
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import AGAINST_BASE, MARKUP, N, evidence_of, rte, squad, wrote

from alignbench.audit.compare import compare
from reports.evidence import Evidence, gather
from reports.figures import audit
from reports.page import samples
from reports.page.abstract import on_preference
from reports.page.data import COLUMNS, findings, sets_of, task_link, win_rates
from reports.page.format import number, pack, visible
from reports.page.page import HERE, SCRIPTS, write_page
from reports.style import DARK, styled

pytest_plugins = ("report_fixtures",)
LEFT_OUT = {"Likert ratings": "no table of labels with Likert ratings"}
PARSERS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "fetch(")
OTHER = {"documents_sha256": "e" * 64}


@pytest.fixture(scope="module")
def page(nasty_texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    return write_page(nasty_texts, [], LEFT_OUT, out, "A title <b>&")[0].read_text(encoding="utf-8")


def written(evidence, out):
    return write_page(evidence, [], {}, out, "t")[0].read_text(encoding="utf-8")


def gathered(out, **systems):
    """Evidence of systems, each with a task or a list of tasks."""
    return gather([write_run(out, name, *(own if isinstance(own, list) else [own])) for name, own in systems.items()])


def text_of(page):
    """The text of the verdict and the findings, as a reader sees it."""
    own = page.partition('<section id="verdict"')[2].partition('<section id="tasks"')[0]
    own = re.sub('<section id="(audit|figures)".*?</section>', "", own, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", own)))


def unpack(block):
    """What a browser reads from a block."""
    return json.loads(gzip.decompress(base64.b64decode(block)))


def sets(evidence):
    return {task: sets_of(evidence, task) for task in evidence.tasks}


def battles(rate, words=80.0):
    """A judge who prefers the longer answer in every battle."""
    wins = shares(rate)
    differences = [(10.0 + row % 50) * (1 if win else -1) for row, win in enumerate(wins)]
    context = {"agrees_with_longer": [1.0] * N, "words": [words] * N, "baseline_words": [40.0] * N}
    return "win_rate", {"win_rate": wins, "length_difference": differences, "longer": wins, **context}, AGAINST_BASE


def fair_battles(rate, changes=AGAINST_BASE):
    differences = [float(row % 7 - 3) for row in range(N)]
    return "win_rate", {"win_rate": shares(rate), "length_difference": differences}, changes


def answers(*templates):
    task, values, more = squad(0.5, ["x"])
    return [(task, values, {**more, "template": template}) for template in templates]


def crows(entropy, rate):
    return "crows_pairs", {"entropy": around(entropy), "pct_stereotype": shares(rate)}


class TestVerdict:
    def test_it_is_first_and_each_change_has_values_interval_and_number_of_documents(self, page, nasty_texts):
        sections = re.findall(r'<section id="(\w+)"', page)
        assert sections == ["verdict", "findings", "audit", "figures", "tasks", "provenance", "run"]
        (row, *_) = [row for row in nasty_texts.audits[""].contrasts[0].rows if row.headline]
        for words in (
            r"0\.500 → 0\.800, \+0\.300 \[\+0\.\d+, \+0\.\d+\] acc ↑, proportion",
            r"0\.700 → 0\.400, −0\.300 \[−0\.\d+, −0\.\d+\] f1 ↑, proportion",
            rf"p \(Holm\) < \.001; n = {N}", "ppo against base, its pretrained model",
            r"Benchmarks: gain 2, loss 1, retained 0, inconclusive 0\.", rf"MDE {row.detectable:.3f} \(80 % power\)",
            r"ppo against base, its pretrained model Improved: calibration\. Inconclusive: capability\.",
            r"Capability: inconclusive\. On average over 2 benchmarks, scores rose by 0\.00 % of a metric’s range "
            r"\(95 % interval \[−\d.*RTE: acc ↑ rose from 0\.500 to 0\.800 \(change \+0\.300; 95 % interval "
            r"\[\+0\.\d+, \+0\.\d+\]; corrected p < \.001\)\. samples",
            r"compared with the model that it was trained from\?",
            r"p < \.05 after Holm’s correction .* a loss of more than 1 % of the metric’s range",
            r"95 % intervals: 10,000 paired resamples \(seed 0\); adjusted Wald if few documents changed\. Binary "
            r"metrics: p of McNemar's test\.",
        ):  # fmt: skip
            assert re.search(words, text_of(page)), words

    @pytest.mark.parametrize(
        ("systems", "words"),
        [
            ({"a": ("squad2", {"f1": [0.0] * N}), "b": ("squad2", {"f1": [1.0] * 3 + [0.0] * 117})},
             ["95 % intervals: adjusted Wald if few documents changed."]),
            ({"long": battles(0.62)},
                [r"long against base win rate 0\.617 \[0.+?\]; at equal lengths 0\.\d+ \[0.+?\] above ½, but "
                 r"inconclusive at equal lengths80\.0 words, baseline 40\.0; win rate of the longer answer 0\.617; "
                 r"agreement of the judge with the longer answer 1\.000; n = 120"]),
            ({"sft": battles(0.4, 40.0), "ppo": battles(0.8, 90.0)},
                [r"same direction at equal lengths \(win_rate_length_controlled 0\.411 → 0\.659 \[\+0\.",
                 r"; words 40\.0 → 90\.0; agrees_with_longer 1\.000 → 1\.000"]),
            ({"base": rte(0.5), "ppo": [rte(0.8), fair_battles(0.8)]},
                [r"Improved: preference, capability, calibration\. ▲ Preference improved\. ppo is preferred to base on "
                 r"80\.0 % of 120 prompts \(95 % interval \[7\d\.\d, 8\d\.\d\] %; ties count half; above ½ at equal "
                 r"lengths\)\. samples "
                 r"▲ Capability improved\. On average over 1 benchmark, scores rose by 30\.00 % of a metric’s range"]),
            ({"base": answers("none"),
              "ppo": [*answers("none", "chat"), *(fair_battles(r, {**AGAINST_BASE, "template": t})
                                                  for t, r in (("none", 0.2), ("chat", 0.9)))]},
                [r"ppo against base Got worse: preference.*▼ Preference got worse\. ppo is preferred to base on 20",
                 r"ppo against base, each with its own chat template, if it has one Improved: preference.*▲ Preference "
                 r"improved\. ppo \(chat\) is preferred to base on 90\.0 %"]),
            ({"before": crows(0.4, 0.6), "after": crows(0.7, 0.55)},
             [r"more even, or less certain: pct_stereotype 0\.600 → 0\.550"]),
            ({"a": answers("none", "chat"), "b": answers("none", "chat")},
             ["f1 ↑, proportion, none;", "f1 ↑, proportion, chat;"]),
            ({"one": rte(0.5)}, ["No systems can be compared"]),
        ],
    )  # fmt: skip
    def test_it_says_what_a_number_alone_would_hide(self, systems, words, tmp_path):
        page = written(gathered(tmp_path, **systems), tmp_path)
        for own in words:
            assert re.search(own, text_of(page)), own
        assert ('<section id="audit"' in page) == (len(systems) > 1)

    def test_a_win_rate_without_an_interval_says_so(self, tmp_path):
        found = win_rates(sets(gathered(tmp_path, one=fair_battles(0.5))))["inconclusive"][0]
        rate = replace(found["metrics"]["win_rate"], low=None, high=None)
        ((own,),) = (
            one.sentences for one in on_preference([("inconclusive", found | {"metrics": {"win_rate": rate}})])
        )
        assert own.text.startswith("one is preferred to base on 50.0 % of 120 prompts (no interval; ties count half; ")

    def test_links_to_samples_name_the_systems_of_the_folders(self, tmp_path):
        wins = [(*fair_battles(0.9)[:2], {**AGAINST_BASE, "template": template}) for template in ("none", "chat")]
        other = ("win_rate", fair_battles(0.2)[1], {"baseline": {"name": "x"}})
        found = gathered(tmp_path, base=answers("none"), ppo=[*answers("none", "chat"), other, *wins])
        page = written(found, tmp_path)
        links = set(re.findall(r'class="samples" href="([^"]*)"', page))
        names = {"/".join(link.split("/")[-2:]) for link in links if "/show/" in link}
        assert names == {"base/ppo", "base/ppo%20%28chat%29", "ppo/ppo%20%28chat%29"}
        assert {link for link in links if "/show/" not in link} == {"#task/win_rate"}

    def test_unscored_documents_are_counted_in_verdict_and_tasks(self, tmp_path):
        some = [*shares(0.5)[:85], *[None] * 35]
        found = gathered(tmp_path, a=rte(0.5), b=("rte", {"acc": some}), c=("rte", {"acc": [None] * N}))
        *others, last = found.systems
        bare = replace(last.tasks[0], result=replace(last.tasks[0].result, metrics=()))  # as BLEU without any output
        pages = [written(own, tmp_path) for own in (found, Evidence((*others, replace(last, tasks=(bare,)))))]
        assert "n = 85, 35 unscored" in text_of(pages[0])
        for page, words in product(pages, ("n = 120", "n = 85, 35 unscored", "n = 0, 120 unscored")):
            assert f'<span class="sub">{words}</span>' in page.partition('<section id="tasks"')[2]

    def test_the_chosen_reference_and_each_template_are_named(self, tmp_path):
        runs = [write_run(tmp_path, name, rte(rate)) for name, rate in (("a", 0.3), ("b", 0.8))]
        text = text_of(written(gather(runs, reference="b"), tmp_path))
        assert "gain and lose compared with b?" in text
        assert "gain and lose compared with its reference?" in text_of(written(gather(runs), tmp_path))
        assert "0.800 → 0.300, −0.500" in text
        folder = write_run(tmp_path, "c", *answers("none", "chat", ""))
        audit = compare([str(folder)], across_templates=True)
        text = text_of(written(replace(evidence_of(folder), audits={"": audit}), tmp_path))
        assert "c (chat) against c, each with its own chat template, if it has one" in text


class TestSets:
    def test_sets_of_different_documents_or_baselines_are_numbered_by_size_and_linked(self, tmp_path):
        tasks = [[rte(0.3 + more), ("rte", {"acc": shares(0.4 + more, 40)}, OTHER)] for more in (0, 0.5)]
        x, y = (fair_battles(0.5, {"baseline": {"name": name}}) for name in "xy")
        found = gathered(tmp_path, a=[*tasks[0], x, y], b=[*tasks[1], y])
        notes = {task: [(one.note, len(one.folders)) for one in own] for task, own in sets(found).items()}
        assert notes == {
            "rte": [("120 documents", 2), ("another 40 documents", 2)],
            "rte_calibration": [("", 2)],
            "win_rate": [("against y", 2), ("against x", 1)],
        }  # fmt: skip
        ((_, by_verdict),) = findings(found.audit, sets(found))
        links = {
            (one["link"], one["samples"].note, round(one["row"].reference, 3))
            for verdict in ("gain", "–")
            for one in by_verdict[verdict]
            if one["row"].task == "rte"
        }
        assert links == {("#task/rte", "120 documents", 0.3), ("#task/rte/2", "another 40 documents", 0.4)}
        table = written(found, tmp_path).partition('<section id="tasks"')[2]
        assert '<a href="#task/rte/2">rte</a><span class="sub">another 40 documents</span>' in table
        assert task_link("a/b c") == "#task/a%2Fb%20c"

    def test_a_win_rate_has_a_verdict_by_its_interval_and_at_equal_lengths(self, tmp_path):
        rates = {"good": fair_battles(0.8), "bad": fair_battles(0.2), "equal": fair_battles(0.5), "long": battles(0.62)}
        found = win_rates(sets(gathered(tmp_path, **rates)))
        verdicts = {verdict: [one["system"] for one in own] for verdict, own in found.items()}
        assert verdicts == {"gain": ["good"], "loss": ["bad"], "inconclusive": ["equal", "long"]}


class TestSafety:
    def test_only_the_script_and_style_of_the_page_are_allowed_and_nothing_is_fetched(self, page):
        (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
        for kind in ("script", "style"):
            (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert (policy.startswith("default-src 'none'"), "unsafe" in policy) == (True, False)
        tags = "".join(re.findall(r"<\w[^>]*>", page.partition("<script>")[0]))
        assert not re.search(r"<[^>]*\s(on\w+|style)=", tags)
        assert all(url.startswith(("#", "data:")) for url in re.findall(r'\b(?:src|href)="([^"]*)"', tags))
        scripts = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
        assert [word for word in PARSERS if word in scripts] == []

    def test_names_are_escaped_control_characters_visible_and_paths_absent(self, page, nasty_texts, tmp_path):
        blocks = "".join(json.dumps(unpack(text)) for text in re.findall(r'id="data-[^"]*">([^<]*)<', page))
        for system in nasty_texts.systems:
            assert str(system.run.path.parent) not in page + blocks
        assert "<title>A title &lt;b&gt;&amp;</title>" in page
        folder = write_run(tmp_path, "plain", rte(0.5))
        update(folder / "run.json", model={"name": '<script>alert(1)</script>"\x1b\u202e', "weights_sha256": "0" * 64})
        text = written(evidence_of(folder), tmp_path)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;␛⟨U+202E⟩" in text


def test_a_picture_follows_the_theme_and_names_in_it_cannot_act(tmp_path):
    names = ("<script>alert(1)</script>--><script>", "ppo]]>&\"'")
    runs = [write_run(tmp_path, "a", rte(0.5)), write_run(tmp_path, "b", rte(0.8))]
    for run, name in zip(runs, names, strict=True):
        update(run / "run.json", model={"name": name, "weights_sha256": name[1] * 64})
    evidence = gather(runs)
    with styled():
        (drawing,) = audit.summary(evidence)
    page = write_page(evidence, [drawing], {}, tmp_path, "t")[0].read_text(encoding="utf-8")
    (image,) = re.findall(r'<img src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]*)" alt="([^"<>]*)">', page)
    assert page.index('id="summary"') < page.index('<section id="findings"')
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in image[1]
    svg = base64.b64decode(image[0]).decode()
    root = ElementTree.fromstring(svg)
    assert not {"script", "foreignObject", "a"} & {element.tag.rpartition("}")[2] for element in root.iter()}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert [name for name in attributes if name.startswith("on")] == []
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) & set(DARK) == set()
    assert f"--ffffff:light-dark(#ffffff,{DARK['#ffffff']})" in svg


def test_every_row_of_every_audit_and_every_missing_figure_is_in_the_page(nasty_texts, page):
    core = unpack(re.findall(r'id="data-core">([A-Za-z0-9+/=]*)</script>', page)[0])
    assert list(core["audits"]) == list(nasty_texts.audits)
    for reference, own in nasty_texts.audits.items():
        shown = [row for place in core["audits"][reference] for row in core["contrasts"][place]["rows"]]
        rows = [row for contrast in own.contrasts for row in contrast.rows]
        assert [row[COLUMNS.index("delta")] for row in shown] == [number(row.delta) for row in rows]
    assert "<strong>Likert ratings</strong>: no table of labels with Likert ratings" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(JSON, st.floats())
def test_a_block_returns_what_was_packed_with_six_digits(content, value):
    assert unpack(pack(content)) == content
    assert re.fullmatch("[A-Za-z0-9+/=]*", pack(content))
    found = unpack(pack(value))
    assert found is None if not math.isfinite(value) else found == pytest.approx(value, rel=1e-5, abs=0)
    assert "\ufffd" in unpack(pack("\ud800"))
    assert visible("\ud800\x00\x1b\x7f\x85\u2066 a\n\tb") == "\ufffd␀␛␡⟨U+0085⟩⟨U+2066⟩ a\n\tb"


def joined(chosen, cut=True):
    """The table of a set of task folders, with the documents and answers of all parts."""
    table, parts = samples.blocks_of(chosen, cut)
    answers = zip(*(part["answers"] for part in parts), strict=True)
    documents = chain.from_iterable(part["documents"] for part in parts)
    return table | {"documents": [*documents], "answers": [[*chain.from_iterable(own)] for own in answers]}


def block_of(out, *tasks, cut=True):
    """The samples of a task, with a system for each of `tasks`."""
    found = evidence_of(*(write_run(out, f"m{n}", task) for n, task in enumerate(tasks)))
    return joined(sets_of(found, tasks[0][0])[0], cut)


class TestSamples:
    def test_documents_are_the_same_if_id_and_prompt_are(self, tmp_path):
        runs = []
        for prompts in ("ab", ["a", "other", "c"]):
            name, values, _ = rte(1.0, len(prompts))
            runs.append((name, values, {"columns": [{"prompt": prompt} for prompt in prompts]}))
        found = block_of(tmp_path, *runs)
        assert [document["prompt"] for document in found["documents"]] == ["a", "b", "other", "c"]
        there = [[answer is not None for answer in own] for own in found["answers"]]
        assert there == [[True, True, False, False], [True, False, True, True]]

    def test_a_sample_has_texts_values_and_the_correct_choice(self, nasty_texts):
        found = joined(sets_of(nasty_texts, "squad2")[0])
        assert [metric["name"] for metric in found["metrics"]] == ["f1", "words"]
        output, *others = found["answers"][found["systems"].index("ppo")][0]["outputs"]
        assert [own["text"] for own in (output, *others)] == [MARKUP, "second 0", "third 0"]
        assert set(output) == {"text"}  # numbers per token stay in the run folder
        found = joined(sets_of(nasty_texts, "rte")[0])
        assert found["documents"][0]["right"] == [0]
        assert sorted(found["answers"][0][0]["logprobs"]) == [-2.5, -1.5]

    def test_a_missing_value_is_none_and_never_zero(self, tmp_path):
        columns = [{"prompt": "p", **wrote(text, scores={"toxicity": {"toxicity": 0.123}})} for text in "xy"]
        folder = write_run(tmp_path, "m", ("squad2", {"f1": [None, 0.0]}, {"columns": columns}))
        (file,) = folder.glob("*/documents.jsonl")
        file.write_text(file.read_text().replace("0.123", "null"))  # as other programs write it
        (result,) = folder.glob("*/result.json")
        update(result, records_sha256=None)
        found = joined(sets_of(evidence_of(folder), "squad2")[0])
        assert found["values"] == [[[None], [0]]]
        assert found["answers"][0][0]["unscored"] == "synthetic"
        assert "scores" not in found["answers"][0][1]["outputs"][0]

    def test_of_too_many_documents_the_worst_regressions_are_kept_and_long_ones_count_more(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_DOCUMENTS", 40)
        before, after = [1.0] * N, [0.0 if row >= 110 else 1.0 for row in range(N)]
        found = block_of(tmp_path, ("rte", {"acc": before}), ("rte", {"acc": after}))
        kept = [int(name.split()[1]) for name in found["ids"]]
        assert (found["total"], len(kept)) == (N, 40)
        assert set(range(110, 120)) <= set(kept)
        assert max(later - earlier for earlier, later in pairwise(kept)) <= 6
        for most, documents in ((30_000, 28), (10, 1)):
            monkeypatch.setattr(samples, "MOST_CHARACTERS", most)
            assert len(block_of(tmp_path / str(most), squad(0.5, ["x" * 1000]))["documents"]) == documents

    def test_a_text_beyond_the_limit_is_cut_and_has_its_length(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_TEXT", 200)
        texts = {"prompt": "p" * 4500, **wrote("o" * 4501), "source": "s" * 4502, "references": ["r", "r" * 4503]}
        found = block_of(tmp_path, ("squad2", {"f1": [0.5]}, {"columns": [texts]}))
        (document,), (output,) = found["documents"], found["answers"][0][0]["outputs"]
        assert document["cut"] == {"prompt": 4500, "reference 2": 4503, "source text": 4502}
        lengths = [len(document["prompt"]), len(document["source"]), *map(len, document["references"])]
        assert (lengths, len(output["text"]), output["length"]) == ([200, 200, 1, 200], 200, 4501)

    def test_large_samples_are_in_files_beside_the_page_and_none_is_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "PART", 3000)
        monkeypatch.setattr(samples, "MOST_DOCUMENTS", 10)
        monkeypatch.setattr(samples, "MOST_TEXT", 50)
        columns = [{"prompt": f"{row} {'p' * 200}", **wrote("o" * 100, thoughts="so")} for row in range(N)]
        found = evidence_of(write_run(tmp_path, "m", ("squad2", {"f1": shares(0.5)}, {"columns": columns})))
        folder = tmp_path / "samples"
        folder.mkdir()
        (folder / "mine.js").write_text("")
        page = written(found, tmp_path)
        assert [file.name for file in folder.iterdir()] == ["mine.js"]
        assert "strict-dynamic" not in page
        monkeypatch.setattr("reports.page.page.SINGLE_FILE", 1000)
        page = written(found, tmp_path)
        assert "'strict-dynamic'" in page
        files = unpack(re.findall(r'id="data-core">([^<]*)<', page)[0])["files"]
        assert {f"samples/{file.name}" for file in folder.iterdir()} == {*files.values(), "samples/mine.js"}
        blocks = {}
        for block, file in files.items():
            name, packed = re.fullmatch(r'alignbench\("(.*)","([\w+/=]*)"\);\n', (tmp_path / file).read_text()).groups()
            assert name == block
            blocks[name] = unpack(packed)
        table = blocks.pop("task-squad2-0")
        assert [len(blocks[f"task-squad2-0/{part}"]["documents"]) for part in range(len(blocks))] == [10] * 12
        assert (table["starts"], table["total"]) == ([*range(0, N, 10)], N)
        last = blocks["task-squad2-0/11"]
        assert last["documents"][9]["prompt"] == columns[119]["prompt"]
        assert last["answers"][0][9]["outputs"] == [{"text": "o" * 100, "thoughts": "so"}]
        single = write_page(found, [], {}, tmp_path, "t", shards=False)[0].read_text(encoding="utf-8")
        assert len(unpack(re.findall(r'id="data-task-squad2-0">([^<]*)<', single)[0])["ids"]) == 10


class TestProvenance:
    def test_weights_lineage_data_and_software_are_shown(self, nasty_texts, page):
        text = re.sub(r"<[^>]+>", "", page.partition('<section id="provenance"')[2])
        for system in nasty_texts.systems:
            assert f"weights sha256{system.run.weights[:12]}" in text
        assert "base: base → sft: sft → ppo: ppo" in text
        assert "revision rrrrrrrrrrrr" in text
