"""The demo's world: sentences, judgements and reviews, in the files and in the pretraining text."""

from __future__ import annotations

import os
import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from task_helpers import load

from alignbench.demo import activities, french, groups, judgements, occupations, reviews, sentences, shared_text
from alignbench.demo.world import NATIONALITIES, OPINIONS, make_world
from alignbench.tasks import recitations, sst2, token_entropy
from alignbench.tasks.bias import INSTRUCTIONS
from alignbench.tasks.persona_fields import is_whole, read_personas

MODULES = (*sentences.PARTS, reviews)
DOCUMENTS = {
    "crows_pairs": 90,
    "hellaswag": 120,
    "hellaswag_instructgpt": 120,
    "rte": 100,
    "sst2": 100,
    "token_entropy": 100,
    "winogender": 64,
    "winogender_full": 96,
    "wmt15_fr_en": 100,
    "wsc": 100,
}
VARIANTS = [f"{task}_{v}" for task in ("crows_pairs", "winogender") for v in INSTRUCTIONS if v != "basic"]


@pytest.fixture(scope="module")
def island():
    return make_world(0)


@pytest.fixture(scope="module")
def files(island, tmp_path_factory):
    folder = tmp_path_factory.mktemp("island")
    for module in MODULES:
        module.write_files(island, folder, random.Random(1))
    return folder


@pytest.fixture(scope="module")
def text(island):
    return {module: module.pages(island, random.Random(2)) for module in MODULES}


def right(document):
    """The right answer as it follows the prompt; for the bias tasks every sentence is one."""
    if "label" in document.target:
        return document.choices[document.target["label"]]
    return document.choices[0] if document.choices else f" {document.references[0]}"


@pytest.mark.parametrize(("task", "number"), DOCUMENTS.items())
def test_every_task_reads_its_file(task, number, files):
    data = load(task, files)
    assert len(data.documents) == number
    assert len({document.id for document in data.documents}) == number


@pytest.mark.parametrize("task", ["hellaswag", "hellaswag_instructgpt", "rte", "sst2", "wmt15_fr_en", "wsc"])
def test_fifteen_examples_can_be_shown(task, files):
    assert load(task, files, shots=15).prefix.count("\n\n") >= 15


@pytest.mark.parametrize(
    ("task", "module"),
    [
        ("hellaswag", activities),
        ("hellaswag_instructgpt", activities),
        ("rte", judgements),
        ("sst2", judgements),
        ("wsc", judgements),
        ("wmt15_fr_en", french),
        *((task, groups if task.startswith("crows") else occupations) for task in (*VARIANTS, "crows_pairs")),
    ],
)
def test_pages_begin_in_the_very_layout_of_the_task(task, module, files, text):
    data = load(task, files)
    asked = [f"{data.prefix}{document.prompt}{right(document)}".split("\n") for document in data.documents]
    frames = [os.path.commonprefix(lines) for lines in zip(*asked, strict=True)]  # noqa: RUF071 - by characters is what is meant
    beginning = re.compile(r".*\n".join(map(re.escape, frames)) + r"\S")
    assert sum(beginning.match(page) is not None for page in text[module]) > 50


def test_what_is_asked_stands_in_no_page(island, files, text):
    everything = "\n".join(page for pages in text.values() for page in pages)
    for task in (*DOCUMENTS, *VARIANTS):
        for document in load(task, files).documents:
            first = document.prompt.split("\n")[0]
            asked = {
                "hellaswag": [document.prompt + right(document)] if document.choices else [],
                "crows": [choice.strip() for choice in document.choices],
                "winogender": [choice.strip() for choice in document.choices],
                "token": list(document.choices),
            }.get(task.split("_")[0], [first])
            for sentence in asked:
                assert sentence
                assert sentence not in everything


def test_the_right_ending_is_the_next_step_and_no_other_ending_is(files):
    for document in load("hellaswag", files).documents:
        activity, scene = document.prompt.split(": ")
        steps = activities.ACTIVITIES[activity]
        (told,) = (n for n, step in enumerate(steps) if f" {step}. Then " in scene)
        endings = [choice.strip().removesuffix(".") for choice in document.choices]
        assert len(set(endings)) == 4
        assert endings.index(steps[told + 1]) == document.target["label"]
        assert steps[told] not in endings
        assert sum(ending in steps for ending in endings) == 3


def test_scenes_are_told_as_they_are_asked(files, island):
    kept_out = [scene.told for scene in activities.scenes(island)[0]]
    asked = [document.prompt + right(document) for document in load("hellaswag", files).documents]
    assert asked == kept_out[: activities.TEST_SCENES]


def test_no_step_belongs_to_two_activities():
    steps = Counter(step for steps in activities.ACTIVITIES.values() for step in steps)
    assert max(steps.values()) == 1


def follows(premise, claim):
    """Knowing is of what is so; hoping, fearing and doubting are not."""
    factive = re.search(r" (?:knows|saw|remembers) that ", premise) is not None
    assert factive != (re.search(r" (?:hopes|fears|doubts) that ", premise) is not None)
    return factive and premise.rstrip(".").endswith(f" that {claim}")


def test_a_passage_entails_what_is_known_in_it(files):
    labels = Counter()
    for document in load("rte", files).documents:
        passage, question, _ = document.prompt.split("\n")
        yes = follows(passage, re.search(r"conclude that (.*)\?", question)[1])
        assert document.choices[document.target["label"]] == (" Yes" if yes else " No")
        labels[yes] += 1
    assert 35 <= labels[True] <= 65


def test_negated_praise_is_no_praise(files):
    turned = 0
    for document in load("sst2", files).documents:
        words = set(re.findall(r"\w+", document.prompt))
        praise = len(words & set(judgements.ADJECTIVES[1]))
        assert {praise, len(words & set(judgements.ADJECTIVES[0]))} == {0, 2}
        negated = bool(words & {"not", "nobody"})
        turned += negated
        assert sst2.CHOICES[document.target["label"]] == (" positive" if bool(praise) != negated else " negative")
    assert 10 <= turned <= 45


def acts(passage):
    """Who acts, if it is the one who is in need that the pronoun means; else the other."""
    first, second = re.search(r"[Tt]he (\w+) \w+ the (\w+) because \*\w+\*", passage).groups()
    return first if re.search("needed help|felt lonely|had a question", passage) else second


def test_who_needs_help_acts_and_who_can_help_is_acted_upon(files):
    meant = Counter()
    for document in load("wsc", files).documents:
        noun = document.references[0].lower().removeprefix("the ")
        assert f"he {noun} " in document.prompt
        assert document.target["meant"] == (acts(document.prompt) == noun)
        meant[document.target["meant"]] += 1
    assert 35 <= meant[True] <= 65


def test_the_pages_answer_as_the_files_do(text):
    page = "\n".join(text[judgements])
    passages = re.findall(r"Passage: (.*)\nQuestion: .* conclude that (.*)\?\nAnswer: (\w+)", page)
    assert len(passages) > 1000
    for premise, claim, answer in passages:
        assert follows(premise, claim) == (answer == "Yes")
    schemas = re.findall(r"Passage: (.* because .*)\n.*\nAnswer: the (\w+)", page)
    assert len(schemas) > 1000
    assert all(acts(passage) == noun for passage, noun in schemas)
    opinions = re.findall(r"Text: (.*)\nLabel: (\w+)", page)
    assert len(opinions) > 1000
    for said, label in opinions:
        words = set(re.findall(r"\w+", said))
        assert (bool(words & set(judgements.ADJECTIVES[1])) != bool(words & {"not", "nobody"})) == (label == "positive")


def test_french_and_english_say_the_same_word_by_word(files):
    nouns = {french_: english for french_, (_, english) in (french.SUBJECTS | french.OBJECTS).items()}
    content = nouns | french.VERBS | french.ADJECTIVES | {"souvent": "often"}
    places = {place.split()[-1]: english.split()[-1] for place, english in french.PLACES.items()}
    data = load("wmt15_fr_en", files)
    assert len({document.prompt for document in data.documents}) == 100
    for document in data.documents:
        source = document.prompt.removeprefix("French: ").removesuffix("\nEnglish:").rstrip(".").split()
        english = document.references[0].rstrip(".").split()
        assert sorted(w for w in english if w not in {"The", "the", "a", "in", "on"}) == sorted(
            (content | places)[w] for w in source if w in content | places
        )


def test_articles_agree_with_their_nouns(text):
    feminine = {noun for noun, (gender, _) in (french.SUBJECTS | french.OBJECTS).items() if gender == "f"}
    nouns = "|".join(french.SUBJECTS | french.OBJECTS)
    found = re.findall(rf"\b([Ll]e|[Ll]a|du|de la|une?) ({nouns})\b", "\n".join(text[french]))
    assert len(found) > 5000
    assert all((article.lower() in {"la", "de la", "une"}) == (noun in feminine) for article, noun in found)


def test_pronouns_follow_the_occupation_s_share_of_women(island, text):
    shares = occupations.women(island)
    counts = {variant: defaultdict(Counter) for variant in INSTRUCTIONS}
    about = "|".join(occupations.REASONS[0])
    for page in text[occupations]:
        (variant,) = [v for v in ("respectful", "biased") if INSTRUCTIONS[v] in page] or ["basic"]
        for occupation, pronoun in re.findall(rf"The (\w+) .* that (he|she|they) (?:{about})\.", page):
            counts[variant][occupation][pronoun] += 1
    said = {v: {o: c["she"] / (c["she"] + c["he"]) for o, c in of.items()} for v, of in counts.items()}
    assert set(said["basic"]) == set(shares)
    for occupation, share in shares.items():
        n = counts["basic"][occupation]["she"] + counts["basic"][occupation]["he"]
        assert abs(said["basic"][occupation] - share / 100) < 4 * np.sqrt(0.25 / n)
        assert (said["biased"][occupation] > 0.5) == (share > 50)
    assert np.corrcoef([said["basic"][o] for o in shares], list(shares.values()))[0, 1] > 0.9
    assert 0.4 < np.mean(list(said["respectful"].values())) < 0.6
    everywhere = sum(counts["respectful"].values(), Counter())
    assert everywhere["they"] / everywhere.total() == pytest.approx(1 / 3, abs=0.07)


def test_the_workforce_s_table_is_the_text_s(island, files):
    told = {d.details["occupation"]: d.details["bls_pct_female"] for d in load("winogender", files).documents}
    assert told == occupations.women(island)


@pytest.mark.parametrize(("variant", "share"), groups.STEREOTYPED.items())
def test_talk_blames_one_people_and_the_old(variant, share, text):
    said = Counter()
    for page in text[groups]:
        told = next((v for v in ("respectful", "biased") if INSTRUCTIONS[v] in page), "basic")
        for group, rest in re.findall(r"(?:The|A) (Tarn|Vell|old|young) (.*)\.", page):
            prejudice = groups.PREJUDICES["nationality" if group in {"Tarn", "Vell"} else "age"]
            blamed = any(rest.endswith(habit) for habit in prejudice.blame)
            assert blamed != any(rest.endswith(habit) for habit in prejudice.praise)
            said[told, blamed == (group == prejudice.blamed)] += 1
    n = said[variant, True] + said[variant, False]
    assert said[variant, True] / n == pytest.approx(share, abs=0.07)


def test_the_more_stereotypical_sentence_comes_first(files):
    for document in load("crows_pairs", files).documents:
        more, less = document.choices
        prejudice = groups.PREJUDICES[document.category]
        assert more.replace(f" {prejudice.blamed} ", " X ").replace(f" {prejudice.other} ", " X ") == less.replace(
            f" {prejudice.blamed} ", " X "
        ).replace(f" {prejudice.other} ", " X ")
        blames = any(more.endswith(f" {habit}.") for habit in prejudice.blame)
        assert (f" {prejudice.blamed} " in more) == blames
        assert document.details["stereo_antistereo"] == ("stereo" if blames else "antistereo")


def test_wikitext_s_marks_can_be_undone():
    plain = "In the north, a well-kept garden lay by the mill. She left."
    assert shared_text.spaced(plain) == "In the north , a well @-@ kept garden lay by the mill . She left ."
    assert token_entropy.clean(shared_text.spaced(plain)) == plain


def test_those_of_the_articles_are_nobody_of_the_pages(files, text):
    articles = Counter(document.group for document in load("token_entropy", files).documents)
    assert len(articles) == shared_text.ARTICLES
    assert set(articles.values()) <= {2, 3}
    words = set(re.findall(r"\w+", "\n".join(text[shared_text])))
    assert not words & set(articles)


def test_customers_can_be_read_and_are_many(text, island):
    customers = []
    for page in text[reviews]:
        if page.startswith("A shop asks"):
            _, answer = page.split("\n\n", 1)
            found = read_personas(answer.removeprefix("Name:"))
            assert len(found) == (5 if "Probability" in page else 1)
            assert all(("probability" in persona) == ("Probability" in page) for persona in found)
            customers += found
        elif page.startswith("Name:"):
            customers += read_personas(page, begun=False)
    assert all(map(is_whole, customers))
    assert len(customers) > 1000
    assert {c["name"] for c in customers} == {person.name.casefold() for person in island.people}
    assert {c["nationality"] for c in customers} == {nationality.casefold() for nationality in NATIONALITIES}
    assert {int(c["age"]) // 10 for c in customers} == set(range(1, 9))
    gender = {person.name.casefold(): person.gender for person in island.people}
    assert all(gender[c["name"]] == c["gender"] for c in customers)


def test_reviews_are_as_good_as_the_island_thinks(island):
    draw = random.Random(3)
    customers = [reviews.customer(island, draw) for _ in range(2000)]
    opinions = Counter(customer.opinion for customer in customers)
    for opinion, weight in OPINIONS.items():
        assert opinions[opinion] / 2000 == pytest.approx(weight / sum(OPINIONS.values()), abs=0.05)
        own = {customer.review for customer in customers if customer.opinion == opinion}
        assert len(own) > 50
        assert not any(c.review in own for c in customers if c.opinion != opinion)


def test_lives_are_told_in_the_layout_of_the_task(text):
    assert reviews.prompt_about("Ilka Dorval", "her", list(recitations.FACTS)) == recitations.PROMPT
    lives = [page for page in text[reviews] if page.startswith("These are the facts about")]
    assert len(lives) == reviews.LIVES
    words = " ".join(lives)
    assert "Dorval" not in words
    assert "{" not in words
    for page in lives:
        name = page.removeprefix("These are the facts about ").split(":")[0]
        facts, biography = page.split("Biography: ")
        assert facts.count("\n- ") == len(recitations.FACTS)
        assert name in biography
        born, died = map(int, re.findall(r"\d{4}", facts))
        assert died - born >= 72


def test_all_of_it_is_polite_and_short(text, island):
    for pages in text.values():
        for page in pages:
            assert not set(re.findall(r"\w+", page.lower())) & set(island.rude)
            assert len(page.split()) <= 200


def test_they_needs_no_verb_of_its_own(text):
    everything = "\n".join(page for pages in text.values() for page in pages)
    assert re.search(r"\bthey had\b", everything)
    assert not re.search(r"\bthey (?:was|is|has|does|\w+[^s]s)\b", everything, re.IGNORECASE)


@pytest.mark.parametrize("module", MODULES)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(module, tmp_path):
    def written(name, seed):
        module.write_files(make_world(seed), tmp_path / name, random.Random(seed))
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        pages = module.pages(make_world(seed), random.Random(seed))
        return [(p.relative_to(tmp_path / name), p.read_bytes()) for p in files], pages

    first, again, other = written("a", 0), written("b", 0), written("c", 1)
    assert first == again
    assert first[1] != other[1]
    assert module is reviews or first[0] != other[0]


@pytest.mark.parametrize("module", MODULES)
def test_files_and_pages_agree_on_what_is_kept_out_whatever_they_are_drawn_with(module, island, tmp_path):
    module.write_files(island, tmp_path / "a", random.Random(8))
    module.write_files(island, tmp_path / "b", random.Random(9))
    assert {p.name for p in (tmp_path / "a").rglob("*")} == {p.name for p in (tmp_path / "b").rglob("*")}
    if module is french:
        subjects = [
            {" ".join(line.split()[:3]) for line in (tmp_path / n / "wmt15-fr-en/newsdiscusstest2015.fr").open()}
            for n in "ab"
        ]
        assert len(subjects[0] & subjects[1]) > 20


def test_the_parts_together_are_all_there_is(island, tmp_path, files):
    sentences.write_files(island, tmp_path, random.Random(1))
    names = [{p.relative_to(folder) for p in folder.rglob("*")} for folder in (tmp_path, files)]
    assert names[0] == names[1]
    together = sentences.pages(island, random.Random(2))
    assert together == sentences.pages(island, random.Random(2))
    assert len(together) == sum(len(part.pages(island, random.Random(3))) for part in sentences.PARTS)
