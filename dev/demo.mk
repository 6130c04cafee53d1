demo: ## The shop on a real cluster, under load, with workers killed, checked to the last order (KUBE_CONTEXT=name: yours)
	@python3 -m dev.demo $(if $(KUBE_CONTEXT),--kube-context $(KUBE_CONTEXT)) $(if $(OUTPUT),-o $(OUTPUT))

demo-down: ## Take the demo's local cluster down; nothing live stays
	@python3 -m dev.cluster down

.PHONY: demo demo-down
