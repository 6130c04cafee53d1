chaos: venv ## Sagas under kill -9, database restarts and a bad service, checked to the last call: make chaos [MINUTES=10] [INSTANCES=20000]
	@$(PY) -m dev.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(INSTANCES),--instances $(INSTANCES))

.PHONY: chaos
