.PHONY: generate verify

generate: venv ## Write crds/, the chart's copy of them, its values.yaml and docs/reference from their sources
	@$(PY) -m dev.generate write

verify: venv ## Fail when a generated file differs from its source
	@$(PY) -m dev.generate verify
