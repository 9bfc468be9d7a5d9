# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Every target is a line or two over the real tool, which you can also call directly.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.NOTPARALLEL:

# Nobody installs into another cluster by accident: what points kubectl, helm and kubernetes.core at one is not passed on ...
$(foreach name,KUBECONFIG $(filter K8S_AUTH_% HELM_KUBE%,$(.VARIABLES)),$(eval unexport $(name)))
# ... and these two count only where they are typed, never from the environment.
own_cluster := $(if $(filter command line,$(origin INVENTORY)),$(INVENTORY))
arguments = $(if $(filter command line,$(origin ARGS)),$(ARGS))

# Ansible wants a UTF-8 locale, and this one is everywhere.
export LC_ALL := C.UTF-8
cache_home := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
export ISTIO_LAB_CACHE := $(abspath $(or $(ISTIO_LAB_CACHE),$(cache_home)/meshops-istio-lab))

# With the tests that are marked `full` (tests/conftest.py).
test-full soundness prediction: export ISTIO_TESTS := full

uv_version := 0.13.9
playbook := .venv/bin/ansible-playbook
lab_playbook := $(playbook) -i localhost, -c local lab/lab.yml

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: site
site: venv ## Run site.yml on the embedded lab, built on first use; on your own cluster with INVENTORY=inventory/<yours>
ifdef own_cluster
	$(playbook) -i '$(own_cluster)' site.yml $(arguments)
else
	lab/with-lock $(MAKE) locked-site
endif

.PHONY: locked-site
locked-site:
	$(lab_playbook) -e istio_lab_state=present
	$(playbook) -i inventory/lab.yml site.yml $(arguments)

.PHONY: verify
verify: venv ## Run verify.yml, on the lab or with INVENTORY=inventory/<yours>; changes nothing there
ifdef own_cluster
	$(playbook) -i '$(own_cluster)' verify.yml $(arguments)
else
	lab/with-lock $(playbook) -i inventory/lab.yml verify.yml $(arguments)
endif

.PHONY: uninstall
uninstall: venv ## Run uninstall.yml, on the lab or with INVENTORY=inventory/<yours> ARGS='-e confirm=<its host>'
ifdef own_cluster
	$(playbook) -i '$(own_cluster)' uninstall.yml $(arguments)
else
	lab/with-lock $(playbook) -i inventory/lab.yml uninstall.yml -e confirm=lab $(arguments)
endif

.PHONY: test
test: ## All gates, unit tests and lab tests, as one pytest call on the embedded lab
	@export ISTIO_STEP_TIMES=$$(mktemp); trap 'rm -f "$$ISTIO_STEP_TIMES"' EXIT; \
	.ci/timed 'set-up: .venv' $(MAKE) venv && lab/with-lock $(MAKE) locked-test

.PHONY: locked-test
locked-test:
	.ci/timed 'set-up: lab' $(lab_playbook) -e istio_lab_state=present
	.venv/bin/pytest -n 2 $(arguments)

.PHONY: quick
quick: venv ## The fast gates and the unit tests, without the lab
	.venv/bin/pytest -n 2 -m 'not slow' tests/gates tests/unit $(arguments)

.PHONY: lab
lab: venv ## Build and start the embedded cluster (two nodes with ARGS='-e istio_lab_nodes=2')
	lab/with-lock $(lab_playbook) -e istio_lab_state=present $(arguments)

.PHONY: lab-down
lab-down: venv ## Stop the embedded cluster and leave nothing running; its built parts stay cached
	lab/with-lock $(lab_playbook) -e istio_lab_state=absent $(arguments)

.PHONY: lab-purge
lab-purge: venv ## Stop the embedded cluster and delete its built parts too
	lab/with-lock $(lab_playbook) -e istio_lab_state=purge $(arguments)

.PHONY: kubeconfig
kubeconfig: ## Print the path of the lab's kubeconfig, if the lab answers (make -s kubeconfig)
	$(eval answer := $(shell python3 .ci/lab_kubeconfig.py '$(ISTIO_LAB_CACHE)/lab/kubeconfig'))
	@:$(if $(filter 0,$(.SHELLSTATUS)),$(info $(answer)),$(error $(answer)))

.PHONY: fixtures
fixtures: venv ## Record the outputs that unit tests read again, on the lab with its sample (then run make site)
	kubeconfig=$$($(MAKE) -s kubeconfig); lab/with-lock .venv/bin/python tests/report_cases.py "$$kubeconfig" && \
	lab/with-lock .venv/bin/python tests/unit/record_fixtures.py "$$kubeconfig"

.PHONY: docs
docs: venv ## Generate docs/my-session-does-not-stick.md from the catalogue of causes, and the tables of variables in roles/*/README.md
	.venv/bin/python .ci/causes_page.py
	.venv/bin/python .ci/role_variables.py

.PHONY: docs-site
docs-site: venv ## Build the documentation site as HTML into docs-site/
	.venv/bin/python .ci/docs_site.py

.PHONY: soundness
soundness: venv ## Count how often the verdict is right: hundreds of checks and a million windows (hours; fewer with CHECKS= and WINDOWS=)
	.venv/bin/python tests/soundness/simulate.py $(or $(WINDOWS),1000000)
	lab/with-lock $(lab_playbook) -e istio_lab_state=present -e istio_lab_nodes=2
	ISTIO_SOUNDNESS_CHECKS=$(or $(CHECKS),200) lab/with-lock .venv/bin/pytest -n 2 --timeout=0 tests/integration/test_affinity_soundness.py $(arguments)

.PHONY: prediction
prediction: venv ## Compare predictions with what 10,000 sessions do, and drain a node, on a lab of two (fewer with SESSIONS=)
	lab/with-lock $(lab_playbook) -e istio_lab_state=present -e istio_lab_nodes=2
	ISTIO_LAB_NODES=2 ISTIO_PREDICTION_SESSIONS=$(or $(SESSIONS),10000) lab/with-lock .venv/bin/pytest --timeout=0 \
	  tests/integration/test_affinity_info.py tests/integration/test_affinity_prediction.py tests/integration/test_affinity_gateway.py $(arguments)

.PHONY: bench
bench: venv ## Compare the speed of the probe with kubectl exec, a shell loop and hey, on the lab (with a million requests: ARGS=--million)
	cd benchmarks/tools && GOBIN=$(ISTIO_LAB_CACHE)/bench go install tool
	kubeconfig=$$($(MAKE) -s kubeconfig); \
	ANSIBLE_COLLECTIONS_PATH=collections lab/with-lock $(playbook) -i inventory/lab.yml benchmarks/mesh.yml && \
	lab/with-lock .venv/bin/python benchmarks/bench.py "$$kubeconfig" $(ISTIO_LAB_CACHE)/bench/hey $(arguments) && \
	lab/with-lock .venv/bin/python benchmarks/info.py "$$kubeconfig" && \
	lab/with-lock .venv/bin/python benchmarks/fleet.py "$$kubeconfig"

.PHONY: test-full
test-full: ## All tests at full size, on ansible-core 2.19 too, others in part, soundness and benchmarks: many hours
	ISTIO_CHURN_RUNS=99 $(MAKE) test
	.ci/venv .venv-2.19 3.11
	lab/with-lock .venv-2.19/bin/pytest -n 2
	lab/with-lock .venv/bin/pytest tests/compatibility
	$(MAKE) prediction
	$(MAKE) soundness
	$(MAKE) bench ARGS=--million

.PHONY: lock
lock: ## Lock the packages of requirements.txt by their hashes, after a change there
	tool=$$(mktemp -d); trap 'rm -rf "$$tool"' EXIT; \
	python3 -m venv "$$tool" && "$$tool/bin/pip" install --quiet uv==$(uv_version) && \
	"$$tool/bin/uv" pip compile requirements.txt --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file .ci/requirements.lock

.PHONY: venv
venv: ## Install requirements.txt into .venv
	@.ci/venv
