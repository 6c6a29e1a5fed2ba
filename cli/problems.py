"""What a command says when it cannot do its work."""


class Problem(RuntimeError):
    """Something the user can set right. The text says what, where, and what to do."""

    def __init__(self, text: str, *, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code
