"""The demo's world: sentences, reviews, biographies and articles, in the files and in the pretraining text."""

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from cases import cases
from demo_world import world, written
from task_helpers import load

from alignbench.demo import sentences
from alignbench.demo.lexicon import lexicon
from alignbench.demo.world import WORDS
from alignbench.tasks import glue, token_entropy
from alignbench.tasks.bias import INSTRUCTIONS
from alignbench.tasks.persona_fields import is_whole, read_personas

LEXICON, DOCUMENTS = lexicon("sentences"), cases("demo")["documents"]


@pytest.fixture(scope="module")
def text():
    found = {part: sentences.part_pages(part, world(), random.Random(2)) for part in sentences.PARTS}
    return found | {"reviews": sentences.review_pages(world(), random.Random(2))}


def documents(task):
    return load(task, written()).documents


def right(document):
    """The right answer as it follows the prompt; for the bias tasks every sentence is one."""
    if document.choices:
        return document.choices[document.target.get("label", 0)]
    return f" {document.references[0]}"


def variant_of(page):
    return next((variant for variant in ("respectful", "biased") if INSTRUCTIONS[variant] in page), "basic")


def test_what_is_asked_is_on_no_page(text):
    everything = "\n".join(page for pages in text.values() for page in pages)
    for task, document in [(name, document) for name in DOCUMENTS for document in documents(name)]:
        asked = [document.prompt.split("\n")[0]]
        if task.startswith(("crows", "winogender", "token")):
            asked = [choice.strip() for choice in document.choices]
        elif task.startswith("hellaswag"):
            asked = [document.prompt + right(document)] if document.choices else []
        assert all(asked)
        assert not [sentence for sentence in asked if sentence in everything]


def test_the_right_ending_is_the_next_step_and_no_other_ending_is():
    steps_of = LEXICON["hellaswag"]["activity"]
    assert max(Counter(step for steps in steps_of.values() for step in steps).values()) == 1
    for document in documents("hellaswag"):
        activity, scene = document.prompt.split(": ")
        steps = steps_of[activity]
        (told,) = (n for n, step in enumerate(steps) if f" {step}. Then " in scene)
        endings = [choice.strip().removesuffix(".") for choice in document.choices]
        assert len(set(endings)) == 4
        assert endings.index(steps[told + 1]) == document.target["label"]
        assert steps[told] not in endings
        assert sum(ending in steps for ending in endings) == 3


def follows(premise, claim):
    """What somebody knows is so; what somebody hopes, fears or doubts may be otherwise."""
    factive = re.search(r" (?:knows|saw|remembers) that ", premise) is not None
    assert factive != (re.search(r" (?:hopes|fears|doubts) that ", premise) is not None)
    return factive and premise.rstrip(".").endswith(f" that {claim}")


def is_praise(opinion):
    """Praise that is negated is blame."""
    words = set(re.findall(r"\w+", opinion))
    blame, praise = (len(words & set(adjectives)) for adjectives in LEXICON["sst2"]["adjective"])
    assert {blame, praise} == {0, 2}
    return (praise == 2) != bool(words & {"not", "nobody"})


def meant(passage):
    """The first person, if the reason is a need; else the second."""
    first, second = re.search(r"[Tt]he (\w+) \w+ the (\w+) because \*\w+\*", passage).groups()
    return first if re.search("needed help|felt lonely|had a question", passage) else second


def test_judgements_of_the_files_and_of_the_pages_are_correct(text):
    page = "\n".join(text["judgements"])
    claims = re.findall(r"Passage: (.*)\nQuestion: .* conclude that (.*)\?\nAnswer: (\w+)", page)
    schemas = re.findall(r"Passage: (.* because .*)\n.*\nAnswer: the (\w+)", page)
    opinions = re.findall(r"Text: (.*)\nLabel: (\w+)", page)
    assert min(map(len, (claims, schemas, opinions))) > 1000
    rte = re.compile(r"(.*)\n.*conclude that (.*)\?")
    asked = [(*rte.search(document.prompt).groups(), right(document).strip()) for document in documents("rte")]
    assert all(follows(premise, claim) == (answer == "Yes") for premise, claim, answer in (*claims, *asked))
    reviews = [(d.prompt, glue.CHOICES[d.target["label"]].strip()) for d in documents("sst2")]
    assert all(is_praise(opinion) == (label == "positive") for opinion, label in (*opinions, *reviews))
    assert all(meant(passage) == noun for passage, noun in schemas)
    for document in documents("wsc"):
        noun = document.references[0].lower().removeprefix("the ")
        assert f"he {noun} " in document.prompt
        assert document.target["meant"] == (meant(document.prompt) == noun)
    assert 35 <= sum(answer == "Yes" for *_, answer in asked) <= 65
    assert 35 <= sum(document.target["meant"] for document in documents("wsc")) <= 65
    assert 10 <= sum(bool(re.search("not|nobody", opinion)) for opinion, _ in reviews) <= 45, "negated"


def test_french_and_english_say_the_same_word_by_word(text):
    words = LEXICON["wmt15"]
    english_of = {"souvent": "often"}
    for name, rows in words.items():
        if name != "form":
            english_of |= {row[-2].split()[-1]: row[-1].split()[-1] for row in rows}
    for document in documents("wmt15_fr_en"):
        source = re.findall(r"\w+", document.prompt.removeprefix("French: ").removesuffix("\nEnglish:"))
        english = set(re.findall(r"\w+", document.references[0])) - {"The", "the", "a", "in", "on"}
        assert sorted(english) == sorted(english_of[w] for w in source if w in english_of)
    feminine = {noun for first, noun, _ in words["subject"] if first == "La"}
    feminine |= {noun for article, _, _, noun, _ in words["object"] if article == "la"}
    nouns = "|".join(row[-2] for name in ("subject", "object") for row in words[name])
    found = re.findall(rf"\b([Ll]e|[Ll]a|du|de la|une?) ({nouns})\b", "\n".join(text["french"]))
    assert len(found) > 5000
    assert all((article.lower() in {"la", "de la", "une"}) == (noun in feminine) for article, noun in found)


def test_pronouns_follow_the_occupation_s_share_of_women(text):
    shares = sentences.women(world())
    counts = {variant: defaultdict(Counter) for variant in INSTRUCTIONS}
    about = "|".join(LEXICON["winogender"]["reason"][0])
    for page in text["occupations"]:
        for occupation, pronoun in re.findall(rf"The (\w+) .* that (he|she|they) (?:{about})\.", page):
            counts[variant_of(page)][occupation][pronoun] += 1
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
    told = {d.target["occupation"]: d.target["bls_pct_female"] for d in documents("winogender")}
    assert told == shares, "the workforce's table is the text's"


def test_talk_blames_one_people_and_the_old_and_the_more_stereotypical_sentence_comes_first(text):
    said = Counter()
    prejudices = [LEXICON["crows_pairs"][kind] for kind in ("nationality", "age")]
    kinds = {group: prejudice for prejudice in prejudices for group in prejudice["groups"]}
    for page in text["groups"]:
        for group, rest in re.findall(r"(?:The|A) (Tarn|Vell|old|young) (.*)\.", page):
            blames = any(rest.endswith(habit) for habit in kinds[group]["blame"])
            assert blames != any(rest.endswith(habit) for habit in kinds[group]["praise"])
            said[variant_of(page), blames == (group == kinds[group]["groups"][0])] += 1
    for variant, share in sentences.AMOUNTS.stereotyped.items():
        n = said[variant, True] + said[variant, False]
        assert said[variant, True] / n == pytest.approx(share, abs=0.07)
    for document in documents("crows_pairs"):
        kind = LEXICON["crows_pairs"][document.category]
        more, less = (set(choice.strip(" .").split()) for choice in document.choices)
        assert {*(more - less), *(less - more)} == set(kind["groups"]), "the pair differs in the group only"
        blames = any(document.choices[0].endswith(f" {habit}.") for habit in kind["blame"])
        assert (kind["groups"][0] in more) == blames
        assert document.target["stereo_antistereo"] == ("stereo" if blames else "antistereo")


def test_articles_are_about_people_of_no_page_and_can_be_undone(text):
    plain = "In the north, a well-kept garden lay by the mill. She left."
    assert sentences.spaced(plain) == "In the north , a well @-@ kept garden lay by the mill . She left ."
    assert token_entropy.clean(sentences.spaced(plain)) == plain
    articles = Counter(document.group for document in documents("token_entropy"))
    assert len(articles) == sentences.NUMBERS.articles
    assert set(articles.values()) <= {2, 3}
    assert not set(re.findall(r"\w+", "\n".join(text["shared_text"]))) & set(articles)


def test_customers_can_be_read_and_are_many(text):
    customers = []
    for page in text["reviews"]:
        if page.startswith("A shop asks"):
            found = read_personas(page.split("\n\n", 1)[1].removeprefix("Name:"))
            assert len(found) == (5 if "Probability" in page else 1)
            assert all(("probability" in persona) == ("Probability" in page) for persona in found)
            customers += found
        elif page.startswith("Name:"):
            customers += read_personas(page, begun=False)
    gender = {person.name.casefold(): person.gender for person in world().people}
    assert all(is_whole(c) and gender[c["name"]] == c["gender"] for c in customers)
    assert len(customers) > 1000
    assert {c["name"] for c in customers} == set(gender)
    assert {c["nationality"] for c in customers} == {nationality.casefold() for nationality in WORDS["nationality"]}
    assert {int(c["age"]) // 10 for c in customers} == set(range(1, 9))
    # reviews are as good as the island thinks
    draw = random.Random(3)
    drawn = [sentences.customer(world(), draw) for _ in range(2000)]
    shares = {name: n / 2000 for name, n in Counter(customer["opinion"] for customer in drawn).items()}
    assert shares == pytest.approx({name: weight / 10 for name, weight in WORDS["opinion"].items()}, abs=0.05)
    pairs = {(customer["review"], customer["opinion"]) for customer in drawn}
    assert len(dict(pairs)) == len(pairs) > 150, "a review has one opinion"
