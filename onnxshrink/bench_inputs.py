"""What the models of a bench are fed with: the same samples for all, or made-up inputs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.errors import DataError
from onnxshrink.measure.session import SessionSettings, TensorSpec
from onnxshrink.report.report import DataFacts
from onnxshrink.source import Source
from onnxshrink.trial import ConfigLike, DataLike, data_facts, original_session, read_data


@dataclass(frozen=True)
class Inputs:
    """One feed per model.

    Attributes:
        batch_size: samples in every feed.
        facts: where the samples come from, one per model.
        notes: what the reader should know about them.
    """

    feeds: tuple[Feed, ...]
    batch_size: int
    facts: tuple[DataFacts, ...]
    notes: tuple[str, ...]


def prepare_inputs(
    sources: Sequence[Source],
    names: Sequence[str],
    data: DataLike | None,
    config: ConfigLike | None,
    settings: SessionSettings,
    *,
    own: bool,
    batch_size: int | None,
    seed: int,
) -> Inputs:
    """The feeds for models at one batch size.

    Raises:
        ModelError: a model does not load.
        DataError: samples do not fit a model, models need different inputs, or other batch sizes than this.
    """
    specs = [_input_specs(source, settings) for source in sources]
    wanted = batch_size or 1
    if data is not None:
        sets = [
            _read(name, data, config, found, source.path)
            for name, found, source in zip(names, specs, sources, strict=True)
        ]
    elif own:
        sets = [_made_up(source, settings, seed, wanted) for source in sources]
    else:
        _check_same(specs, names)
        strictest = max(range(len(specs)), key=lambda index: _fixed_dims(specs[index]))
        sets = [_made_up(sources[strictest], settings, seed, wanted)] * len(sources)
    feeds = tuple(next(samples.batches(found, wanted)).feed for samples, found in zip(sets, specs, strict=True))
    sizes = [_samples_in(feed, found) for feed, found in zip(feeds, specs, strict=True)]
    _check_sizes(sizes, names, batch_size)
    facts = tuple(replace(data_facts(samples), samples=size) for samples, size in zip(sets, sizes, strict=True))
    return Inputs(feeds, sizes[0], facts, _notes(sets[0], seed, own=own and len(sources) > 1))


def _input_specs(source: Source, settings: SessionSettings) -> tuple[TensorSpec, ...]:
    with original_session(source, settings) as session:
        return session.inputs


def _read(
    name: str, data: DataLike, config: ConfigLike | None, inputs: Sequence[TensorSpec], model: Path | None
) -> Dataset:
    try:
        return read_data(data, inputs, config, model=model)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _made_up(source: Source, settings: SessionSettings, seed: int, batch_size: int) -> Dataset:
    with original_session(source, settings) as session:
        return synthetic_dataset(source.model, session, seed=seed, samples=1, batch_size=batch_size)


def _check_same(specs: Sequence[Sequence[TensorSpec]], names: Sequence[str]) -> None:
    """Raise where a model cannot be fed with what the first one is fed with."""
    first = {spec.name: spec for spec in specs[0]}
    for name, inputs in zip(names[1:], specs[1:], strict=True):
        other = {spec.name: spec for spec in inputs}
        for differs in (
            *(f"{names[0]} has an input '{missing}' that it lacks" for missing in first.keys() - other.keys()),
            *(f"it has an input '{more}' that {names[0]} lacks" for more in other.keys() - first.keys()),
            *(
                f"'{key}' is {_spec_text(other[key])} there and {_spec_text(spec)} in {names[0]}"
                for key, spec in first.items()
                if key in other and not _compatible(spec, other[key])
            ),
        ):
            raise DataError(
                f"{name} takes other inputs: {differs}; --data gives samples for both, --own-inputs makes inputs up "
                "for each model by itself"
            )


def _compatible(one: TensorSpec, other: TensorSpec) -> bool:
    return (
        one.type == other.type
        and len(one.shape) == len(other.shape)
        and all(
            a == b or not (isinstance(a, int) and isinstance(b, int))
            for a, b in zip(one.shape, other.shape, strict=True)
        )
    )


def _spec_text(spec: TensorSpec) -> str:
    return f"{spec.type} [{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"


def _fixed_dims(specs: Sequence[TensorSpec]) -> int:
    return sum(isinstance(dim, int) for spec in specs for dim in spec.shape)


def _samples_in(feed: Feed, specs: Sequence[TensorSpec]) -> int:
    """The batch size: the first dimension of an input that leaves it open, else the one that all inputs agree on."""
    batches = [spec for spec in specs if spec.shape]
    free = [spec for spec in batches if not isinstance(spec.shape[0], int)]
    found = {len(feed[spec.name]) for spec in (free[:1] or batches)}
    return found.pop() if len(found) == 1 else 1


def _check_sizes(sizes: Sequence[int], names: Sequence[str], wanted: int | None) -> None:
    for name, size in zip(names, sizes, strict=True):
        if wanted is not None and size != wanted:
            raise DataError(
                f"{name}: its inputs, or the samples, make a batch of {size}, not the {wanted} of --batch-size"
            )
        if size != sizes[0]:
            raise DataError(f"{name} runs a batch of {size} and {names[0]} one of {sizes[0]}: their times say nothing")


def _notes(samples: Dataset, seed: int, *, own: bool) -> tuple[str, ...]:
    if not samples.synthetic:
        return ()
    whose = " for each model by itself" if own else ""
    return (
        f"Inputs are made up{whose} (seed {seed}): where the work depends on values (loops, branches, lengths), real "
        "samples (--data) may take another time.",
    )
