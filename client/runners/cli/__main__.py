"""`python -m runners.cli` is `runners-client`."""

from .main import main

main()
