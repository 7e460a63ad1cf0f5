from components.choose_machine.component import choose_machine

__all__ = ["choose_machine"]
