from components.fetch_member.component import fetch_member

__all__ = ["fetch_member"]
