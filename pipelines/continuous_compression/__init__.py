from pipelines.continuous_compression.pipeline import continuous_compression

__all__ = ["continuous_compression"]
