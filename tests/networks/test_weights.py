"""Weights on disk: tied tensors are written once and come back under all their names."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kdlab
from kdlab.config.compose import compose
from kdlab.core.errors import UsageError
from kdlab.networks.weights import cloned, hash_folder, load_checkpoint, load_weights, packed, save_weights
from kdlab.run.saved import write_student
from kdlab.run.store import Store
from support.text_models import DATA, Described, network


class Tied(nn.Module):
    """Tokens to logits by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 20)
        self.output = nn.Linear(20, 50, bias=False)
        self.output.weight = self.embedding.weight


def test_a_tied_matrix_is_written_once(tmp_path):
    save_weights(Tied().state_dict(), tmp_path / "tied.safetensors")
    save_weights(nn.Embedding(50, 20).state_dict(), tmp_path / "one.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("tied", "one")]
    assert 0 < sizes[0] - sizes[1] < 200


def test_what_is_not_tied_is_written_as_safetensors_writes_it(tmp_path):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    save_weights(network.state_dict(), tmp_path / "ours.safetensors", {"a": "b"})
    save_file(network.state_dict(), tmp_path / "theirs.safetensors", {"a": "b"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_equal_tensors_that_are_not_one_and_views_of_one_tensor_stay_apart(tmp_path):
    whole = torch.arange(6.0)
    state = {"a": torch.ones(2), "b": torch.ones(2), "c": whole[:3], "d": whole[3:], "e": whole}
    save_weights(state, tmp_path / "w.safetensors", {"a": "nothing"})
    found = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert found["a"].data_ptr() != found["b"].data_ptr()


@pytest.mark.parametrize("option", ["gpt_tiny", "llama_tiny"])
def test_a_tied_language_model_comes_back_from_disk_with_the_same_logits(tmp_path, option):
    pytest.importorskip("transformers")
    model, tokens = network(option), torch.arange(8)[None]
    expected = model(input_ids=tokens).logits
    torch.manual_seed(1)
    other = network(option)
    nn.init.normal_(other.lm_head.weight)
    assert not torch.equal(other(input_ids=tokens).logits, expected)
    save_weights(cloned(model.state_dict()), tmp_path / "w.safetensors")
    other.load_state_dict(load_weights(tmp_path / "w.safetensors"))
    assert torch.equal(other(input_ids=tokens).logits, expected)
    assert other.lm_head.weight is other.get_input_embeddings().weight
    entry = Store(tmp_path / "store").put({"model": option}, model.state_dict(), {})
    again = Store(tmp_path / "store").find({"model": option})
    assert again is not None
    assert entry.weights().keys() == again.weights().keys() == model.state_dict().keys()
    assert len(packed(model.state_dict())) < 1.02 * 4 * sum(value.numel() for value in model.parameters()) + 5000


def test_a_tied_student_is_loaded_from_its_folder(tmp_path):
    pytest.importorskip("transformers")
    config, model = compose(["model=gpt_tiny", *DATA]), network("gpt_tiny")
    nn.init.normal_(model.lm_head.weight)
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    write_student(tmp_path, Described(), config.model)
    loaded, tokens = kdlab.load_student(tmp_path), torch.arange(8)[None]
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("kept", ["embedding.weight", "output.weight"])
def test_a_users_own_file_may_hold_either_name_of_a_tied_matrix(tmp_path, kept):
    matrix, network = torch.randn(50, 20), Tied()
    save_file({kept: matrix}, tmp_path / "own.safetensors")
    load_checkpoint(tmp_path / "own.safetensors", network)
    assert torch.equal(network.output.weight, matrix)
    save_file({"other.weight": matrix}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="2 entries are missing"):
        load_checkpoint(tmp_path / "other.safetensors", network)


def test_a_copy_of_tied_weights_is_tied_and_on_its_own():
    tied = Tied()
    copied = cloned(tied.state_dict())
    assert copied["embedding.weight"] is copied["output.weight"]
    nn.init.zeros_(tied.output.weight)
    assert copied["output.weight"].any()


def test_the_hash_of_a_folder_is_that_of_the_files_that_make_a_network(tmp_path):
    def hashed(files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        return hash_folder(folder)

    files = {"config.json": "{}", "model.safetensors": "weights"}
    assert (
        hashed(files) == hashed(dict(reversed(files.items()))) == hashed({**files, "README.md": "x", "vocab.txt": ""})
    )
    others = [
        {**files, "config.json": "{} "},
        {**files, "model.safetensors": "w"},
        {**files, "model.safetensors.index.json": "{}"},
        {"config.json": "weights", "model.safetensors": "{}"},
        {"config.json": "{}"},
    ]
    assert len({hashed(other) for other in [files, *others]}) == 6
