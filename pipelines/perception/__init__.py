from pipelines.perception.pipeline import perception

__all__ = ["perception"]
