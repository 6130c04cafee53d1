test: venv ## Every test this machine can run; starts the local cluster and stops it
	@bash dev/test.sh

.PHONY: test
