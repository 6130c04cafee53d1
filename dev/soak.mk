soak: venv ## Events through two relays that are killed with -9 again and again, checked to the last one: make soak [MINUTES=10] [RATE=5000]
	@$(PY) -m dev.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RATE),--rate $(RATE))

.PHONY: soak
