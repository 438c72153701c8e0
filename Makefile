# A thin face over `python -m ci.<name>`, which is what to type on Windows.
# Each command first sets up .venv if that is not done.
PYTHON ?= python3
SCALE ?= laptop
ARGS ?=

help:           ## say what there is (the default)
	@sed -n 's/^\([a-z-]*\): *## */\1\t/p' $(MAKEFILE_LIST) | expand -t 14

book:           ## train the chat model at laptop scale, then build the book that shows the run
	@$(PYTHON) -m ci.book $(ARGS)

test:           ## check everything: style, tests, every notebook
	@$(PYTHON) -m ci.test $(ARGS)

chat:           ## talk in the browser to the model trained last
	@$(PYTHON) -m ci.chat $(ARGS)

lab:            ## open the book in JupyterLab
	@$(PYTHON) -m ci.lab $(ARGS)

exercises:      ## write exercises/ from solutions/
	@$(PYTHON) -m ci.exercises $(ARGS)

full-run:       ## train at another size: make full-run SCALE=gpu, or SCALE=node
	@$(PYTHON) -m ci.full_run --scale $(SCALE) $(ARGS)

bench:          ## measure speed against a baseline, side by side
	@$(PYTHON) -m ci.bench $(ARGS)

clean:          ## remove what was built (ARGS=--all: the environment too)
	@$(PYTHON) -m ci.clean $(ARGS)

.PHONY: help book test chat lab exercises full-run bench clean
