"""Finding personal data by pattern: addresses and numbers, not names of people or places.

presidio-analyzer's recognisers on a blank spaCy pipeline: no model is downloaded, and nothing asks the network.
"""

from collections.abc import Callable
from typing import Any

from alignbench.errors import AlignbenchError

# Presidio's own scores: a telephone number alone has .4, and so has a weak pattern beside a word that speaks for it.
THRESHOLD = 0.4
# Some patterns take a time quadratic in the text (hours for a megabyte of hyphens), so a long text is read in pieces.
PIECE, OVERLAP = 4_000, 400  # characters; what is looked for, with the words before it, is shorter than the overlap
PACKAGES = ("presidio-analyzer", "phonenumbers", "tldextract")  # what they know decides what is found


def finder() -> Callable[[str], set[str]]:
    """A function from a text to the kinds found in it: EMAIL_ADDRESS, PHONE_NUMBER, CREDIT_CARD, …

    AlignbenchError where the extra `pii` is not installed.
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
            "personal data is found with presidio-analyzer: pip install 'alignbench[pii]', or pass --no-pii"
        ) from None

    # the default asks the network for the list of public suffixes; this one is the list in the package
    domain_of = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    email: Any = recognizers.EmailRecognizer()
    email.validate_result = lambda found: bool(domain_of(found).fqdn)

    def lower_as_lemma(doc: Any) -> Any:
        for token in doc:  # the words beside a number, by which presidio raises its score
            token.lemma_ = token.lower_
        return doc

    Language.component("lower_as_lemma", func=lower_as_lemma)
    pipeline = spacy.blank("en")
    pipeline.max_length = 1 << 30
    pipeline.add_pipe("lower_as_lemma")
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": pipeline}
    registry = RecognizerRegistry(
        [
            email,
            recognizers.PhoneRecognizer(),
            recognizers.CreditCardRecognizer(),
            recognizers.IbanRecognizer(),
            recognizers.IpRecognizer(),
            recognizers.MacAddressRecognizer(),
            recognizers.CryptoRecognizer(),
            recognizers.UsSsnRecognizer(),
        ]
    )
    analyzer = AnalyzerEngine(registry, engine, default_score_threshold=THRESHOLD)

    def find(text: str) -> set[str]:
        starts = range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP)
        pieces = (text[start : start + PIECE] for start in starts)
        return {found.entity_type for piece in pieces for found in analyzer.analyze(piece, "en")}

    return find
