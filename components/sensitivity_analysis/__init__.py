from components.sensitivity_analysis.component import sensitivity_analysis

__all__ = ["sensitivity_analysis"]
