"""How the folding passes say no from anywhere inside a fold."""


class CannotFold(Exception):  # noqa: N818 (a refusal, not an error)
    """Why a fold is refused; the pass turns it into a Skip with this text as its reason."""
