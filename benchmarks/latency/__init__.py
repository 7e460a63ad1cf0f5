"""The models of the latency benchmark."""
