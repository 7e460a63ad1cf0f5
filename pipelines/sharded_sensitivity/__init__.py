from pipelines.sharded_sensitivity.pipeline import sharded_sensitivity

__all__ = ["sharded_sensitivity"]
