"""What docs say of the image is what was measured, and pip in its build is configured as pip here."""

import configparser
import json
import re

from benchmarks.container import build, notice, table


def test_the_table_of_the_image_is_that_of_the_result_file():
    text = table.DOC.read_text(encoding="utf-8")
    assert table.filled(text) == text


def test_the_image_did_all_that_the_document_says():
    found = json.loads(table.RESULT.read_text(encoding="utf-8"))
    true = ("network_absent", "adapter_and_sheet", "asks_for_password", "stops_in_time", "waits_for_next_start")
    assert all(found[name] is True for name in (*true, "went_on_bit_equal"))
    assert found["changed_outside_data"] == found["left_in_memory"] == [] and found["uid"] not in (0, 1000)


def test_a_build_has_the_settings_of_pip_and_the_files_that_they_name(tmp_path, monkeypatch):
    wheels, more, certificates = tmp_path / "wheels", tmp_path / "more", tmp_path / "certificates.pem"
    (more / "simple").mkdir(parents=True)
    wheels.mkdir()
    certificates.touch()
    (tmp_path / "pip.conf").write_text(
        f"[global]\ntimeout = 7\ncert = {certificates}\nextra-index-url =\n  {(more / 'simple').as_uri()}\n  https://example.org/simple"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_TIMEOUT", "8")
    volumes = build.pip_volumes(tmp_path)
    assert set(volumes[::2]) == {"--volume"}
    assert {f"{path}:{path}:ro" for path in (wheels, more, certificates)} <= set(volumes[1::2])
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(volumes[1].partition(":")[0])
    assert settings["global"]["timeout"] == "8" and settings["global"]["find-links"] == str(wheels)
    assert settings["global"]["extra-index-url"].split()[1] == "https://example.org/simple"


def test_notice_names_every_python_package_of_the_image_with_its_licence():
    text = notice.NOTICE.read_text(encoding="utf-8")
    listed = notice.listed(text)
    assert {name: version for name, (version, _) in listed.items()} == notice.locked(), "make notice"
    markers = re.findall(r"^([\w.-]+)==\S+ ;", notice.LOCK.read_text(encoding="utf-8"), re.M)
    assert {name for name, (_, said) in listed.items() if said == notice.UNKNOWN} <= {*markers}
    for name in listed.keys() - {*markers}:
        assert listed[name][1] == notice.licence(name), f"{name}: make notice"


def test_the_image_holds_no_package_of_debian_s_that_its_base_does_not():
    text = (build.ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"\b(apt|apt-get|dpkg|apk|curl|wget)\b", text)
