from alignbench.metrics.module import QuacF1  # noqa: F401  # evaluate takes the class from here
