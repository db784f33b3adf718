"""The password of a study's database is nowhere but where the user wrote it."""

import pytest

from support.study_command import Command


def files_with(secret, folder):
    return [
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and secret in file.read_bytes()
    ]


@pytest.mark.parametrize("form", ["kdlab:s3cret@", "?password=s3cret", "?pass%77ord=s3cret"])
def test_the_password_of_a_database_is_in_no_file_and_no_line(tmp_path, server, form):
    before, query = (form, "") if form.endswith("@") else ("kdlab@", form)
    url = f"postgresql://{before}127.0.0.1:{server.port}/postgres{query}"
    study = Command(tmp_path, budget={"trials": 1})
    said = study.run(f"storage={url}", BOARD="1", WANDB_MODE="offline")
    assert files_with(b"s3cret", tmp_path) == []
    assert "s3cret" not in said
    assert any(file.suffix == ".wandb" for file in tmp_path.rglob("*"))  # W&B did write something
    assert "127.0.0.1" in (study.home / "study.yaml").read_text()


@pytest.mark.parametrize(
    "override",
    ["storage=postgresql://kdlab:s3cret@127.0.0.1:1/db", "storage=postgresql://kdlab:raw@s3cret@127.0.0.1:1/db",
     "storage=postgresql://127.0.0.1:x/db?password=s3cret", "storage.x=postgresql://kdlab:s3cret@127.0.0.1/db",
     "storage=[postgresql://kdlab:s3cret@127.0.0.1/db]", "storage=[postgresql://kdlab:s3cret@127.0.0.1/db"],
)  # fmt: skip
def test_no_refusal_quotes_a_password(tmp_path, override):
    said = Command(tmp_path).run(override, code=2)
    assert said.startswith("kdlab: ")
    assert said.count("\n") == 1
    assert "s3cret" not in said
    assert files_with(b"s3cret", tmp_path) == []
