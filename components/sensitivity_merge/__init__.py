from components.sensitivity_merge.component import sensitivity_merge

__all__ = ["sensitivity_merge"]
