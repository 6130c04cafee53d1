CLUSTER := python3 -m dev.cluster

cluster-up: ## Start the local Kubernetes with Postgres and Kafka (builds it once)
	@$(CLUSTER) up

cluster-down: ## Stop the local cluster; nothing live stays
	@$(CLUSTER) down

cluster-status: ## Parts of the local cluster, their state and address
	@$(CLUSTER) status

images: ## Build the images of the sources as they are; load them when the local cluster runs
	@$(CLUSTER) images

.PHONY: cluster-up cluster-down cluster-status images
