"""The public library: data consistency patterns for application code, on the same engines that the pods run."""
