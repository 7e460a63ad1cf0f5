from components.choose_member.component import choose_member

__all__ = ["choose_member"]
