"""Train the sample models and write `NAME/model.onnx`, `NAME/calib.npz` and `NAME/eval.npz` beside this script.

Everything is seeded and runs on one thread, so the same package versions on the same kind of processor give the
same files. The accuracy table in README.md is rewritten with what onnxruntime measures on the written files.

    pip install torch scikit-learn onnx onnxruntime onnxscript
    python sample_models/train.py  # about a minute
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, compose, helper
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
SEED = 20240501
BATCH = 64
TABLE_START, TABLE_END = "<!-- table: written by train.py -->", "<!-- end of table -->"


class Samples(NamedTuple):
    x: np.ndarray
    label: np.ndarray


class Dataset(NamedTuple):
    train: Samples
    calib: Samples  # a part of `train`: calibration may see what training saw, but nothing of `eval`
    eval: Samples


def split(x: np.ndarray, label: np.ndarray, n_eval: int, n_calib: int) -> Dataset:
    rest, held_out = train_test_split(np.arange(len(x)), test_size=n_eval, stratify=label, random_state=SEED)
    _, calib = train_test_split(rest, test_size=n_calib, stratify=label[rest], random_state=SEED)
    return Dataset(*(Samples(x[rows], label[rows]) for rows in (rest, calib, held_out)))


def digits() -> Dataset:
    bunch = load_digits()
    x = (bunch.images / 16.0).astype(np.float32)[:, None]
    return split(x, bunch.target.astype(np.int64), n_eval=450, n_calib=160)


def cancer() -> Dataset:
    bunch = load_breast_cancer()
    return split(bunch.data.astype(np.float32), bunch.target.astype(np.int64), n_eval=171, n_calib=120)


def conv_bn(c_in: int, c_out: int, kernel: int, act: nn.Module, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), act)


class DigitsCnn(nn.Module):
    """One of each pattern a graph optimiser meets: depthwise Conv, residual Add, Concat, ReLU and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 32, 3, nn.ReLU6())
        self.depthwise = conv_bn(32, 32, 3, nn.ReLU6(), groups=32)
        self.pointwise = conv_bn(32, 64, 1, nn.ReLU6())
        self.residual = nn.Sequential(conv_bn(64, 64, 3, nn.ReLU()), conv_bn(64, 64, 3, nn.Identity()))
        self.narrow = conv_bn(64, 32, 1, nn.ReLU())
        self.wide = conv_bn(64, 48, 3, nn.ReLU())
        self.head = nn.Linear(80, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.depthwise(self.stem(x)))
        x = F.max_pool2d(F.relu(x + self.residual(x)), 2)
        x = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def digits_mlp() -> nn.Module:
    hidden = (nn.Linear(64, 320), nn.ReLU(), nn.Linear(320, 256), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


class Attention(nn.Module):
    """Multi-head attention spelled out, so that the file holds plain MatMul, Softmax and Transpose nodes."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._per_head(layer(x)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.scale, dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))

    def _per_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsVit(nn.Module):
    def __init__(self, dim: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, kernel_size=2, stride=2)  # 8x8 pixels -> 16 tokens
        self.position = nn.Parameter(torch.randn(1, 16, dim) * 0.5)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class DigitsLstm(nn.Module):
    """Reads the image as a sequence of 8 rows of 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size=8, hidden_size=128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x.flatten(1, 2))
        return self.head(hidden[-1])


class CancerMlp(nn.Module):
    """Takes the raw measurements: the standardisation is part of the graph."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.from_numpy(x.mean(axis=0)))
        self.std = nn.Buffer(torch.from_numpy(x.std(axis=0)))
        self.layers = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.mean) / self.std)


def plain_cnn() -> nn.Module:
    convs = [conv_bn(1, 24, 3, nn.ReLU()), nn.MaxPool2d(2), conv_bn(24, 48, 3, nn.ReLU()), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(48 * 4, 64), nn.ReLU(), nn.Linear(64, 10))


class DigitsIf(nn.Module):
    """Sends images with little ink to a small head and the others to a large one (an `If` in the ONNX file)."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        )
        self.large = nn.Sequential(nn.Linear(128, 160), nn.ReLU(), nn.Linear(160, 10))
        self.small = nn.Linear(128, 10)
        # The means are multiples of 1/1024 (64 pixels of 16 levels): half a step more means no image sits on the edge.
        self.threshold = float(np.median(x.mean(axis=(1, 2, 3)))) + 0.5 / 1024

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        inked = x.mean(dim=(1, 2, 3))[:, None] > self.threshold
        return torch.where(inked, self.large(features), self.small(features))


def fit(model: nn.Module, samples: Samples, recipe: Recipe) -> None:
    x, label = torch.from_numpy(samples.x), torch.from_numpy(samples.label)
    steps = recipe.epochs * math.ceil(len(x) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=recipe.lr, total_steps=steps)
    model.train()
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            noisy = x[rows] + recipe.noise * torch.randn_like(x[rows])
            optimiser.zero_grad()
            F.cross_entropy(model(noisy), label[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval()


def export_torchscript(
    model: nn.Module, example: Tensor, opset: int, names: tuple[str, str] = ("input", "logits"), **options: Any
) -> onnx.ModelProto:
    """The batch axis is dynamic unless `example` holds one sample only."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=[names[0]],
        output_names=[names[1]],
        dynamic_axes={name: {0: "batch"} for name in names} if len(example) > 1 else None,
        # The model is in eval mode already; EVAL here would also fuse BatchNorm into Conv, which is our users' job.
        training=torch.onnx.TrainingMode.PRESERVE,
        **options,
    )
    return onnx.load_from_string(buffer.getvalue())


def export_opset9(model: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto:
    """As a 2019 exporter wrote it: IR version 4, every initializer also listed as a graph input."""
    proto = export_torchscript(model, example, opset, keep_initializers_as_inputs=True)
    proto.ir_version = 4
    return proto


def export_dynamo(model: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto:
    """The newer exporter: other names and patterns than TorchScript's, so worth a sample of its own."""
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def export_if(model: DigitsIf, example: Tensor, opset: int) -> onnx.ModelProto:
    """Trunk -> If, the two heads as branches that capture `features` and own their weights.

    Joined by hand: the batch is fixed to 1 because an If takes one decision per run, which `torch.where` cannot say.
    """
    image, features = example[:1], model.trunk(example[:1])
    proto = export_torchscript(model.trunk, image, opset, ("input", "features"))
    large = if_branch(model.large, features, opset, "large/")
    small = if_branch(model.small, features, opset, "small/")
    proto.graph.node.append(helper.make_node("ReduceMean", ["input"], ["ink"], "ink", keepdims=0))
    proto.graph.node.append(helper.make_node("Greater", ["ink", "threshold"], ["inked"], "inked"))
    proto.graph.node.append(helper.make_node("If", ["inked"], ["logits"], "head", then_branch=large, else_branch=small))
    proto.graph.initializer.append(helper.make_tensor("threshold", TensorProto.FLOAT, [], [model.threshold]))
    proto.graph.output.pop()
    proto.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10]))
    return proto


def if_branch(head: nn.Module, features: Tensor, opset: int, prefix: str) -> onnx.GraphProto:
    exported = export_torchscript(head, features, opset, ("features", "logits"))
    branch = compose.add_prefix_graph(exported.graph, prefix, rename_inputs=False)
    branch.input.pop()  # a branch has no inputs: `features` now names the value of the outer graph
    return branch


def strip_metadata(graph: onnx.GraphProto) -> None:
    """Drop stack traces and the like: they hold paths of the machine that trained."""
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for branch in subgraphs(graph):
        strip_metadata(branch)


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    return (a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)


class Recipe(NamedTuple):
    what: str
    build: Callable[[Dataset], nn.Module]
    data: Callable[[], Dataset] = digits
    export: Callable[..., onnx.ModelProto] = export_torchscript
    opset: int = 17
    epochs: int = 40
    lr: float = 3e-3
    noise: float = 0.1  # added to the training inputs: 1347 images alone overfit quickly


RECIPES = {
    "digits_cnn": Recipe(
        "CNN: BatchNormalization kept apart, depthwise Conv, residual Add, Concat, Relu and Clip (ReLU6)",
        lambda _: DigitsCnn(),
        epochs=25,
    ),
    "digits_mlp": Recipe("MLP on the 64 pixels: Flatten, Gemm, Relu", lambda _: digits_mlp()),
    "digits_vit": Recipe(
        "vision transformer: 16 patches, 3 blocks of 4-head attention, LayerNormalization, GELU (dynamo exporter)",
        lambda _: DigitsVit(),
        export=export_dynamo,
        opset=18,
        epochs=80,
        lr=2e-3,
    ),
    "digits_lstm": Recipe("LSTM over the 8 rows of the image", lambda _: DigitsLstm(), epochs=60, lr=6e-3),
    "cancer_mlp": Recipe(
        "tabular MLP on 30 raw features, standardised in the graph by Sub and Div",
        lambda data: CancerMlp(data.train.x),
        data=cancer,
        noise=0,
    ),
    "digits_cnn_opset9": Recipe(
        "plain CNN as old files are: opset 9, IR version 4, initializers also listed as graph inputs",
        lambda _: plain_cnn(),
        export=export_opset9,
        opset=9,
    ),
    "digits_if": Recipe(
        "CNN with an If: mean brightness of the image chooses a large or a small head; batch fixed to 1",
        lambda data: DigitsIf(data.train.x),
        export=export_if,
    ),
}


def make(name: str, recipe: Recipe) -> None:
    torch.manual_seed(SEED)
    data = recipe.data()
    model = recipe.build(data)
    fit(model, data.train, recipe)
    with warnings.catch_warnings():  # both exporters warn about choices made on purpose above
        warnings.simplefilter("ignore")
        proto = recipe.export(model, torch.from_numpy(data.calib.x[:2]), recipe.opset)
    strip_metadata(proto.graph)
    proto.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    np.savez_compressed(folder / "calib.npz", input=data.calib.x, label=data.calib.label)
    np.savez_compressed(folder / "eval.npz", input=data.eval.x, label=data.eval.label)


def accuracy(path: Path, x: np.ndarray, label: np.ndarray) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the old-style file draws a warning for each initializer that is also an input
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else len(x)
    runs = [session.run(["logits"], {"input": x[i : i + step]})[0] for i in range(0, len(x), step)]
    return float(np.mean(np.concatenate(runs).argmax(axis=1) == label))


def parameters(graph: onnx.GraphProto) -> int:
    """Elements of the float initializers, those inside branches included."""
    own = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.FLOAT)
    return own + sum(parameters(branch) for branch in subgraphs(graph))


def table_row(name: str, recipe: Recipe) -> str:
    path = HERE / name / "model.onnx"
    with np.load(HERE / name / "eval.npz") as samples:
        x, label = samples["input"], samples["label"]
    count, size = parameters(onnx.load(path).graph), path.stat().st_size
    top1 = accuracy(path, x, label)
    return f"| `{name}` | {recipe.what} | {recipe.opset} | {count:,} | {size:,} | {top1:.4f} | {len(x)} |"


def update_readme(rows: list[str]) -> None:
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(TABLE_START)
    after = rest.split(TABLE_END)[1]
    header = "| name | what it is | opset | parameters | bytes | top-1 accuracy | eval samples |"
    table = [TABLE_START, header, "|---|---|--:|--:|--:|--:|--:|", *rows, TABLE_END]
    readme.write_text(before + "\n".join(table) + after, encoding="utf-8")


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows = []
    for name, recipe in RECIPES.items():
        make(name, recipe)
        rows.append(table_row(name, recipe))
        print(rows[-1], flush=True)
    update_readme(rows)


if __name__ == "__main__":
    main()
