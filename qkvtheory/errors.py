"""What a construction says when it is asked for outside its hypotheses."""


class HypothesisError(ValueError):
    """A hypothesis of the theorem fails for this input. ``hypothesis`` names it; the message says what to do."""

    def __init__(self, hypothesis: str, message: str):
        super().__init__(f"hypothesis '{hypothesis}' fails: {message}")
        self.hypothesis = hypothesis


class ConditionWarning(UserWarning):
    """The hypotheses hold, but rounding will cost at least half of the digits."""
