"""Time any number of models beside each other, at every batch size and number of threads that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxshrink.bench_inputs import Inputs, prepare_inputs
from onnxshrink.errors import ModelError
from onnxshrink.graph.load import model_files
from onnxshrink.measure.latency import latency_ratio, significant, time_models
from onnxshrink.measure.machine import this_machine, versions
from onnxshrink.measure.operator_times import profile_model
from onnxshrink.measure.own_process import run_in_own_process
from onnxshrink.measure.session import Session, SessionSettings, open_session
from onnxshrink.measure.steadiness import busy_note, load_average, steadiness_notes
from onnxshrink.measured import Profile, Timings
from onnxshrink.numerics.paired_loads import MIN_LOADS, RatioInterval, holm
from onnxshrink.numerics.percentiles import percentiles
from onnxshrink.report.bench import Bench, BenchModel, LatencyRatio, ModelTimes, Section
from onnxshrink.source import ModelLike, Source, open_source
from onnxshrink.trial import ConfigLike, DataLike

DEFAULT_SECONDS = 2.0

_PROFILE_SECONDS = 0.5
_PROFILED_RUNS = (5, 100)
_WIDE = 0.1


def bench_models(
    models: Sequence[ModelLike],
    *,
    data: DataLike | None = None,
    data_config: ConfigLike | None = None,
    own_inputs: bool = False,
    batch_sizes: Sequence[int] = (),
    threads: Sequence[int] = (0,),
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    profile: bool = False,
    custom_op_libs: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Bench:
    """Time models, interleaved, and say which differ from the first one. Nothing is written.

    Args:
        models: one or more; paths, or models in memory.
        data: samples that every model is fed with: a path (docs/data.md), arrays by input name, or a ``Dataset``. None
            makes inputs up, the same ones for all models.
        data_config: how they are read: a TOML file; None: the one beside them, or guessed.
        own_inputs: make inputs up for each model by itself, so that models with different inputs can be compared.
        batch_sizes: samples per run; each makes a section of its own. None: 1, or what the models' inputs fix.
        threads: intra-op threads; each makes a section of its own. 0 lets ONNX Runtime decide.
        seconds: time per model and section, loading included.
        seed: seeds made-up inputs.
        profile: also say where the time of each model goes, by operator and by node.
        custom_op_libs: shared libraries that register custom operators.
        progress: called with the name of each step.

    Raises:
        ModelError: a model does not load, or none was given.
        DataError: the data does not fit, or models need different inputs.
    """
    if not models:
        raise ModelError("give at least one model to time")
    tell = progress or (lambda _: None)
    load, machine = load_average(), this_machine()
    settings = SessionSettings(custom_op_libs=tuple(custom_op_libs))
    with ExitStack() as stack:
        tell("loading")
        sources = [stack.enter_context(open_source(model)) for model in models]
        names = _names(sources)
        prepared = [
            (
                prepare_inputs(
                    sources, names, data, data_config, settings, own=own_inputs, batch_size=batch_size, seed=seed
                ),
                count,
            )
            for batch_size in batch_sizes or (None,)
            for count in threads
        ]
        timed = []
        for inputs, count in prepared:
            where = replace(settings, threads=count)
            tell(f"timing, batch size {inputs.batch_size}, {_threads_text(count)}")
            times = _time(sources, inputs, where, seconds)
            tell("measuring memory" + (" and operators" if profile else ""))
            alone = _own_measurements(sources, inputs, where, times, profile)
            timed.append(_Timed(inputs.batch_size, count, times, *alone))
        facts = tuple(
            BenchModel(
                name,
                None if source.path is None else str(source.path),
                source.sha256,
                sum(part.stat().st_size for part in model_files(source.file, source.model)),
                found,
            )
            for name, source, found in zip(names, sources, prepared[0][0].facts, strict=True)
        )
    busy = busy_note(load, machine.cores)
    return Bench(
        versions=versions(),
        machine=machine,
        models=facts,
        sections=_sections(timed, names),
        seconds=seconds,
        seed=seed,
        notes=(*prepared[0][0].notes, *([busy] if busy else [])),
    )


@dataclass(frozen=True)
class _Timed:
    """A section before its ratios are judged."""

    batch_size: int
    threads: int
    timings: tuple[Timings, ...]
    peaks: tuple[int | None, ...]
    profiles: tuple[Profile | None, ...]


def _time(sources: Sequence[Source], inputs: Inputs, settings: SessionSettings, seconds: float) -> tuple[Timings, ...]:
    openers = [partial(_open, source, settings) for source in sources]
    return time_models(openers, inputs.feeds, budget_seconds=seconds * len(sources))


def _open(source: Source, settings: SessionSettings) -> Session:
    return open_session(source.file, settings)


def _own_measurements(
    sources: Sequence[Source], inputs: Inputs, settings: SessionSettings, times: Sequence[Timings], profile: bool
) -> tuple[tuple[int | None, ...], tuple[Profile | None, ...]]:
    """Peak memory and profile of each model by itself."""
    peaks, profiles = [], []
    for source, feed, timings in zip(sources, inputs.feeds, times, strict=True):
        peaks.append(run_in_own_process(source.file, [feed], settings).peak_memory_bytes)
        affordable = int(1000 * _PROFILE_SECONDS / max(float(np.median(timings.all_runs_ms)), 1e-3))
        runs = min(max(affordable, _PROFILED_RUNS[0]), _PROFILED_RUNS[1])
        profiles.append(profile_model(source.file, feed, settings, runs) if profile else None)
    return tuple(peaks), tuple(profiles)


def _sections(timed: Sequence[_Timed], names: Sequence[str]) -> tuple[Section, ...]:
    """Every comparison is judged in the knowledge of all others, in whatever section they are."""
    intervals = [[latency_ratio(section.timings[0], other) for other in section.timings[1:]] for section in timed]
    ratios = iter(_judged([interval for found in intervals for interval in found]))
    sections = []
    for section in timed:
        found: list[LatencyRatio | None] = [None, *(next(ratios) for _ in section.timings[1:])]
        models = tuple(
            _model_times(timings, section.batch_size, ratio, peak, profile)
            for timings, ratio, peak, profile in zip(
                section.timings, found, section.peaks, section.profiles, strict=True
            )
        )
        sections.append(Section(section.batch_size, section.threads, models, _notes(names, models)))
    return tuple(sections)


def _judged(intervals: Sequence[RatioInterval]) -> list[LatencyRatio]:
    corrected = holm([interval.p_value for interval in intervals])
    return [
        LatencyRatio(interval.ratio, interval.low, interval.high, p_value, differs)
        for interval, p_value, differs in zip(intervals, corrected, significant(intervals), strict=True)
    ]


def _model_times(
    timings: Timings, samples: int, ratio: LatencyRatio | None, peak: int | None, profile: Profile | None
) -> ModelTimes:
    runs = timings.all_runs_ms
    quarter, three_quarters = np.percentile(runs, [25, 75])
    return ModelTimes(
        timings=timings,
        runs=len(runs),
        fastest_ms=float(runs.min()),
        mean_ms=float(runs.mean()),
        slowest_ms=float(runs.max()),
        spread_ms=float(three_quarters - quarter),
        percentiles_ms=percentiles(runs),
        samples_per_second=1000 * samples / float(np.median(runs)),
        load_median_ms=float(np.median(timings.load_ms)),
        first_run_median_ms=float(np.median(timings.first_run_ms)),
        peak_memory_bytes=peak,
        ratio=ratio,
        profile=profile,
    )


def _notes(names: Sequence[str], models: Sequence[ModelTimes]) -> tuple[str, ...]:
    notes = []
    for name, model in zip(names, models, strict=True):
        notes += steadiness_notes(name, model.timings)
        ratio = model.ratio
        if ratio is not None and not ratio.significant and ratio.high / ratio.low > (1 + _WIDE) ** 2:
            notes.append(
                f"{name}: the interval of its ratio is wide, a difference of {ratio.high / ratio.low - 1:.0%} could "
                "hide in it. --seconds gives more time to find out."
            )
    if len(models[0].timings.runs_ms) <= MIN_LOADS and len(models) > 1:
        notes.append(
            f"There was time to load the models {MIN_LOADS} times only: small differences need a larger --seconds."
        )
    return tuple(notes)


def _names(sources: Sequence[Source]) -> list[str]:
    """File names, with as many folders as it takes to tell them apart; numbered where even whole paths are equal."""
    names = [source.name for source in sources]
    parts = [source.path.parts if source.path is not None else (source.name,) for source in sources]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(found[-depth:]) for found in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _threads_text(threads: int) -> str:
    return f"{threads} thread{'s' * (threads != 1)}" if threads else "default threads"
