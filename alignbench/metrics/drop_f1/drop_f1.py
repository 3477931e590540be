from alignbench.metrics.module import DropF1  # noqa: F401  # evaluate takes the class from here
