"""Makes a smaller model that computes nearly the same: groups, surgery, allocation, recovery."""
