# Everything that is done with this repository, by its verb. `make` alone explains them.

GO            ?= go
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION      ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BRANCH        ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
IMAGE         ?= aegis:$(VERSION)
BUILDINFO     := github.com/prometheus/common/version
LDFLAGS       := -s -w -X $(BUILDINFO).Version=$(VERSION) -X $(BUILDINFO).Revision=$(REVISION) -X $(BUILDINFO).Branch=$(BRANCH)
FUZZTIME      ?= 30s
E2E_TIMEOUT   ?= 45m
LINT_VERSION  := v2.15.0
GOLANGCI_LINT := bin/golangci-lint-$(LINT_VERSION)
VULN_VERSION  := v1.9.0
GOVULNCHECK   := bin/govulncheck-$(VULN_VERSION)
# Where VULNDB names no database, the one of the newest module golang.org/x/vulndb is taken.
VULNDB        ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Explain the verbs.
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/aegis and bin/aegis-op, two static binaries.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/aegis ./cmd/aegis-op

.PHONY: test
test: ## Run all tests: units with the race detector, then end to end against a real control plane.
	$(GO) test -race ./...
	cd e2e/plugin && $(GO) test -race ./...
	cd docs/examples/site-plugin && $(GO) test -race ./...
	$(MAKE) sim
	$(MAKE) e2e

.PHONY: sim
sim: ## Simulate N (2000) random schedules of faults, crashes and people, and check that nothing is done that must not be.
	AEGIS_SIM_N=$(or $(N),2000) $(GO) test -count=1 -timeout 60m -run 'TestSimulation$$' ./sop

.PHONY: soak
soak: ## Simulate schedules of ever new seeds until an interrupt, and tell which failed.
	$(GO) test -c -o bin/sop.test ./sop
	cd sop && exec ../bin/sop.test -test.run 'TestSimulation$$' -test.timeout 0 -sim.soak

.PHONY: mutate
mutate: ## Break one guard after the other on purpose, and show that the simulation notices each. Takes the better part of an hour.
	cd e2e && $(GO) run ./cmd/mutate

.PHONY: e2e
e2e: ## Build the control plane and the monitoring (minutes, once), then run the end-to-end and chart tests.
	cd e2e && $(GO) run ./cmd/build
	cd e2e && AEGIS_E2E_BUILT=1 $(GO) test -v -count=1 -p 2 -parallel 6 -timeout $(E2E_TIMEOUT) $$($(GO) list ./... | grep -v /chaos)
	cd e2e && AEGIS_E2E_BUILT=1 $(GO) test -v -count=1 -timeout $(E2E_TIMEOUT) -run 'TestStorm$$|TestInvariantsCatch$$' ./chaos

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Check format, vet and lint of all modules. Changes nothing.
	@unformatted=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*' -not -path './.cache/*')) && \
		if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...
	cd e2e/charttest/render && $(GO) vet ./...
	cd e2e/plugin && $(GO) vet ./...
	cd docs/examples/site-plugin && $(GO) vet ./...
	$(GOLANGCI_LINT) run ./...
	cd e2e && ../$(GOLANGCI_LINT) run --config ../.golangci.yml ./...
	cd e2e/charttest/render && ../../../$(GOLANGCI_LINT) run --config ../../../.golangci.yml ./...
	cd e2e/plugin && ../../$(GOLANGCI_LINT) run --config ../../.golangci.yml ./...
	cd docs/examples/site-plugin && ../../../$(GOLANGCI_LINT) run --config ../../../.golangci.yml ./...

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the Go files of all modules.
	$(GOLANGCI_LINT) fmt ./...
	cd e2e && ../$(GOLANGCI_LINT) fmt --config ../.golangci.yml ./...
	cd e2e/charttest/render && ../../../$(GOLANGCI_LINT) fmt --config ../../../.golangci.yml ./...
	cd e2e/plugin && ../../$(GOLANGCI_LINT) fmt --config ../../.golangci.yml ./...
	cd docs/examples/site-plugin && ../../../$(GOLANGCI_LINT) fmt --config ../../../.golangci.yml ./...

.PHONY: update
update: ## Write the golden files, the dashboard and the generated tables of the documentation anew. The tests fail while one is stale.
	$(GO) test $$(grep -l 'flag.Bool("update"' $$(find . -name '*_test.go' -not -path './e2e/*') | xargs -n1 dirname | sort -u) -update
	cd e2e && $(GO) run ./cmd/dashboard
	git --no-pager diff --stat

.PHONY: record
record: ## Write the tickets that VERSION leaves behind to testdata/tickets, before its release.
	$(GO) test -count=1 -run 'TestTicketsAreResumed$$' ./sop/sitetest -record $(VERSION)

.PHONY: vulncheck
vulncheck: $(GOVULNCHECK) ## Look for known vulnerabilities in the code that is called. Needs the module proxy, or VULNDB=file:///DIR.
	@set -e; db='$(VULNDB)'; if [ -z "$$db" ]; then \
		dir=$$($(GO) mod download -json golang.org/x/vulndb@latest | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'); \
		rm -rf .cache/vulndb; mkdir -p .cache/vulndb; \
		$(GO) run golang.org/x/vulndb/cmd/indexdb@latest -vulns "$$dir/data/osv" -out .cache/vulndb; \
		db='file://$(CURDIR)/.cache/vulndb'; \
	fi; $(GOVULNCHECK) -db "$$db" ./...

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME (30s).
	@set -e; for file in $$(grep -l '^func Fuzz' $$(find . -name '*_test.go' -not -path './e2e/*')); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "$$target in $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

.PHONY: bench
bench: ## Run the benchmarks. Each compares with the bare cost in the same run.
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: demo
demo: ## Show Aegis heal a simulated cluster. ONCE=1 ends after the story.
	cd e2e && ONCE=$(ONCE) $(GO) run ./cmd/demo

.PHONY: picture
picture: ## Tell the story of the demo and draw the dashboard that it leaves, for the README.
	cd e2e && ONCE=1 PICTURE=$(CURDIR)/docs/dashboard.png $(GO) run ./cmd/demo

.PHONY: chaos
chaos: ## Let everything go wrong at once for DURATION (10m) on 100 nodes, and check what Aegis did. SEED=1 repeats a script.
	cd e2e && AEGIS_CHAOS_DURATION=$(or $(DURATION),10m) AEGIS_CHAOS_SEED=$(SEED) \
		$(GO) test -v -count=1 -timeout $(E2E_TIMEOUT) -run 'TestChaos$$|TestDecidesBesideOldHistories$$' ./chaos

.PHONY: times
times: ## Measure how long four repairs take with the rules and intervals that ship, and hold it against docs/time-to-repair.md. Half an hour.
	cd e2e && $(GO) run ./cmd/repairtimes

.PHONY: image
image: ## Build the container image IMAGE (aegis:VERSION).
	docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg BRANCH=$(BRANCH) -t $(IMAGE) .

# Tools of their own: their dependencies have no place in go.mod. The linter takes minutes, once.
$(GOLANGCI_LINT):
	GOBIN='$(CURDIR)/bin' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $@

$(GOVULNCHECK):
	GOBIN='$(CURDIR)/bin' $(GO) install golang.org/x/vuln/cmd/govulncheck@$(VULN_VERSION)
	mv bin/govulncheck $@
