CLUSTER := python3 -m dev.cluster

cluster-up: ## Start the local Kubernetes with Postgres and Kafka (builds it once)
	@$(CLUSTER) up

cluster-down: ## Stop the local cluster; nothing live stays
	@$(CLUSTER) down

cluster-status: ## Parts of the local cluster, their state and address
	@$(CLUSTER) status

.PHONY: cluster-up cluster-down cluster-status
