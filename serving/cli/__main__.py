"""`python -m serving.cli` is `chopstick`."""

from serving.cli import main

main()
