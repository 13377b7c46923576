import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import training.__main__ as command_line
from tests.tiny import tiny_pipeline
from training import Customization, Run, checkpoint, sheet

COMMAND = [sys.executable, "-m", "training"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )


def test_the_whole_line(project, tmp_path, monkeypatch):
    folder = Run(tmp_path / "run")
    done = run("customize", project, "--run", folder.folder)
    assert done.returncode == 0, done.stderr
    assert str(folder.adapter) in done.stdout and "step 9/9" in done.stdout and "Traceback" not in done.stderr
    out = tmp_path / "sheet.png"
    assert (
        call(monkeypatch, "sample", folder.folder, "--content", 0.8, "--count", 2, "--out", out) == 0 and out.exists()
    )
    out = tmp_path / "peft.safetensors"
    assert call(monkeypatch, "export", folder.folder, "--format", "peft", "--out", out) == 0
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.float16}


@pytest.mark.slow
def test_what_a_user_can_mend_is_one_sentence_and_exit_2(project):
    project.write_text(project.read_text().replace("rank = 4", "rank = 0"))
    done = run("customize", project)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "adapter.rank is 0. Set it to a whole number" in done.stderr.splitlines()[-1]


def edit(old: str, new: str):
    return lambda project: project.write_text(project.read_text().replace(old, new))


def spoil_a_picture(project):
    (project.parent / "content" / "picture-0.png").write_bytes(b"\x89PNG and no more")


def empty_a_folder(project):
    for picture in (project.parent / "style").iterdir():
        picture.unlink()


BAD_INPUT = {
    "colour is not a key that is known here. Remove it": edit("resolution", 'colour = "red"\nresolution'),
    "picture-0.png cannot be opened .* Save it anew as PNG or JPEG": spoil_a_picture,
    "No pictures were found in .*style. Put PNG or JPEG": empty_a_folder,
    "The base model 'nowhere' is neither a folder, .* Set base to": lambda project: project.write_text(
        'base = "nowhere"' + project.read_text()[project.read_text().index("\nresolution") :]
    ),
    "optimizer.name is 'sgd'. Set it to one of": edit("[optimizer]", '[optimizer]\nname = "sgd"'),
    "project.toml is not valid TOML": edit("[steps]", "[steps"),
}


@pytest.mark.parametrize("said", BAD_INPUT)
def test_bad_input_is_told_before_work_starts(project, tmp_path, said, monkeypatch, capsys):
    BAD_INPUT[said](project)
    assert call(monkeypatch, "customize", project, "--run", tmp_path / "run") == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert re.search(said, sentence)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_a_run_whose_base_has_changed_is_told(finished, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    tiny_pipeline(prediction_type="v_prediction", seed=1).save_pretrained(tmp_path / "base")
    config = Customization.load(folder / "config.toml")
    config.base = str(tmp_path / "base")
    config.save(folder / "config.toml")
    assert call(monkeypatch, "sample", folder, "--out", tmp_path / "sheet.png") == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "was trained on base, not on what is there under that name now. Put that base back" in sentence
    assert not (tmp_path / "sheet.png").exists()


def call(monkeypatch, *arguments) -> int:
    """The command line in this process, which leaves signals as they were."""
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    return command_line.main()


def test_pictures_of_any_size_lie_beside_their_sheet(finished, tmp_path, monkeypatch):
    def drawn(name: str, *more) -> bytes:
        own = (
            "--count",
            2,
            "--seed",
            5,
            "--size",
            48,
            32,
            "--steps",
            2,
            "--guidance-scale",
            3,
            "--out",
            tmp_path / name,
        )
        assert call(monkeypatch, "sample", finished.folder, *own, *more) == 0
        folder = (tmp_path / name).with_suffix("")
        assert sorted(path.name for path in folder.iterdir()) == ["seed-5.png", "seed-6.png"]
        with Image.open(folder / "seed-6.png") as picture:
            assert picture.size == (48, 32)
            return picture.tobytes()

    plain = drawn("a.png")
    assert plain == drawn("b.png") != drawn("c.png", "--negative-prompt", "a blue picture")
    with Image.open(tmp_path / "a.png") as whole:
        assert whole.width == sheet.LABEL + 2 * sheet.CELL


@pytest.mark.slow
def test_what_a_person_should_know_is_said_before_the_first_step(project, tmp_path):
    """Of a run on the error stream, before its first step; of a prompt likewise."""
    (project.parent / "content" / "plan.svg").write_text("<svg/>")
    (project.parent / "style" / "picture-0.txt").write_text("{who}, {placeholder} style " + "x " * 600 + " unseen")
    done = run("customize", project, "--run", tmp_path / "run")
    assert done.returncode == 0
    told, _, _ = done.stderr.partition("The content stage learns")
    for words in ("Content: plan.svg left out", "Style: {who} is not known", "602 tokens, and so not the caption from"):
        assert words in told
    done = run("sample", tmp_path / "run", "--prompt", "{placeholder}", "--count", 1, "--out", tmp_path / "sheet.png")
    assert done.returncode == 0 and "The prompt's {placeholder} stays as it is" in done.stderr
    assert "The prompt holds no placeholder, sks or zwx" in done.stderr


STRANGE = {
    "--count is 0. Set it to 1 to": lambda run, place: ("sample", run, "--count", 0),
    "--steps is 0. Set it to 1 to 1000": lambda run, place: ("sample", run, "--steps", 0),
    "--guidance-scale is 99. Set it to 1 to 30": lambda run, place: ("sample", run, "--guidance-scale", 99),
    "--size is 16 64. Set each to 32 to": lambda run, place: ("sample", run, "--size", 16, 64),
    "The size is 44 x 64. Set both to multiples of 8": lambda run, place: ("sample", run, "--size", 44, 64),
    "--content is nan. Set it to a number": lambda run, place: ("sample", run, "--content", "nan"),
    "--style is inf. Set it to a number": lambda run, place: ("sample", run, "--style", "inf"),
    "--content is 1e\\+30. Set it to a number": lambda run, place: ("sample", run, "--content", 1e30),
    "--seed is -1. Set it to a whole number": lambda run, place: ("sample", run, "--seed", -1),
    "--seed is 10000000000000000000. Set it to a whole": lambda run, place: ("sample", run, "--seed", 10**19),
    r'--prompt is "\\udcff", which is not readable': lambda run, place: ("sample", run, "--prompt", "\udcff"),
    r"--out \S+n.jpg does not end in .png. Name it \S+n.png": lambda run, place: (
        "sample",
        run,
        "--out",
        place / "n.jpg",
    ),
    r"--out \S+n does not end in .safetensors. Name it": lambda run, place: ("export", run, "--out", place / "n"),
    r"--out \S+ is a folder. Name a file": lambda run, place: ("sample", run, "--out", place),
    r"--out \S+ lies in \S+, which is a file": lambda run, place: (
        "export",
        run,
        "--out",
        run / "config.toml/a.safetensors",
    ),
    r"--out \S+model lies in \S+, which is a file": lambda run, place: (
        "export",
        run,
        "--format",
        "model",
        "--out",
        run / "config.toml/model",
    ),
    "--run is empty. Name something": lambda run, place: ("customize", run / "config.toml", "--run", ""),
    "is no run folder": lambda run, place: ("sample", run / "config.toml"),
    "is no finished run to take a content from": lambda run, place: ("join", place, run),
    "config.toml is a file. Name a folder": lambda run, place: (
        "customize",
        run / "config.toml",
        "--run",
        run / "config.toml",
    ),
    "cannot be written": lambda run, place: ("customize", run / "config.toml", "--run", place / ("n" * 300)),
}


@pytest.mark.parametrize("said", STRANGE)
def test_strange_names_and_numbers_are_one_sentence_and_exit_2(finished, tmp_path, said, monkeypatch, capsys):
    before = sorted(finished.folder.rglob("*"))
    assert call(monkeypatch, *STRANGE[said](finished.folder, tmp_path)) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, sentence) and sentence.endswith(".")
    assert sorted(finished.folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["sample", "export", "join", "further"])
def test_a_run_that_another_version_wrote_is_named(finished, tmp_path, command, monkeypatch, capsys):
    folder = shutil.copytree(finished.folder, tmp_path / "theirs")
    (folder / "config.toml").write_text("future = 1\n" + (folder / "config.toml").read_text())
    more = {"export": ["--format", "model"], "join": [finished.folder]}
    assert call(monkeypatch, command, folder, *more.get(command, [])) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    said = "The run theirs cannot be read, since another version wrote it or it was damaged: future is not a key"
    assert sentence.startswith(said)


@pytest.mark.parametrize(
    ("file", "data"), [("metrics.jsonl", '{"step": "one", "loss": 1, "seconds_per_step": 1}\n'), ("state.json", "[3]")]
)
def test_what_a_run_says_of_itself_may_be_of_another_version(finished, tmp_path, file, data, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    config = Customization.load(finished.config)
    config.save(folder / "config.toml")
    (folder / file).write_text(data)
    assert call(monkeypatch, "customize", folder / "config.toml", "--run", folder) == 0
    assert Run(folder).status == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
def test_a_place_that_takes_no_files_is_not_said_to_be_in_use(project, monkeypatch, capsys):
    assert call(monkeypatch, "customize", project, "--run", "/proc/run") == 2
    assert "The run /proc/run cannot be written. Choose another" in capsys.readouterr().err


@pytest.mark.slow
def test_the_temporary_folder_that_is_named_is_made(tmp_path):
    """A container's lies in its volume, which is empty at first, and all else is read only."""
    named = tmp_path / "volume/tmp"
    command = [*COMMAND, "new", tmp_path / "project.toml"]
    assert subprocess.run(command, env=ENVIRONMENT | {"TMPDIR": str(named)}, capture_output=True).returncode == 0
    assert named.is_dir()


def test_no_temporary_folder_at_all_is_one_sentence_and_exit_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    assert call(monkeypatch, "new", tmp_path / "project.toml") == 2
    assert "Name a place for it with TMPDIR." in capsys.readouterr().err
    assert not (tmp_path / "project.toml").exists()


@pytest.mark.slow
def test_a_reader_that_is_gone_does_not_stop_training(project, tmp_path):
    folder = Run(tmp_path / "run")
    process = subprocess.Popen(
        [*COMMAND, "customize", project, "--run", folder.folder],
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stderr.close()
    assert process.wait(300) == 0 and folder.status == "done"


@pytest.mark.parametrize("ask", ["signal", "file"])
def test_a_run_that_still_prepares_stops_at_once(project, tmp_path, monkeypatch, ask):
    """Opening the base takes minutes on a large one; nothing is lost by leaving off."""
    folder = Run(tmp_path / "run")

    def opening(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM) if ask == "signal" else folder.ask_to_stop()
        time.sleep(60)
        raise AssertionError("it went on")

    monkeypatch.setattr(sys.modules["training.loop"], "open_base", opening)
    before = signal.getsignal(signal.SIGTERM)
    assert call(monkeypatch, "customize", project, "--run", folder.folder) == 130
    assert folder.status == "cancelled" and not folder.stop_asked and not folder.written
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_wait_for_the_step(tmp_path):
    with command_line._Stop(Run(tmp_path)) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_with_a_checkpoint_and_exit_130(project, tmp_path, number):
    project.write_text(project.read_text().replace("break = 3", "break = 2000"))
    folder = Run(tmp_path / "run")
    process = subprocess.Popen([*COMMAND, "customize", project, "--run", folder.folder], env=ENVIRONMENT)
    try:
        for _ in range(600):
            if folder.status == "running":
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
    state = folder.read_state()
    assert state["status"] == "cancelled"
    assert checkpoint.read_last(folder.checkpoints).step == state["step"] > 0
