from alignbench.metrics.module import RougeL  # noqa: F401  # evaluate takes the class from here
