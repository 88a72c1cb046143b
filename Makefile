# `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

KAFKA_PORT ?= 19092
REDIS_PORT ?= 16379
FUZZ_TIME ?= 10s
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
COMPOSE := github.com/compose-spec/compose-go/v2/cmd@v2.16.2

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: dev
dev: ## Try it: embedded servers, demo customers, demo checks
	go run ./cmd/worker dev

.PHONY: build
build: ## Build both programs into bin/, static
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/worker ./cmd/producer

.PHONY: check
check: ## Format, linters (.golangci.yaml), tidiness, the compose file
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	go mod tidy -diff
	go run $(GOLANGCI) run ./...
	go run $(COMPOSE) docker-compose.yml > /dev/null

.PHONY: test
test: ## All tests on the embedded servers
	go test -race -count=1 -timeout 40m ./...

.PHONY: test-real
test-real: servers ## All tests on a real Kafka and a real Redis, which are started and stopped
	@trap '$(MAKE) --no-print-directory servers-stop' EXIT; \
	TOLLGATE_TEST_KAFKA=127.0.0.1:$(KAFKA_PORT) TOLLGATE_TEST_REDIS=127.0.0.1:$(REDIS_PORT) go test -race -count=1 -timeout 40m ./...

.PHONY: chaos
chaos: ## Break things under load and count what became of every request (needs root)
	go test -count=1 -tags chaos -v -timeout 60m ./test/chaos | grep -vE '^\s+time='

.PHONY: chaos-short
chaos-short: ## The same, ten seconds a fault, most with one of the two deliveries
	go test -count=1 -tags chaos -short -v -timeout 30m ./test/chaos | grep -vE '^\s+time='

.PHONY: stream
stream: ## What only a real Kafka does to a consumer: truncated logs, retention, refusals, bit rot
	go test -count=1 -tags real -v -timeout 20m ./internal/stream ./internal/kafka/... -run 'HandsOver|Truncated|Retention|Refuses|CannotBeRead|GivenUp|OnRealKafka' | grep -vE '^\s+time='

.PHONY: access
access: ## TLS, SASL and ACLs on a real Kafka and a real Redis
	go test -count=1 -tags real -v -timeout 20m ./test/access | grep -vE '^\s+time='

.PHONY: rig
rig: ## Test what tests rely on: a Kafka of three brokers, a log that is cut
	go test -count=1 -tags real -v -timeout 20m ./internal/realtest

.PHONY: memory
memory: ## Measure what a million customers cost in Redis
	go test -count=1 -tags real -v -timeout 30m ./test/memory

.PHONY: flood
flood: ## Work off five million records, and bear a customer that sends most of the traffic
	go test -count=1 -tags real -v -timeout 60m ./test/flood | grep -vE '^\s+time='

.PHONY: bench
bench: ## Measure throughput, cost, latency and growth, with plots (an hour)
	go test -count=1 -tags bench -v -timeout 120m ./bench -out $(CURDIR)/bench/results.json | grep -vE '^\s+time='
	go run ./bench/plot bench/results.json docs/performance

.PHONY: bench-guard
bench-guard: ## Fail where the worker's share of what Redis allows has fallen by a fifth
	go test -count=1 -tags bench -short -v -timeout 10m ./bench | grep -vE '^\s+time='

.PHONY: bench-cost
bench-cost: ## Measure Redis's CPU per check, with BASE=COMMIT against another commit in turns
	@$(if $(BASE),go run ./bench/cost/compare -base $(BASE) -- $(COST_FLAGS),go test -count=1 -tags bench -v -timeout 60m ./bench/cost $(COST_FLAGS) | grep -E '^(cost:|ok|FAIL| +[a-z_]+\.go:)')

.PHONY: console
console: ## Look at the worker's page in a real Chromium (screenshots: SHOTS=DIR)
	go test -count=1 -tags real -v -timeout 10m ./test/console $(if $(SHOTS),-shots $(abspath $(SHOTS))) | grep -vE '^\s+time='

.PHONY: cluster
cluster: ## Three workers on a Redis Cluster
	go test -count=1 -tags real -v -timeout 10m ./test/cluster | grep -vE '^\s+time='

.PHONY: monitoring
monitoring: ## Rules and dashboard against a real Prometheus
	go test -count=1 -tags real -v -timeout 10m ./test/monitoring | grep -vE '^\s+time='

.PHONY: examples
examples: ## Run the clients in other languages against worker dev
	go test -count=1 -tags real -v -timeout 15m ./test/examples | grep -vE '^\s+time='

.PHONY: contracts
contracts: ## The AsyncAPI document, with AsyncAPI's own parser (the schemas are held by go test)
	npm ci --prefix test/contracts --no-audit --no-fund --silent && node test/contracts/validate.js

.PHONY: helm
helm: ## Lint and render the chart, and hold it against Kubernetes' types
	go test -C test/helm -count=1 -timeout 15m ./...

.PHONY: cross
cross: ## Compile for every system that is released for
	@for system in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64; do \
	  GOOS=$${system%/*} GOARCH=$${system#*/} CGO_ENABLED=0 go build -o /dev/null ./cmd/worker && \
	  GOOS=$${system%/*} GOARCH=$${system#*/} CGO_ENABLED=0 go build -o /dev/null ./cmd/producer && echo "$$system compiles"; \
	done

.PHONY: sbom
sbom: build ## What both programs are made of, as CycloneDX (bin/*.cdx.json)
	@for program in worker producer; do go run $(CYCLONEDX) bin -json -output bin/$$program.cdx.json bin/$$program; done

.PHONY: servers
servers: ## Start a real Kafka and a real Redis on loopback
	@TOLLGATE_KAFKA_FRESH=1 deploy/kafka/kafka.sh start $(KAFKA_PORT)
	@TOLLGATE_REDIS_FRESH=1 deploy/redis/redis.sh start $(REDIS_PORT) || { deploy/kafka/kafka.sh stop $(KAFKA_PORT); exit 1; }

.PHONY: servers-stop
servers-stop: ## Stop them
	@deploy/kafka/kafka.sh stop $(KAFKA_PORT); deploy/redis/redis.sh stop $(REDIS_PORT)

.PHONY: fuzz
fuzz: ## Fuzz every decoder for a while (FUZZ_TIME=10s each)
	@grep -rl '^func Fuzz' --include=*_test.go . | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' "$$file"); do \
	    echo "$$target in $$(dirname "$$file")"; \
	    go test "$$(dirname "$$file")" -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 100x | tail -1; \
	  done; \
	done
