"""Graph clean-up side by side: nodes, bytes and seconds of onnxslim, onnxsim, onnxscript and onnxshrink.

    python benchmarks/graph_cleanup.py MODELS_DIR --peers-python PATH_TO_PYTHON

PATH_TO_PYTHON is an interpreter with onnxslim, onnxsim and onnxscript. Every tool runs in a process of its own; the
seconds are those of its library call on a path, from loading the file to the cleaned-up model, without imports and
without saving. onnxshrink applies the passes of its ``lossless`` preset.

Nodes: Constants not counted, subgraphs counted. A ConstantOfShape of a constant shape stands for a weight; such nodes
are shown after a ``+`` and are not compared. Targets: nodes at most those of the best peer, bytes at most 1 % above the
smallest of the peers' files, seconds at most those of onnxslim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PEERS = ("onnxslim", "onnxsim", "onnxscript")
OURS = "onnxshrink"
TOOLS = ("none", *PEERS, OURS)
BYTES_ALLOWANCE = 1.01


@dataclass(frozen=True)
class Outcome:
    """What one tool made of one model. ``uniform``: ConstantOfShape nodes of constant shapes, not among ``nodes``."""

    nodes: int
    uniform: int
    size_bytes: int
    seconds: float


def main() -> int:
    """Print the table; exit code 1 when a target is missed."""
    arguments = _parser().parse_args()
    if arguments.worker:
        _work(*arguments.worker)
        return 0
    models = sorted(Path(arguments.models).rglob("*.onnx"))
    print(_row("model", [f"{tool:>10}" for tool in TOOLS], "nodes  bytes  time"))
    missed = 0
    for path in models:
        outcomes = {tool: _best_of(arguments, tool, path) for tool in TOOLS}
        verdicts = _verdicts(outcomes)
        missed += "MISSED" in verdicts
        _print_model(str(path.relative_to(arguments.models)), outcomes, verdicts)
    print(f"{len(models)} models, {missed} with a missed target")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="?", help="folder that is searched for *.onnx")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--repeat", type=int, default=1, help="processes per tool and model; the fastest counts")
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a tool is stopped")
    parser.add_argument("--worker", nargs=3, metavar=("TOOL", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def _best_of(arguments: argparse.Namespace, tool: str, path: Path) -> Outcome | str:
    """The outcome of the fastest run, or the reason why there is none."""
    python = arguments.peers_python if tool in PEERS else sys.executable
    outcomes = [_run(python, tool, path, arguments.timeout) for _ in range(arguments.repeat)]
    done = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    return min(done, key=lambda outcome: outcome.seconds) if done else outcomes[0]


def _run(python: str, tool: str, path: Path, timeout: float) -> Outcome | str:
    with tempfile.TemporaryDirectory(prefix="graph-cleanup-") as folder:
        command = [python, __file__, "--worker", tool, str(path), folder]
        try:
            finished = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return "timeout"
    if finished.returncode:
        return "failed"
    return Outcome(**json.loads(finished.stdout.splitlines()[-1]))


def _verdicts(outcomes: dict[str, Outcome | str]) -> tuple[str, ...]:
    ours = outcomes[OURS]
    peers = [outcome for tool in PEERS if isinstance(outcome := outcomes[tool], Outcome)]
    if isinstance(ours, str) or not peers:
        return (
            ("-",) * 3 if ours == "failed" and not peers else ("MISSED",) * 3 if isinstance(ours, str) else ("ok",) * 3
        )
    slim = outcomes["onnxslim"]
    met = (
        ours.nodes <= min(peer.nodes for peer in peers),
        ours.size_bytes <= BYTES_ALLOWANCE * min(peer.size_bytes for peer in peers),
        not isinstance(slim, Outcome) or ours.seconds <= slim.seconds,
    )
    return tuple("ok" if one else "MISSED" for one in met)


def _print_model(name: str, outcomes: dict[str, Outcome | str], verdicts: Sequence[str]) -> None:
    nodes, sizes, seconds = [], [], []
    for outcome in outcomes.values():
        if isinstance(outcome, str):
            nodes.append(f"{outcome:>10}")
            sizes.append(" " * 10)
            seconds.append(" " * 10)
        else:
            uniform = f"+{outcome.uniform}" if outcome.uniform else ""
            nodes.append(f"{f'{outcome.nodes}{uniform}':>10}")
            sizes.append(f"{outcome.size_bytes:>10}")
            seconds.append(f"{outcome.seconds:>9.2f}s")
    print(_row(name, nodes, "  ".join(f"{verdict:6}" for verdict in verdicts)))
    print(_row("", sizes, ""))
    print(_row("", seconds, ""), flush=True)


def _row(name: str, cells: list[str], verdict: str) -> str:
    return f"{name:38.38} {' '.join(cells)}  {verdict}".rstrip()


def _work(tool: str, source: str, folder: str) -> None:
    """Run one tool and print its outcome as JSON. Runs in the tool's own interpreter."""
    import onnx

    clean_up, save = _TOOLS[tool]()
    start = time.perf_counter()
    result = clean_up(source)
    seconds = time.perf_counter() - start
    destination = Path(folder) / "result.onnx"
    save(result, destination)
    size = sum(part.stat().st_size for part in Path(folder).iterdir())
    nodes = list(_nodes(onnx.load(destination, load_external_data=False).graph))
    uniform = sum(op_type == "ConstantOfShape" for op_type in nodes)
    print(json.dumps(asdict(Outcome(len(nodes) - uniform, uniform, size, seconds))))


def _nodes(graph: Any, constants: frozenset[str] = frozenset()) -> Iterator[str]:
    """Operators of all nodes but Constants; a ConstantOfShape of a computed shape counts under another name."""
    constants |= {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] not in constants:
            yield "ConstantOfShape of a computed shape"
        elif node.op_type != "Constant":
            yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner, constants)


Tool = tuple[Callable[[str], Any], Callable[[Any, Path], None]]
"""The call that is timed, and how its result is saved."""


def _none() -> Tool:
    import onnx

    return onnx.load, onnx.save


def _onnxslim() -> Tool:
    import onnx
    import onnxslim

    return onnxslim.slim, onnx.save


def _onnxsim() -> Tool:
    import onnx
    import onnxsim

    return lambda source: onnxsim.simplify(onnx.load(source))[0], onnx.save


def _onnxscript() -> Tool:
    import onnx
    import onnxscript.optimizer

    return lambda source: onnxscript.optimizer.optimize(onnx.load(source)), onnx.save


def _onnxshrink() -> Tool:
    from onnxshrink.graph.load import load_model
    from onnxshrink.graph.save import save_model
    from onnxshrink.graph.shapes import forget_inferred_shapes, infer_shapes
    from onnxshrink.measure.session import evaluate_constants
    from onnxshrink.passes.base import Context
    from onnxshrink.presets import PRESETS

    recipe, context = PRESETS["lossless"].recipe, Context(evaluate=evaluate_constants)

    def clean_up(source: str) -> Any:
        model = load_model(source)
        changed = True
        for one_pass in recipe:
            if changed:
                infer_shapes(model)
            changed = one_pass.apply(model, context).changed
        forget_inferred_shapes(model)
        return model

    return clean_up, save_model


_TOOLS = {"none": _none, "onnxslim": _onnxslim, "onnxsim": _onnxsim, "onnxscript": _onnxscript, OURS: _onnxshrink}


if __name__ == "__main__":
    sys.exit(main())
