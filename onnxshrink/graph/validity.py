"""Whether a file is valid ONNX, by the ONNX checker."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxshrink.errors import first_line


def complaint_of_checker(path: Path) -> str | None:
    """What the ONNX checker has against the model at ``path``, in one line, or None when it is valid.

    The checker reads the file itself, so that models over 2 GiB with external data are checked too.
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        return first_line(error)
    return None
