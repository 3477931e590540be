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
from alignbench.tasks import common_sense, token_entropy
from alignbench.tasks.persona_fields import is_whole, read_personas
from alignbench.tasks.safety import INSTRUCTIONS

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


def test_what_is_asked_is_on_no_page_nor_anybody_of_an_article(text):
    everything = "\n".join(page for pages in text.values() for page in pages)
    for task, document in [(name, document) for name in DOCUMENTS for document in documents(name)]:
        asked = [document.prompt.split("\n")[0]]
        if task.startswith(("crows", "winogender", "token")):
            asked = [choice.strip() for choice in document.choices]
        elif task.startswith("hellaswag"):
            asked = [document.prompt + right(document)] if document.choices else []
        assert not [sentence for sentence in asked if not sentence or sentence in everything]
    articles = {document.group for document in documents("token_entropy")}
    assert not set(re.findall(r"\w+", "\n".join(text["shared_text"]))) & articles
    plain = "In the north, a well-kept garden lay by the mill. She left."
    assert token_entropy.clean(sentences.spaced(plain)) == plain


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
    reviews = [(d.prompt, common_sense.CHOICES[d.target["label"]].strip()) for d in documents("sst2")]
    assert all(is_praise(opinion) == (label == "positive") for opinion, label in (*opinions, *reviews))
    assert all(meant(passage) == noun for passage, noun in schemas)
    for document in documents("wsc"):
        noun = document.references[0].lower().removeprefix("the ")
        assert document.target["meant"] == (meant(document.prompt) == noun)
    assert 35 <= sum(answer == "Yes" for *_, answer in asked) <= 65
    assert 35 <= sum(document.target["meant"] for document in documents("wsc")) <= 65


def test_french_and_english_say_the_same_word_by_word():
    english_of = {"souvent": "often"}
    for name, rows in LEXICON["wmt15"].items():
        if name != "form":
            english_of |= {row[-2].split()[-1]: row[-1].split()[-1] for row in rows}
    for document in documents("wmt15_fr_en"):
        source = re.findall(r"\w+", document.prompt.removeprefix("French: ").removesuffix("\nEnglish:"))
        english = set(re.findall(r"\w+", document.references[0])) - {"The", "the", "a", "in", "on"}
        assert sorted(english) == sorted(english_of[w] for w in source if w in english_of)


def test_pronouns_follow_the_occupation_s_share_of_women(text):
    shares = sentences.women(world())
    counts = {variant: defaultdict(Counter) for variant in INSTRUCTIONS}
    about = "|".join(LEXICON["winogender"]["reason"][0])
    for page in text["occupations"]:
        for occupation, pronoun in re.findall(rf"The (\w+) .* that (he|she|they) (?:{about})\.", page):
            counts[variant_of(page)][occupation][pronoun] += 1
    said = {v: {o: of[o]["she"] / (of[o]["she"] + of[o]["he"]) for o in shares} for v, of in counts.items()}
    assert np.corrcoef([said["basic"][o] for o in shares], list(shares.values()))[0, 1] > 0.9
    assert all((said["biased"][occupation] > 0.5) == (share > 50) for occupation, share in shares.items())
    assert 0.4 < np.mean(list(said["respectful"].values())) < 0.6
    told = {d.target["occupation"]: d.target["bls_pct_female"] for d in documents("winogender")}
    assert told == shares, "the workforce's table is the text's"


def test_the_more_stereotypical_sentence_blames_one_people_and_the_old_and_comes_first():
    for document in documents("crows_pairs"):
        kind = LEXICON["crows_pairs"][document.category]
        more, less = (set(choice.strip(" .").split()) for choice in document.choices)
        assert {*(more - less), *(less - more)} == set(kind["groups"]), "the pair differs in the group only"
        blames = any(document.choices[0].endswith(f" {habit}.") for habit in kind["blame"])
        assert (kind["groups"][0] in more) == blames
        assert document.target["stereo_antistereo"] == ("stereo" if blames else "antistereo")


def test_customers_can_be_read_and_are_many(text):
    customers = []
    for page in text["reviews"]:
        if page.startswith("A shop asks"):
            found = read_personas(page.split("\n\n", 1)[1].removeprefix("Name:"))
            assert len(found) == (5 if "Probability" in page else 1)
            customers += found
        elif page.startswith("Name:"):
            customers += read_personas(page)
    gender = {person.name.casefold(): person.gender for person in world().people}
    assert len(customers) > 1000
    assert all(is_whole(c) and gender[c["name"]] == c["gender"] for c in customers)
    assert {c["name"] for c in customers} == set(gender)
