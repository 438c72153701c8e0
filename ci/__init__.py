"""Set-up, checks and builds: `python -m ci.<name>`, of which the Makefile is a thin face."""
