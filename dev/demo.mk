demo: ## The shop under load, workers killed, checked to the last order (KUBE_CONTEXT=name: on that cluster)
	@python3 -m dev.demo $(if $(KUBE_CONTEXT),--kube-context $(KUBE_CONTEXT)) $(if $(OUTPUT),-o $(OUTPUT))

demo-down: ## Take the demo down; nothing live stays (KUBE_CONTEXT=name: remove it from that cluster, but for the CRDs)
ifdef KUBE_CONTEXT
	kubectl --context $(KUBE_CONTEXT) delete namespace shop --ignore-not-found
	helm --kube-context $(KUBE_CONTEXT) uninstall marty --namespace marty-system --ignore-not-found
	kubectl --context $(KUBE_CONTEXT) delete namespace marty-system --ignore-not-found
else
	@python3 -m dev.cluster down
endif

.PHONY: demo demo-down
