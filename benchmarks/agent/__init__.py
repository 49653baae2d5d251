"""The node-capacity agent compared with other programs that do the same, on the same real API server, in one run."""
