from components.tensorrt_build.component import tensorrt_build

__all__ = ["tensorrt_build"]
