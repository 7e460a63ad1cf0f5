from components.benchmark.component import benchmark

__all__ = ["benchmark"]
