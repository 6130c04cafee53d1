bench: venv ## Run one benchmark against the local Postgres and Kafka: make bench NAME=relay|saga|projection
	@test -n "$(NAME)" || { echo "which one? make bench NAME=relay|saga|projection"; exit 2; }
	python3 -m dev.cluster up --only postgres,kafka
	$(PY) -m bench.$(NAME) $(BENCH_ARGS)

.PHONY: bench
