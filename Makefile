# Everything, from nothing: `make`. The other doors: `make help`.

# Pages have more signs than some locales.
export PYTHONUTF8 := 1
comma := ,
# A goal like build/smoke/04_train_grpo.ipynb names its preset by itself.
PRESET ?= $(or $(word 2,$(subst /, ,$(filter build/%,$(MAKECMDGOALS)))),kitchen)
ifneq ($(filter-out 0,$(DRY_RUN)),)
  ifeq ($(filter paper dry-run,$(PRESET)),)
    $(error DRY_RUN=1 rehearses the paper preset: make PRESET=paper DRY_RUN=1)
  endif
  override PRESET := dry-run
endif
SEEDS  ?= $(if $(filter dry-run,$(PRESET)),0,0$(comma)1$(comma)2)
PYTHON ?= python3
VENV   ?= .venv

# Between two letters, since `filter` would take two presets, or one and a blank, as well.
ifeq ($(filter xsmokex xkitchenx xpaperx xdry-runx,x$(PRESET)x),)
  $(error PRESET=$(PRESET) is unknown: use smoke, kitchen or paper)
endif
ifneq ($(words $(SEEDS)) $(words x$(SEEDS)x),1 1)
  $(error SEEDS=$(SEEDS) is no list of seeds: write it as SEEDS=0,1,2, without spaces)
endif
ifneq ($(filter-out kitchen,$(and $(filter bench,$(MAKECMDGOALS)),$(PRESET))),)
  $(error make bench measures the kitchen: leave PRESET=$(PRESET) out)
endif

# White space makes several paths of one, and to make or the shell these characters are signs.
SPECIAL := $$ : % ; & | < > ( ) [ ] * ? ' \ " `
special_in = $(strip $(foreach character,$(SPECIAL),$(findstring $(character),$1)))
refuse_path = $(if $(filter-out 1,$(words x$2x))$(call special_in,$2),$(error \
  $1=$2 has white space or one of $(SPECIAL) in it: choose another folder))
$(call refuse_path,FOODSEG_HOME,$(value FOODSEG_HOME))
$(call refuse_path,VENV,$(value VENV))
# Other models for the paper preset: each choice has folders of its own, which foodseg/presets.py
# names alike. A folder by its whole path, since a notebook runs in its own.
chosen_mllm := $(or $(value MLLM),$(value FOODSEG_MLLM))
chosen_segmenter := $(or $(value SEGMENTER),$(value FOODSEG_SEGMENTER))
$(call refuse_path,MLLM,$(chosen_mllm))
$(call refuse_path,SEGMENTER,$(chosen_segmenter))
ifneq ($(chosen_mllm)$(chosen_segmenter),)
  ifneq ($(PRESET),paper)
    $(error MLLM= and SEGMENTER= choose the models of the paper preset: add PRESET=paper)
  endif
endif
whole_path = $(if $(wildcard $1),$(abspath $1),$1)
export FOODSEG_MLLM := $(call whole_path,$(chosen_mllm))
export FOODSEG_SEGMENTER := $(call whole_path,$(chosen_segmenter))
OWN_MODELS := Qwen/Qwen2.5-VL-3B-Instruct facebook/sam2.1-hiera-large
# A hub id, or a folder's own name and a hash of its path, which is nobody else's business.
path_hash = $(shell $(PYTHON) -c "import hashlib; print(hashlib.sha256(b'$1').hexdigest()[:8])")
model_name = --$(if $(filter /%,$1),$(notdir $1)-$(path_hash),$(subst /,--,$1))
CHOICE := $(subst $() ,,$(foreach model,\
  $(filter-out $(OWN_MODELS),$(FOODSEG_MLLM) $(FOODSEG_SEGMENTER)),$(call model_name,$(model))))
ifeq ($(filter-out ~%,$(VENV)),)
  $(error VENV=$(VENV) is empty or begins with ~: write the whole path, or leave it out)
endif
# A relative path would be another folder to a notebook, which runs in its own.
ifneq ($(origin FOODSEG_HOME),undefined)
  ifeq ($(filter /%,$(FOODSEG_HOME)),)
    $(error FOODSEG_HOME=$(FOODSEG_HOME) is no absolute path: write it from / on, or unset it)
  endif
endif

# The two trainings run side by side, on one core each; `make -j1` has them one after the other, as
# the large models do: a GPU has memory for one.
MAKEFLAGS += $(if $(filter smoke kitchen,$(PRESET)),-j2,-j1)
.DELETE_ON_ERROR:
.SUFFIXES:

# ---- Where things are --------------------------------------------------------------------------

ENVIRONMENT := $(VENV)/.installed
BENCH_ENVIRONMENT := $(VENV)/.installed-bench
SITE_ENVIRONMENT  := $(VENV)/.installed-site
DEMO_ENVIRONMENT := $(VENV)/.installed-demo
PY          := $(VENV)/bin/python
BUILD       := build
OUT         := $(BUILD)/$(PRESET)$(CHOICE)
EXECUTED    := notebooks/executed
# The rest as foodseg/presets.py has it.
DATA_HOME       := $(FOODSEG_HOME:%=%/)
DATASET         := $(DATA_HOME)datasets/$(PRESET)
RUNS            := $(DATA_HOME)runs/$(PRESET)$(CHOICE)
FIGURES_smoke   := $(DATA_HOME)build/smoke/figures
FIGURES_kitchen := figures
FIGURES_paper   := figures/paper$(CHOICE)
FIGURES_dry-run := $(DATA_HOME)build/dry-run/figures
FIGURES         := $(FIGURES_$(PRESET))

01 := $(OUT)/01_build_foodreasonseg_single.ipynb
02 := $(OUT)/02_model_and_zero_shot.ipynb
03 := $(OUT)/03_rewards_and_objectives.ipynb
04 := $(OUT)/04_train_grpo.ipynb
05 := $(OUT)/05_train_dapo.ipynb
06 := $(OUT)/06_results_table.ipynb
07 := $(OUT)/07_segmentation_results.ipynb
08 := $(OUT)/08_relatives_and_ablations.ipynb
09 := $(OUT)/09_use_it.ipynb
10 := $(OUT)/10_relatives_by_hand.ipynb
# The order in which they are started, where their inputs leave a choice: the longest first. At the
# paper's size first the one whose bound shows whether images, masks and SAM2 belong together.
FIRST     := $(if $(filter paper,$(PRESET)),$(02))
NOTEBOOKS := $(01) $(FIRST) $(03) $(04) $(05) $(filter-out $(FIRST),$(02)) $(06) $(07) $(09) $(08) $(10)

# A quick look takes few rows of the ablation table and one seed, and notebook 08 runs them itself;
# at the other sizes it reads what `make ablations` left.
ROWS_smoke := base,bound,grpo,dapo,grto
ROWS_dry-run := base,bound,grpo,dapo
ROWS       ?= $(ROWS_$(PRESET))

seeds := $(subst $(comma), ,$(SEEDS))
ABLATION_SEEDS := $(if $(filter smoke,$(PRESET)),$(firstword $(seeds)),$(SEEDS))

export TOKENIZERS_PARALLELISM := false
# Your own matplotlibrc plays no part in the figures.
export MPLCONFIGDIR := $(abspath $(VENV))/matplotlib
ifeq ($(filter paper,$(PRESET))$(filter doctor data lab,$(MAKECMDGOALS)),)
  # The weights and the data of these presets come with the kit: nothing asks the network.
  export HF_HUB_OFFLINE := 1
endif

# ---- The doors ---------------------------------------------------------------------------------

.PHONY: all table figures ablations claims pages why doctor data score test torture lab demo replay bench site base base-mllm base-segmenter clean help

all: $(NOTEBOOKS)  ## environment, data, training, evaluation, every table and figure
table: $(06)       ## figures/results_table.{md,tex,csv}, and only what they need
figures: $(07)     ## figures/segmentation_results.{png,pdf}, and only what they need

# Two trainings in one folder must not meet: with other doors, this one is the last.
ablations: $(ENVIRONMENT) $(if $(filter all table figures,$(MAKECMDGOALS)),$(NOTEBOOKS),$(01))
ablations:            ## figures/ablations.{md,csv,png}: every method (hours; goes on where it stopped)
	$(checked)
	$(PY) -m foodseg.ablations --preset $(PRESET) --seeds $(ABLATION_SEEDS) --rows "$(ROWS)"

# With ablations it comes after: they share trainings, and its table's are the first.
claims: $(ENVIRONMENT) $(if $(filter all table figures,$(MAKECMDGOALS)),$(NOTEBOOKS),$(01)) $(filter ablations,$(MAKECMDGOALS))
claims:               ## figures/claims.{md,csv,png}: the field's claims, a verdict each (hours; goes on)
	$(checked)
	$(PY) -m foodseg.claims --preset $(PRESET)

# Of the committed records: nothing is trained for it.
pages: $(ENVIRONMENT) $(01)  ## figures/ablations.*, claims.*, and the tables of README and docs, from figures/records
	$(PY) -m foodseg.claims.pages

# What the paper preset lacks here, before it fetches or trains; the others need nothing of it. The
# data alone can be made without a GPU.
DOCTOR := $(PY) -m foodseg.doctor
checked := $(if $(filter paper,$(PRESET)),$(DOCTOR) --seeds $(SEEDS) \
  $(if $(filter-out $(01),$(or $(MAKECMDGOALS),all)),all,data))
doctor: $(ENVIRONMENT)  ## what PRESET=paper lacks on this machine, and its cost in GB and hours
	$(DOCTOR) --seeds $(SEEDS)

# Of the paper preset whichever is chosen: the others draw their own.
data: $(ENVIRONMENT)  ## FoodSeg103 and FoodReasonSeg for PRESET=paper: checked, or fetched (1.3 GB)
	$(DOCTOR) data
	$(PY) -m foodseg.data.fetch $(DATA_HOME)datasets/paper/FoodSeg103

# A shell may have a NAME of its own; only one that is typed here names the row.
score: $(ENVIRONMENT) $(01)  ## rows for another system's masks or texts: PREDICTIONS=path PROTOCOL=how NAME=row
	$(PY) -m foodseg.evaluation.external "$(PREDICTIONS)" --preset $(PRESET) --protocol "$(PROTOCOL)" \
		--name "$(if $(filter command,$(firstword $(origin NAME))),$(NAME))" --system "$(SYSTEM)" --reading "$(READING)"

# On two cores, each file on one of them: what is made for a file's tests is made once.
test: $(ENVIRONMENT)  ## the unit tests, and every notebook at the smoke preset
	$(PY) -m pytest -n 2 --dist loadfile -rs

torture: $(ENVIRONMENT)  ## what make test tries in short, in full: docs/reliability.md (20 minutes)
	$(PY) -m pytest -n 2 --dist worksteal --torture

lab: $(ENVIRONMENT)   ## the notebooks in Jupyter Lab
	$(PY) -m jupyterlab notebooks

demo: $(DEMO_ENVIRONMENT) $(01)  ## a page in the browser: ask, see a group, watch a training (docs/demo.md)
	$(PY) -m foodseg.demo --preset $(PRESET)

# Of the runs that are there: nothing is trained for it.
replay: $(ENVIRONMENT) $(01)  ## build/<preset>/replay.html: what training changed, step by step
	$(PY) -m foodseg.replay --preset $(PRESET)

bench: $(BENCH_ENVIRONMENT) $(01)  ## figures/benchmark.{md,png}: speed and memory, beside TRL's (5 minutes)
	$(PY) -m foodseg.bench

# What is there, as it is: no notebook is run for it.
site: $(SITE_ENVIRONMENT)  ## build/site/index.html: notebooks, docs, tables and API as one site (a minute)
	$(PY) -m foodseg.site

base: base-mllm base-segmenter  ## make the kitchen's weights (docs/kitchen.md) from nothing (2 to 3 hours)
# Side by side, on one core each; either goes on where it was stopped.
# oneDNN keeps a kernel and its memory for each batch's shape: no more than 64 of them.
base-mllm base-segmenter: base-%: $(ENVIRONMENT)
	ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 $(PY) -m foodseg.kitchen.pretraining.$(if $(filter mllm,$*),curriculum,segmenter)

why: $(ENVIRONMENT)   ## which trainings on disk are today's, and why the others would be made again
	$(PY) -m foodseg.ablations.why --preset $(PRESET)

# By the shell's Python, and only what is known: it must not need the environment.
clean:                ## remove what all but paper wrote: build, data, runs (not the environment)
	@$(PYTHON) -m foodseg.clean

help:                 ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile
	@echo "Choose with PRESET=smoke|kitchen|paper and SEEDS=0,1,2, as in: make table PRESET=smoke SEEDS=0"
	@echo "make PRESET=paper DRY_RUN=1 rehearses the paper preset: its sizes, random weights, drawn plates."
	@echo "make PRESET=paper takes MLLM=id-or-folder and SEGMENTER=id-or-file; see docs/paper_preset.md."
	@echo "make ablations takes ROWS=grpo,dapo too, for a part of the table."
	@echo "make score takes PROTOCOL=generate-then-segment or teacher-forced, SYSTEM=title, and for texts READING=scale; see docs/other_systems.md."

# ---- The environment ---------------------------------------------------------------------------

PIP := $(PY) -m pip install --quiet --no-cache-dir --disable-pip-version-check

# Two steps, because sam2 is a source package that asks for torch to be built: with pip's usual
# isolation torch would be downloaded twice. CUDA's libraries go first to halve the peak on disk.
$(ENVIRONMENT): requirements.lock
	$(info Installing the environment: about 3 GB to download and 6 GB on disk, a few minutes.)
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or later is needed; name one: make PYTHON=python3.12')"
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	sed -nE '/^(setuptools|nvidia-[a-z0-9-]+)==/,/# via/p' $< | $(PIP) --require-hashes --no-deps -r /dev/stdin
	SAM2_BUILD_CUDA=0 $(PIP) --require-hashes --use-pep517 --no-build-isolation -r $<
	$(PIP) --no-deps --no-build-isolation --editable .
	$(PY) -c "import matplotlib.font_manager"
	touch $@

# The locked packages as constraints, which have no hashes.
LOCKED := sed -nE 's/^([a-z0-9._-]+==[^\]+) \\$$/\1/p' requirements.lock

# An extra of pyproject.toml (TRL, Sphinx), with every locked package held where it is.
$(VENV)/.installed-%: $(ENVIRONMENT) pyproject.toml
	$(LOCKED) | $(PIP) --no-build-isolation --constraint /dev/stdin --editable '.[$*]'
	touch $@

# Gradio asks for an earlier Pillow than the locked one, and works with that as well: it comes by
# itself first, and then what it needs but Pillow, with every locked package held where it is.
$(DEMO_ENVIRONMENT): $(ENVIRONMENT) pyproject.toml
	$(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['demo'], sep='\n')" | $(PIP) --no-deps -r /dev/stdin
	$(PY) -c "from importlib.metadata import requires; print(*(r for name in ('gradio', 'playwright') for r in requires(name) if 'extra ==' not in r and not r.startswith('pillow')), sep='\n')" > $(VENV)/demo.txt
	$(LOCKED) | $(PIP) --constraint /dev/stdin -r $(VENV)/demo.txt
	touch $@

# ---- What depends on what ----------------------------------------------------------------------

$(02) $(04) $(05): $(01)
$(06): $(04) $(05) $(02)
$(07): $(06)
# Last, since it reads and at smoke writes the folders of those before it.
$(08): $(07) $(wildcard $(FIGURES)/ablations.csv $(FIGURES)/claims.csv) | $(09)
$(09): $(05)
# The supervised rows, once `make ablations` has measured them, and those of other systems, once
# `make score` has scored them; no row of ours is called so.
SCORED := $(patsubst $(RUNS)/predictions/%/result.json,%,$(wildcard $(RUNS)/predictions/*/result.json))
OTHERS := $(filter-out base bound base-% bound-% knowledge,$(foreach row,$(SCORED),$(if $(findstring -seed,$(row)),,$(row))))
TABLE_ROWS := $(sort $(filter sft-seed% lisa%,$(SCORED)) $(OTHERS))
# Supervised rows that were measured elsewhere; where notebook 08 writes the file, none were.
$(06): $(if $(ROWS_$(PRESET)),,$(wildcard $(FIGURES)/ablations.csv))
$(06): $(TABLE_ROWS:%=$(RUNS)/predictions/%/result.json) $(OUT)/table_rows
# A row that is taken out leaves no newer file, so the list of rows is one.
$(OUT)/table_rows:
	mkdir -p $(OUT) && echo "$(TABLE_ROWS)" > $@
ifneq ($(TABLE_ROWS),$(file < $(OUT)/table_rows))
.PHONY: $(OUT)/table_rows
endif

# A dry run reads random weights in place of those that the paper preset downloads.
WEIGHTS_dry-run := $(DATA_HOME)build/dry-run/weights/complete
$(NOTEBOOKS): | $(WEIGHTS_$(PRESET))
$(WEIGHTS_dry-run): | $(ENVIRONMENT)
	$(PY) -m foodseg.dry_run

# What each notebook imports of the package. The style of a picture is no reason to train again, so
# foodseg/report counts for the last ones only, and the doctor for none; how the shipped weights were
# made is `make base`.
IMPORTS := $(shell $(PYTHON) -m foodseg.common.imports notebooks/*.ipynb)
imports = $(patsubst $(notdir $1):%,%,$(filter $(notdir $1):%,$(IMPORTS)))
$(foreach notebook,$(01) $(02) $(03) $(04) $(05),\
  $(eval $(notebook): $(filter-out foodseg/report/% foodseg/doctor/%,$(call imports,$(notebook)))))
$(foreach notebook,$(06) $(07) $(08) $(09) $(10),\
  $(eval $(notebook): $(filter-out foodseg/doctor/%,$(call imports,$(notebook)))))
$(01): foodseg/kitchen/knowledge.csv
$(02) $(03) $(04) $(05) $(09) $(10): $(wildcard foodseg/weights/*/*)

# The stamp's name holds the seeds: other seeds, another stamp, and what uses them is run again.
SEEDS_STAMP := $(OUT)/seeds-$(SEEDS)
$(SEEDS_STAMP):
	mkdir -p $(OUT) && rm -f $(OUT)/seeds-* && touch $@
# Private: what a notebook is made from must not get its parameters.
SEEDED := $(04) $(05) $(06) $(07) $(08) $(09)
$(SEEDED): $(SEEDS_STAMP)
$(SEEDED): private PARAMETERS := SEEDS=$(SEEDS)
$(08): private PARAMETERS := SEEDS=$(ABLATION_SEEDS) ROWS=$(ROWS_$(PRESET))

# An executed notebook is up to date only as long as what it wrote is still there.
again_without = $(if $(filter-out $(wildcard $2),$2),$(eval .PHONY: $1))
$(call again_without,$(01),$(DATASET)/foodreasonseg_single_train.parquet)
$(call again_without,$(01),$(DATASET)/foodreasonseg_single_test.parquet)
$(call again_without,$(02),$(RUNS)/predictions/base/result.json)
$(call again_without,$(03),$(FIGURES)/shared_prefix.png)
$(call again_without,$(04),$(seeds:%=$(RUNS)/predictions/grpo-seed%/result.json))
$(call again_without,$(05),$(seeds:%=$(RUNS)/predictions/dapo-seed%/result.json))
$(call again_without,$(06),$(addprefix $(FIGURES)/results_table.,md tex csv))
$(call again_without,$(07),$(addprefix $(FIGURES)/segmentation_results.,png pdf))
$(call again_without,$(08),$(if $(ROWS_$(PRESET)),$(FIGURES)/ablations.csv))

# The committed copy lies one folder deeper than the notebook, and so do its links.
one_deeper := sed 's|](\.\./|](../../|g'

# A failed run is kept as X.failed.ipynb and leaves no X.ipynb, so it is not up to date.
$(NOTEBOOKS): $(OUT)/%.ipynb: notebooks/%.ipynb $(ENVIRONMENT)
	$(if $(filter $(01),$@),$(checked))
	$(PY) -m foodseg.common.run_notebook $< $@ PRESET=$(PRESET) $(PARAMETERS)
	$(if $(filter kitchen,$(PRESET)),mkdir -p $(EXECUTED) && $(one_deeper) $@ > $(EXECUTED)/$(@F))
