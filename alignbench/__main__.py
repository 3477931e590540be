"""`python -m alignbench`."""

from alignbench.cli.app import main

main()
