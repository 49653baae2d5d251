"""The node-capacity agent beside others who do the same, on the same real API server, in one run."""
