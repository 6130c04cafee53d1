.PHONY: generate-saga-states verify-saga-states

generate: generate-saga-states
verify: verify-saga-states

generate-saga-states: venv
	@$(PY) -m dev.saga_states

verify-saga-states: venv
	@$(PY) -m dev.saga_states --check
