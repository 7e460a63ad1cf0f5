from components.prune.component import prune

__all__ = ["prune"]
