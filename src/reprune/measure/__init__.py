"""What things cost on the machine at hand: latency, records, profile."""
