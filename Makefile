# Every target sets up what it needs: nothing but python3 >= 3.11, make, g++, perl and git is
# expected of the machine. PYTHON chooses the interpreter that makes the virtual environment.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
GAME ?= breakout
LANES ?= 16
BOARD ?= ulx3s
TOOLCHAIN ?=
CONFIG ?=
CLOCK ?=
SEED ?= 3
FAULTS ?= 10000
PDK ?=
ASIC ?=
PLAY ?= --backend sim --episodes 1
# torch's CPU build; an unpinned torch may pull gigabytes of CUDA packages.
TORCH := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help setup play test test-slow test-torch sim lint bench verilog boards bitstream program \
  faults asic asic-handoff asic-layout clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp an extra: an extra is installed once, and again when pyproject.toml changes.
$(VENV)/stamp-%: pyproject.toml
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]' $(EXTRA)
	@touch $@

$(VENV)/stamp-import $(VENV)/stamp-train: EXTRA = $(TORCH)

PLAY_STAMPS := $(VENV)/stamp-play,hw,sim,fpga
TEST_STAMPS := $(PLAY_STAMPS) $(VENV)/stamp-asic $(VENV)/stamp-test
BOARD_STAMPS := $(PLAY_STAMPS) $(VENV)/stamp-boards

setup: $(TEST_STAMPS) ## Make the virtual environment for playing and testing

play: $(PLAY_STAMPS) ## Play an episode on the co-simulated accelerator (GAME=breakout LANES=16)
	$(RUN)/python sw/run_agent.py --game $(GAME) --lanes $(LANES) $(PLAY)

test: $(TEST_STAMPS) ## Pass the tests: unit tests, co-simulation benches, exactness
	$(RUN)/python -m pytest -n 2 --dist loadgroup

test-torch: $(TEST_STAMPS) $(VENV)/stamp-train $(VENV)/stamp-compare ## Tests of what needs torch or ONNX Runtime
	$(RUN)/python -m pytest -m torch

test-slow: $(TEST_STAMPS) $(VENV)/stamp-train ## The long tests: whole games, all random networks
	$(RUN)/python -m pytest -m slow

sim: $(TEST_STAMPS) ## Run the cocotb benches of blocks and core
	$(RUN)/python -m pytest -n 2 --dist loadgroup tests/sim

lint: $(PLAY_STAMPS) $(VENV)/stamp-lint ## Check style and types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(PLAY_STAMPS) $(VENV)/stamp-import $(VENV)/stamp-compare ## Print the project's figures
	$(RUN)/reticent bench

verilog: $(PLAY_STAMPS) ## Write the core as Verilog with its sidecar (LANES=16)
	$(RUN)/reticent verilog --lanes $(LANES) -o build/reticent-$(LANES)

boards: $(BOARD_STAMPS) ## List the boards, what fits them, and the tools that they need
	$(RUN)/reticent boards

bitstream: $(BOARD_STAMPS) ## Build for a board (BOARD=ulx3s CONFIG= CLOCK= TOOLCHAIN= SEED=3)
	$(RUN)/reticent bitstream $(BOARD) --seed $(SEED) $(if $(TOOLCHAIN),--toolchain $(TOOLCHAIN)) \
	  $(if $(CONFIG),--config $(CONFIG)) $(if $(CLOCK),--clock $(CLOCK))

program: $(BOARD_STAMPS) ## Load the bitstream into a board (BOARD=ulx3s)
	$(RUN)/reticent program $(BOARD)

faults: $(PLAY_STAMPS) ## Break the link to a simulated board in every way (FAULTS=10000)
	$(RUN)/python sim/faults.py --faults $(FAULTS)

ASIC_STAMPS := $(PLAY_STAMPS) $(VENV)/stamp-asic
ASIC_OPTIONS = $(if $(PDK),--pdk $(PDK)) $(if $(filter command line environment,$(origin LANES)),--lanes $(LANES))

asic: $(ASIC_STAMPS) ## Area, clock and energy in standard cells (PDK=osu018 PDK_ROOT= LANES=4)
	$(RUN)/reticent asic $(ASIC_OPTIONS) $(ASIC)

asic-handoff: $(ASIC_STAMPS) $(VENV)/stamp-handoff ## A LibreLane project (PDK=ihp-sg13g2 PDK_ROOT= LANES=4)
	$(RUN)/reticent asic-handoff $(ASIC_OPTIONS) $(ASIC)

asic-layout: $(ASIC_STAMPS) $(VENV)/stamp-layout ## A lane with small memories to DEF, GDS and a picture: slow
	$(RUN)/reticent asic-layout $(if $(PDK),--pdk $(PDK)) $(ASIC)

clean: ## Remove what the other targets made, the virtual environment included
	rm -rf $(VENV) build
