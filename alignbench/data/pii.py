"""Detection of personal data by pattern: addresses and numbers, not names of people or places.

presidio-analyzer's recognisers on a blank spaCy pipeline: no model is downloaded, and the network is not used.
"""

from collections.abc import Callable
from typing import Any

from alignbench.errors import AlignbenchError

# Presidio's own scores: .4 for a telephone number alone, and for a weak pattern next to a word that supports it.
THRESHOLD = 0.4
# Some patterns take a time quadratic in the text (hours for a megabyte of hyphens), so long text is read in pieces.
PIECE, OVERLAP = 4_000, 400  # characters; a match with the words before it is shorter than the overlap
PACKAGES = ("presidio-analyzer", "phonenumbers", "tldextract")  # their versions determine what is found


def finder() -> Callable[[str], set[str]]:
    """A function from a text to the kinds found in it: EMAIL_ADDRESS, PHONE_NUMBER, CREDIT_CARD, …

    AlignbenchError if the extra `pii` is not installed.
    """
    try:
        import presidio_analyzer.predefined_recognizers as recognizers
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from spacy.language import Language
    except ImportError:
        raise AlignbenchError(
            "the filter of personal data needs presidio-analyzer: pip install 'alignbench[pii]', or pass --no-pii"
        ) from None

    # the default downloads the list of public suffixes; this is the list in the package
    domain_of = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    email: Any = recognizers.EmailRecognizer()
    email.validate_result = lambda found: bool(domain_of(found).fqdn)

    def lower_as_lemma(doc: Any) -> Any:
        for token in doc:  # presidio raises the score of a number by the lemmas next to it
            token.lemma_ = token.lower_
        return doc

    Language.component("lower_as_lemma", func=lower_as_lemma)
    pipeline = spacy.blank("en")
    pipeline.max_length = 1 << 30
    pipeline.add_pipe("lower_as_lemma")
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": pipeline}
    names = ("Phone", "CreditCard", "Iban", "Ip", "MacAddress", "Crypto", "UsSsn")
    registry = RecognizerRegistry([email, *(getattr(recognizers, f"{name}Recognizer")() for name in names)])
    analyzer = AnalyzerEngine(registry, engine, default_score_threshold=THRESHOLD)

    def find(text: str) -> set[str]:
        starts = range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP)
        pieces = (text[start : start + PIECE] for start in starts)
        return {found.entity_type for piece in pieces for found in analyzer.analyze(piece, "en")}

    return find
