"""The errors that are the user's to mend; each text is one line that says what to do."""


class PlanError(ValueError):
    """Input that cannot be acted on (exit code 2)."""


class NotComparable(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """Two runs measure different things (exit code 3); the text names what differs and both values."""
