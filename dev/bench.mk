# Our sagas beside the peers' are a benchmark of their own; bench.saga measures ours alone, and profiles them.
BENCH_MODULE := $(if $(filter saga,$(NAME)),side_by_side,$(subst -,_,$(NAME)))

bench: venv ## Run one benchmark against the local Postgres and Kafka: make bench NAME=saga|outbox|relay|projection [QUICK=1]
	@test -n "$(NAME)" || { echo "which one? make bench NAME=saga|outbox|relay|projection"; exit 2; }
	python3 -m dev.cluster up --only postgres,kafka
	$(PY) -m bench.$(BENCH_MODULE) $(if $(and $(QUICK),$(filter saga outbox,$(NAME))),--quick) $(BENCH_ARGS)

generate: generate-benchmarks
verify: verify-benchmarks

generate-benchmarks: venv
	@$(PY) -m bench.report

verify-benchmarks: venv
	@$(PY) -m bench.report --check

.PHONY: bench generate-benchmarks verify-benchmarks
