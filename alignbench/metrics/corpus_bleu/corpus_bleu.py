from alignbench.metrics.module import CorpusBleu  # noqa: F401  # evaluate takes the class from here
