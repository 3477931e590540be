from alignbench.metrics.module import Grounding  # noqa: F401  # evaluate takes the class from here
