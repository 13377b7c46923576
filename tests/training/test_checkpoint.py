import errno
import json
import os
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open

from pipelines import UserError
from tests.tiny import tiny_pipeline
from training import Run, checkpoint
from training.checkpoint import Checkpoint

Usage = namedtuple("Usage", "total used free")


def save(folder, step):
    return checkpoint.write(folder, Checkpoint(step, {"a": torch.full((3,), float(step))}, {"identity": "x"}))


def test_what_is_written_is_read_back(tmp_path):
    save(tmp_path, 7)
    last = checkpoint.read_last(tmp_path)
    assert (
        last.step == 7 and last.numbers == {"identity": "x"} and torch.equal(last.tensors["a"], torch.full((3,), 7.0))
    )


def test_old_ones_are_removed_after_the_new_is_there(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def truncate(path):
    file = path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def flip(path):
    file = path / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def cut_manifest(path):
    (path / "manifest.json").write_text('{"step": 2, "fil')


def drop_manifest(path):
    (path / "manifest.json").unlink()


def drop_state(path):
    (path / "state.safetensors").unlink()


def empty_manifest(path):
    (path / "manifest.json").write_text(json.dumps({"step": 2}))


def no_table(path):
    (path / "manifest.json").write_text("[3]")


def no_files(path):
    (path / "manifest.json").write_text(json.dumps(manifest(path) | {"files": 3}))


def no_file(path):
    (path / "manifest.json").write_text(json.dumps(manifest(path) | {"files": {}}))


def no_numbers(path):
    (path / "manifest.json").write_text(json.dumps(manifest(path) | {"numbers": 3}))


def another_step(path):
    (path / "manifest.json").write_text(json.dumps(manifest(path) | {"step": 1}))


def manifest(path):
    return json.loads((path / "manifest.json").read_text())


BROKEN = [truncate, flip, cut_manifest, drop_manifest, drop_state, empty_manifest]
FOREIGN = [no_table, no_files, no_file, no_numbers, another_step]


@pytest.mark.parametrize("damage", BROKEN + FOREIGN)
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, damage):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    assert checkpoint.read_last(tmp_path).step == 1
    assert "step-000002 is broken" in caplog.text


def test_a_newer_version_s_checkpoint_is_not_gone_back_behind(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    (newest / "manifest.json").write_text(json.dumps(manifest(newest) | {"format": 2}))
    with pytest.raises(UserError, match=r"A newer version wrote the checkpoint .*step-000002\. Go on with that"):
        checkpoint.read_last(tmp_path)


def test_what_others_put_beside_checkpoints_is_no_checkpoint(tmp_path):
    (tmp_path / "step-by-step").mkdir()
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).step == 2 and (tmp_path / "step-000001").exists()


def test_what_cannot_be_written_is_named_itself(tmp_path):
    """Not the file in the making beside it."""
    (tmp_path / "state.json").mkdir()
    with pytest.raises(UserError, match=r"^\S+/state\.json could not be written \(Is a directory\)"):
        checkpoint.write_bytes(tmp_path / "state.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_none_is_left_when_all_are_broken(tmp_path):
    truncate(save(tmp_path, 1))
    assert checkpoint.read_last(tmp_path) is None


def test_a_kill_while_writing_leaves_the_last_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.read_last(tmp_path).step == 1
    save(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).step == 2


def test_a_full_disk_is_refused_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: Usage(100, 100, 1000))
    with pytest.raises(UserError, match=r"MB are free\. Free space there"):
        save(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).step == 1


def full_after(count, monkeypatch):
    """After so many operations on files the disk takes no more, and removes nothing either."""
    left = [count]

    def counted(operation):
        def one(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return operation(*args, **options)

        return one

    for name in ("mkdir", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("count", range(6))
def test_wherever_the_disk_fills_up_a_checkpoint_is_a_sentence_and_the_one_before_is_there(
    tmp_path, monkeypatch, count
):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        full_after(count, patch)
        with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
            save(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).step == 1
    checkpoint.clean(tmp_path)
    save(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).step == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("count", range(3))
def test_a_run_folder_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch, config, stopped, count):
    run = Run(tmp_path / "run")
    if stopped:
        run.folder.mkdir()
        run.ask_to_stop()
    with monkeypatch.context() as patch:
        full_after(count, patch)
        with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
            run.begin(config)
        with pytest.raises(UserError) if stopped else nullcontext():  # what it never was it need not forget
            run.forget_stop()
    run.begin(config)
    assert run.status == "preparing" and not run.stop_asked


def test_equal_tensors_and_metadata_give_equal_bytes_that_the_library_reads(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.float16)}
    metadata = {f"key {i}": "ä" * i for i in range(9)}
    written = set()
    for i in range(4):
        path = tmp_path / f"{i}.safetensors"
        checkpoint.write_tensors(path, tensors, dict(reversed(metadata.items())) if i % 2 else metadata)
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(key), value) for key, value in tensors.items())


def test_two_threads_may_write_one_file_at_once(tmp_path, monkeypatch):
    both, replace = threading.Barrier(2, timeout=60), os.replace
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: (both.wait(), replace(*paths)))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda data: checkpoint.write_bytes(tmp_path / "a", data), (b"1", b"1")))
    assert (tmp_path / "a").read_bytes() == b"1" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_a_model_s_weights_can_be_read_by_those_who_can_read_its_configuration(tmp_path, mask):
    before = os.umask(mask)
    try:
        tiny_pipeline().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    checkpoint.follow_umask(tmp_path / "model")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
