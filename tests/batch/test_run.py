"""The straight line of a batch: what is done, what is not done again, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.ledger import LEDGER, read_ledger
from onnxshrink.batch.run import SUMMARY, plan_batch, run_batch
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.json_format import read_document
from tests.batch.models import QUICK, Recorded, tiny_model


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for index, name in enumerate(("a.onnx", "b.onnx", "sub/c.onnx")):
        tiny_model(tmp_path / "in" / name, index + 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(scheduler: Recorded | None = None, settings: Settings = QUICK, **options: bool) -> tuple[list[str], Batch]:
    """Which models were worked on, and the summary."""
    recorded = scheduler or Recorded()
    batch = run_batch(["in"], "out", settings, scheduler=recorded, **options)
    return recorded.names, batch


ALL = ["a.onnx", "b.onnx", "sub/c.onnx"]


def statuses(batch: Batch) -> dict[str, str]:
    return {entry.name: entry.status for entry in batch.entries}


def test_every_model_is_done_once_and_listed_in_the_order_of_the_inputs(models: Path) -> None:
    names, batch = run()
    assert names == ALL == [entry.name for entry in batch.entries]
    assert read_document((models / "out" / SUMMARY).read_text()) == batch
    assert batch.command == "onnxshrink batch --preset safe --no-measure"
    assert batch.resumed == 0
    assert {name: record.entry for name, record in read_ledger(models / "out")[0].items()} == {
        entry.name: entry for entry in batch.entries
    }


def test_the_same_command_again_does_nothing(models: Path) -> None:
    _, first = run()
    names, second = run()
    assert names == []
    assert second.entries == first.entries
    assert second.resumed == 3


def test_only_what_changed_or_is_missing_is_done_again(models: Path) -> None:
    run()
    tiny_model(models / "in/a.onnx", 7)
    tiny_model(models / "in/new.onnx", 8)
    (models / "out/b.onnx").unlink()
    names, batch = run()
    assert names == ["a.onnx", "b.onnx", "new.onnx"]
    assert len(batch.entries) == 4


def test_a_result_that_somebody_changed_is_made_again(models: Path) -> None:
    run()
    result = models / "out/b.onnx"
    status = result.stat()
    result.write_bytes(b"x" * status.st_size)
    os.utime(result, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run()[0] == ["b.onnx"]


def test_results_that_were_moved_elsewhere_still_hold(models: Path) -> None:
    run()
    for path in sorted((models / "out").rglob("*.onnx")):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)  # a copy: other times, another inode
    assert run()[0] == []


@pytest.mark.parametrize("settings", [replace(QUICK, seed=1), replace(QUICK, preset="lossless")])
def test_other_settings_do_it_all_again(settings: Settings, models: Path) -> None:
    run()
    assert run(settings=settings)[0] == ALL


def test_the_same_recipe_in_a_file_is_the_same_recipe(models: Path) -> None:
    (models / "r.toml").write_text('[[pass]]\nname = "drop-unused"\n')
    assert run(settings=Settings(recipe="drop-unused", measure=False))[0] == ALL
    assert run(settings=Settings(recipe="r.toml", measure=False))[0] == []
    (models / "r.toml").write_text('[[pass]]\nname = "drop-unused"\ndocs = true\n')
    assert run(settings=Settings(recipe="r.toml", measure=False))[0] == ALL


def test_other_data_does_it_all_again(models: Path) -> None:
    data = models / "d.csv"
    settings = Settings(data="d.csv")
    data.write_text("x\n1")
    run(settings=settings)
    assert run(settings=settings)[0] == []
    data.write_text("x\n2")
    assert run(settings=settings)[0] == ALL


def test_failures_are_kept_until_they_are_to_be_tried_again(models: Path) -> None:
    _, first = run(Recorded("b.onnx"))
    assert statuses(first) == {"a.onnx": "compressed", "b.onnx": "failed", "sub/c.onnx": "compressed"}
    names, second = run()
    assert (names, statuses(second)) == ([], statuses(first))
    names, third = run(retry_failed=True)
    assert names == ["b.onnx"]
    assert set(statuses(third).values()) == {"compressed"}


def test_a_failure_is_tried_again_when_its_model_changed(models: Path) -> None:
    run(Recorded("b.onnx"))
    tiny_model(models / "in/b.onnx", 9)
    assert run()[0] == ["b.onnx"]


def test_a_run_that_was_broken_off_goes_on(models: Path) -> None:
    class Broken(Recorded):
        def run(self, jobs: Iterable[Job]) -> Iterator[BatchEntry]:
            for number, entry in enumerate(super().run(jobs)):
                if number == 1:
                    raise KeyboardInterrupt
                yield entry

    with pytest.raises(KeyboardInterrupt):
        run(Broken())
    found = read_document((models / "out" / SUMMARY).read_text())
    assert [entry.name for entry in found.entries] == ["a.onnx"]
    staged = models / "out/.b.onnx.abcd1234"
    staged.mkdir()
    (staged / "b.onnx").write_text("half of it")
    mine = models / "out/.b.onnx.backup"
    mine.write_text("not one of those")
    names, batch = run()  # the result of b is there, though nobody has listed it
    assert names == ["b.onnx", "sub/c.onnx"]
    assert len(batch.entries) == 3
    assert not staged.exists()
    assert mine.exists()


def test_files_that_no_batch_has_made_are_not_replaced(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out/b.onnx").write_text("mine")
    with pytest.raises(FileAccessError, match=r"out/b.onnx exists and was not made by this batch: use --force"):
        run()
    assert (models / "out/b.onnx").read_text() == "mine"
    assert run(force=True)[0] == ALL


def test_a_model_is_not_replaced_by_its_own_result(models: Path) -> None:
    scheduler = Recorded()
    with pytest.raises(FileAccessError, match=r"in/a.onnx would be replaced by its own result"):
        run_batch(["in/a.onnx"], "in", QUICK, scheduler=scheduler, force=True)
    assert scheduler.names == []


def test_equal_models_are_done_once(models: Path) -> None:
    for name in ("0.onnx", "sub/d.onnx"):
        (models / "in" / name).write_bytes((models / "in/b.onnx").read_bytes())
    names, batch = run()
    assert names == ["0.onnx", "a.onnx", "sub/c.onnx"]
    entries = {entry.name: entry for entry in batch.entries}
    for name in ("b.onnx", "sub/d.onnx"):
        assert (entries[name].status, entries[name].reason) == ("copied", "0.onnx")
        assert entries[name].source == f"in/{name}"
        assert entries[name].output == f"out/{name}"
        assert (models / "out" / name).samefile(models / "out/0.onnx")
    assert run()[0] == []
    (models / "out/sub/d.onnx").unlink()
    names, again = run()
    assert names == []
    assert again.entries == batch.entries
    assert (models / "out/sub/d.onnx").exists()


def test_equal_models_fail_for_one_reason(models: Path) -> None:
    (models / "in/b2.onnx").write_bytes((models / "in/b.onnx").read_bytes())
    names, batch = run(Recorded("b.onnx"))
    assert names == ALL
    failed = [entry for entry in batch.entries if entry.status == "failed"]
    assert [(entry.name, entry.reason) for entry in failed] == [("b.onnx", "it is broken"), ("b2.onnx", "it is broken")]
    assert run(retry_failed=True)[0] == ["b.onnx"]


def test_models_with_other_settings_are_not_equal(models: Path) -> None:
    (models / "m.toml").write_text(
        '[[model]]\npath = "in/a.onnx"\n[[model]]\npath = "in/a.onnx"\noutput = "a2.onnx"\nseed = 3\n'
    )
    scheduler = Recorded()
    run_batch(["m.toml"], "out", QUICK, scheduler=scheduler)
    assert scheduler.names == ["a.onnx", "a2.onnx"]


def test_equal_models_whose_data_file_has_the_results_name_are_done_each(models: Path) -> None:
    for name in ("in/x.onnx", "in/y.onnx"):
        (models / name).write_bytes(tiny_model(models / "z/z.onnx", 5, external="w.data").read_bytes())
    (models / "in/w.data").write_bytes((models / "z/w.data").read_bytes())
    names, _ = run()
    assert {"x.onnx", "y.onnx"} <= set(names)


def test_a_plan_writes_nothing(models: Path) -> None:
    plan = plan_batch(["in"], "out", QUICK)
    assert [model.job.name for model in plan.pending] == ALL
    assert not (models / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(preset="lossles"), "did you mean 'lossless'?"),
        (Settings(recipe="drop-unsued"), "did you mean 'drop-unused'?"),
        (Settings(metric="top9"), "unknown metric 'top9'"),
        (Settings(gates=("sise<=1",)), "did you mean 'size'?"),
        (Settings(gates=("latency<=1",), latency=False), "takes a clock"),
        (Settings(gates=("load<=1",), latency=False), "latency and load time are not to be measured"),
        (Settings(gates=("memory<=1",), measure=False), "nothing is measured"),
        (Settings(gates=("accuracy>=-1pt",)), "needs labels, but no data was given"),
        (Settings(custom_op_libs=("ops.so",)), "the custom operator library ops.so does not exist"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_starts(
    settings: Settings, message: str, models: Path
) -> None:
    scheduler = Recorded()
    with pytest.raises(OnnxShrinkError) as caught:
        run_batch(["in"], "out", settings, scheduler=scheduler)
    assert message in str(caught.value)
    assert scheduler.names == []
    assert not (models / "out").exists()


def test_a_full_disk_under_the_ledger_ends_the_batch_and_leaves_the_results(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxshrink.batch.ledger import Ledger

    def full(*_: object) -> None:
        raise FileAccessError("cannot write the ledger out/ledger.jsonl: No space left on device")

    monkeypatch.setattr(Ledger, "add", full)
    with pytest.raises(FileAccessError, match=r"ledger.jsonl"):
        run()
    monkeypatch.undo()
    monkeypatch.chdir(models)
    assert (models / "out/a.onnx").exists()
    assert run()[0] == ALL
    lines = [json.loads(line) for line in (models / "out" / LEDGER).read_text().splitlines()]
    assert sum("entry" in line for line in lines) == 3


def test_a_folder_that_was_moved_goes_on_under_its_new_name(models: Path) -> None:
    run()
    (models / "out").rename(models / "moved")
    scheduler = Recorded()
    batch = run_batch([models / "in"], models / "moved", QUICK, scheduler=scheduler)
    assert scheduler.names == []
    assert [entry.output for entry in batch.entries] == [str(models / "moved" / name) for name in ALL]
    assert batch.entries[0].source == str(models / "in/a.onnx")


def test_a_wrong_setting_names_the_model_of_the_manifest(models: Path) -> None:
    (models / "m.toml").write_text('[[model]]\npath = "in/a.onnx"\n[[model]]\npath = "in/b.onnx"\npreset = "smal"\n')
    with pytest.raises(OnnxShrinkError, match=r"^in/b.onnx: unknown preset 'smal': did you mean 'small'"):
        run_batch(["m.toml"], "out", QUICK, scheduler=Recorded())


def test_gates_of_the_command_may_need_the_data_of_a_manifest(models: Path) -> None:
    (models / "d.csv").write_text("x\n1")
    (models / "m.toml").write_text('[[model]]\npath = "in/a.onnx"\ndata = "d.csv"\n')
    scheduler = Recorded()
    run_batch(["m.toml"], "out", Settings(gates=("accuracy>=-1pt",)), scheduler=scheduler)
    assert scheduler.names == ["a.onnx"]


def test_a_terminal_that_is_gone_does_not_stop_the_work(models: Path) -> None:
    class Gone:
        def planned(self, models: int, resumed: int) -> None:
            raise BrokenPipeError

        def started(self, name: str) -> None:
            raise BrokenPipeError

        def step(self, name: str, text: str) -> None:
            raise BrokenPipeError

        def ended(self, entry: BatchEntry) -> None:
            raise BrokenPipeError

    scheduler = Recorded()
    run_batch(["in"], "out", QUICK, scheduler=scheduler, watcher=Gone())
    assert scheduler.names == ALL
    run_batch(["in"], "other", QUICK, watcher=Gone())
    assert (models / "other/a.onnx").exists()
