from components.fetch_set.component import fetch_set

__all__ = ["fetch_set"]
