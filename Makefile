# make            build bin/fathom
# make test       all tests; as root also those in network namespaces
# make help       the rest

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=

# What `fathom version` says. Where the sources are no git checkout, set these by hand.
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null)
COMMIT  ?= $(shell git describe --always --abbrev=12 --exclude '*' --dirty 2>/dev/null)
DATE    ?= $(shell TZ=UTC git log -1 --date=iso-strict-local --format=%cd 2>/dev/null)
V       := fathom/internal/version
LDFLAGS := -s -w -X $(V).number=$(VERSION) -X $(V).commit=$(COMMIT) -X $(V).date=$(DATE)

export CGO_ENABLED = 0
# Tests start ip, nft, tcpdump …, which are not on every user's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Each tool has a module file of its own: two in one upgrade each other's dependencies.
GOFUMPT  = $(GO) tool -modfile=tools/gofumpt/go.mod gofumpt -modpath fathom
GOLANGCI = $(GO) tool -modfile=tools/golangci-lint/go.mod golangci-lint
SOURCES  = $(shell find . -name '*.go' -not -path './.*' -not -path '*/testdata/*')

.PHONY: help
help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: build
build: ## the static binary bin/fathom
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/fathom ./cmd/fathom

.PHONY: run
run: build ## diagnose this host and its way out
	@bin/fathom why || [ $$? = 1 ] # 1: a problem was found

.PHONY: cross
cross: ## the same for arm64
	GOARCH=arm64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/fathom-linux-arm64 ./cmd/fathom

# -count=1: a cached result would hide that a tool is missing now.
# -p 2: test packages side by side; the ones in namespaces mostly wait.
# Root gets all three rings and no skips. Others get what needs no root, and are told so.
.PHONY: test
test: ## all tests; installs the programs they compare with (Debian, root)
	@tools/test-programs
	@if [ "$$(id -u)" = 0 ]; then export FATHOM_STRICT=1; \
	else echo "make test: not root: tests that need network namespaces are skipped (all of them: sudo make test)"; fi; \
	$(GO) test -count=1 -p 2 -timeout 15m ./...

.PHONY: lab
lab: build ## play every broken and healthy network; writes docs/scoreboard.md (root)
	bin/fathom lab score --markdown docs/scoreboard.md

.PHONY: fmt
fmt: ## format all Go files
	$(GOFUMPT) -w $(SOURCES)

.PHONY: fmt-check
fmt-check: ## fail when a file is not formatted
	@bad="$$($(GOFUMPT) -l $(SOURCES))"; \
	if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi

.PHONY: lint
lint: fmt-check ## formatting, vet and golangci-lint
	$(GO) vet ./...
	$(GOLANGCI) run ./...

# What is written from the code: command reference, causes, man pages, notices.
.PHONY: generate
generate: build ## rewrite the generated documents
	bin/fathom docs cli --dir docs
	bin/fathom docs causes --dir docs
	rm -rf docs/man
	bin/fathom docs man --dir docs/man
	$(GO) run ./tools/notices

.PHONY: generate-check
generate-check: build ## fail when a generated document is not current
	@tools/check-generated

FUZZTIME ?= 5s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (5s)
	@grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|/[^/]*:[0-9]+:func | |' | sort -u | \
	while read -r dir name; do \
		echo "== $$dir $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null; \
	done

.PHONY: race
race: ## all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -count=1 -p 2 -timeout 20m ./...

.PHONY: bench
bench: ## every benchmark once, with memory
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: install
install: build ## into $(DESTDIR)$(PREFIX), with man pages and completion
	install -D -m 755 bin/fathom $(DESTDIR)$(PREFIX)/bin/fathom
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	bin/fathom completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fathom
	bin/fathom completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fathom

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
