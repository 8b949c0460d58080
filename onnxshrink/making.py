"""How a result was made, gathered for its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxshrink.calibrated import feeds_digest
from onnxshrink.measure.machine import versions
from onnxshrink.provenance import Provenance, built_with, looks_at_data, recipe_of
from onnxshrink.recipe import Recipe
from onnxshrink.report.report import PassRecord
from onnxshrink.source import Source
from onnxshrink.trial import Trial


def provenance_of(
    source: Source,
    done: Sequence[tuple[Recipe, Sequence[PassRecord]]],
    trial: Trial | None,
    *,
    seed: int,
    batch_size: int,
    threads: int,
    run_large: bool,
) -> Provenance:
    """How the result was made; without the data when no pass that was done may have looked at it.

    Args:
        done: recipes and what became of their passes, in the order of both.
        run_large: whether the model was run though it is above the limit.
    """
    recipe = recipe_of([(recipe, [record.status for record in records]) for recipe, records in done])
    found = Provenance(
        version=versions()["onnxshrink"],
        recipe=str(recipe),
        input_sha256=source.sha256,
        seed=seed,
        built_with=built_with(versions()),
        run_large=run_large,
    )
    if trial is None or not looks_at_data(recipe):
        return found
    found = replace(found, threads=threads)
    if trial.data.synthetic:
        found = replace(found, batch_size=batch_size)
    else:
        found = replace(found, data_sha256=feeds_digest(trial.check.feeds))
    if trial.calibration is None:
        return found
    return replace(found, calibration_sha256=trial.calibration.digest, calibration_samples=trial.calibration_samples)
