from components.profile.component import profile

__all__ = ["profile"]
