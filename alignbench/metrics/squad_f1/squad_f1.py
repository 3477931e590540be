from alignbench.metrics.module import SquadF1  # noqa: F401  # evaluate takes the class from here
