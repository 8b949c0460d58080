"""Who is compared in the benchmark of static int8, what each is installed from, and what each is given."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent

_RUNTIME = "onnxruntime==1.32.0"
ENVIRONMENTS: Mapping[str, Sequence[str]] = {
    "onnxruntime": (_RUNTIME, "onnx==1.23.2", "sympy"),
    "nncf": ("nncf==3.4.0", _RUNTIME, "onnx==1.23.2"),
    "neural-compressor": ("onnx-neural-compressor==1.0", "prettytable", "scipy", _RUNTIME),
    "aimet": ("torch==2.13.0", "aimet-onnx==2.42.0", _RUNTIME),
    "onnxsim": ("onnxsim==0.8.1", _RUNTIME),
}
"""What pip installs into each peer's environment; for Neural Compressor also what it does not ask for but imports."""


@dataclass(frozen=True)
class Contender:
    """One way to quantize.

    Attributes:
        environment: a key of ``ENVIRONMENTS``, or None for onnxshrink itself.
        driver: a file in ``peers/``; unused for onnxshrink.
        options: passed on to the driver, or to ``onnxshrink compress``.
        models: the only models it is for; empty for all.
        uses_data: whether ``onnxshrink`` is given the calibration samples.
    """

    name: str
    environment: str | None
    driver: str = ""
    options: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    uses_data: bool = True

    def command(self, job: Job) -> list[str]:
        model, output = str(job.model), str(job.output)
        if self.environment is None:
            data = ("--data", str(job.samples)) if self.uses_data else ()
            ours = [
                sys.executable,
                "-m",
                "onnxshrink",
                "compress",
                model,
                "-o",
                output,
                "--force",
                "--no-measure",
                "-q",
            ]
            return [*ours, *data, *self.options]
        python = job.venvs / self.environment / "bin" / "python"
        return [str(python), str(PEERS / self.driver), model, str(job.feeds), output, *self.options]


_ORT, _NNCF, _AIMET = "onnxruntime_static.py", "nncf_static.py", "aimet_static.py"
FLOAT = Contender("float, cleaned up", None, options=("--preset", "lossless"), uses_data=False)
CONTENDERS = (
    FLOAT,
    Contender("onnxshrink quantize-static", None, options=("--recipe", "quantize-static")),
    Contender("onnxshrink int8", None, options=("--preset", "int8")),
    Contender("ort s8s8", "onnxruntime", _ORT),
    Contender("ort u8s8", "onnxruntime", _ORT, ("--u8s8",)),
    Contender("ort u8s8 percentile", "onnxruntime", _ORT, ("--u8s8", "--percentile")),
    Contender("ort u8s8 preprocess", "onnxruntime", _ORT, ("--u8s8", "--preprocess")),
    Contender("ort dynamic", "onnxruntime", "onnxruntime_dynamic.py"),
    Contender("nncf", "nncf", _NNCF),
    Contender("nncf accurate bias", "nncf", _NNCF, ("--accurate-bias",)),
    Contender("nncf transformer", "nncf", _NNCF, ("--transformer",), models=("minilm",)),
    Contender("neural-compressor", "neural-compressor", "neural_compressor_static.py"),
    Contender("aimet", "aimet", _AIMET, ("--no-equalization",)),
    Contender("aimet equalized", "aimet", _AIMET),
    Contender("onnxsim", "onnxsim", "onnxsim_static.py"),
)


@dataclass(frozen=True)
class Job:
    """The files of one contender's run on one model.

    Attributes:
        samples: the calibration samples as onnxshrink takes them.
        feeds: the same as feeds, one sample each; ``eval_feeds``: held-out ones.
        cleaned: the float model that latency is compared with.
        timeout: seconds that any child process may take.
        steps: what to measure.
    """

    contender: str
    folder: Path
    output: Path
    samples: Path
    feeds: Path
    eval_feeds: Path
    cleaned: Path
    venvs: Path
    timeout: float
    steps: Sequence[str]

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"
