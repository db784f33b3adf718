"""A user's own folder in transformers' layout as a network; what it must not hold; networks within low-rank updates."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kdlab
from kdlab.config.compose import compose
from kdlab.core.errors import UsageError
from kdlab.core.reading import ask, logits_of
from kdlab.models.pretrained import causal, classifier, portable
from kdlab.networks.weights import save_weights
from kdlab.run.make_network import make_network
from kdlab.run.saved import write_student
from support.text_models import DATA, Described, network, text

transformers = pytest.importorskip("transformers")

TAKES = {"classes": 3, "vocabulary": 100, "length": 16}
CAUSAL = {"vocabulary": 100, "length": 16}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A classifier and a language model as transformers saves them, and a body without a classifier."""
    place = tmp_path_factory.mktemp("folders")
    for option in ("bert_tiny", "gpt_tiny", "llama_tiny"):
        network(option).save_pretrained(place / option)
    transformers.BertForMaskedLM(network("bert_tiny").config).save_pretrained(place / "words")
    return place


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders / "bert_tiny", tmp_path / "folder")


def changed(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def refused(make=classifier, takes=TAKES, **given):
    with pytest.raises(UsageError) as found:
        make(**{**takes, **given})
    return str(found.value)


def test_a_classifier_is_what_its_folder_holds(folders, capfd):
    own, input = network("bert_tiny"), text(7, 3)
    made = classifier(path=str(folders / "bert_tiny"), **TAKES)
    assert made.training
    assert torch.equal(made.eval()(**input).logits, own(**input).logits)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("option", ["gpt_tiny", "llama_tiny"])
def test_a_language_model_is_what_its_folder_holds(folders, option):
    own, input = network(option), text(7, 3)
    made = causal(path=str(folders / option), **CAUSAL)
    assert torch.equal(made.eval()(**input).logits, own(**input).logits)
    assert made(**input).past_key_values is None
    assert made.generate(input["input_ids"], max_new_tokens=2, return_dict_in_generate=True).past_key_values is not None


FAMILIES = {
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}),
    "llama": (
        "Llama",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
         "max_position_embeddings": 16},
    ),
    "roberta": (
        "Roberta",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
         "max_position_embeddings": 22},
    ),
}  # fmt: skip


def of_family(folder, family, padding):
    """A folder of a classifier of 3 classes, 100 tokens and 16 positions, whose config has this padding id."""
    name, sizes = FAMILIES[family]
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": padding}
    config = getattr(transformers, f"{name}Config")(vocab_size=100, num_labels=3, **ids, **sizes)
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}ForSequenceClassification")(config)
    for value in made.parameters():
        nn.init.normal_(value, std=0.3)
    made.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("family", "padding"), [("gpt2", None), ("gpt2", 5), ("llama", None), ("llama", 5), ("roberta", 5)]
)
def test_padding_changes_no_logits_whatever_its_id(tmp_path, family, padding):
    path = of_family(tmp_path / "folder", family, padding)
    config = compose(["model=pretrained_classifier", f"model.path={path}", *DATA])
    model, input = make_network(config.model).eval(), text(9, 4, 1)
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    write_student(tmp_path, Described(), portable(config.model))
    for made in (model, kdlab.load_student(tmp_path)):
        for fill in (0, 7):
            ids = input["input_ids"].masked_fill(input["attention_mask"] == 0, fill)
            together = made(**{**input, "input_ids": ids}).logits
            for row, length in enumerate((9, 4, 1)):
                alone = made(**{name: value[row : row + 1, :length] for name, value in input.items()}).logits
                torch.testing.assert_close(together[row], alone[0])


def test_roberta_reads_fewer_tokens_than_its_config_has_positions(tmp_path):
    path = of_family(tmp_path / "folder", "roberta", 5)
    assert classifier(path=path, **TAKES)(**text(16)).logits.shape == (1, 3)
    assert refused(path=path, length=17) == f"path={path} reads 16 tokens at most; type data.length=16"
    with pytest.raises(RuntimeError, match="out of bounds"):
        classifier(path=path, **TAKES)(**text(17))


def test_weights_of_half_precision_are_read_in_single(folder):
    state = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    changed(folder, dtype="float16")
    assert {value.dtype for value in classifier(path=str(folder), **TAKES).parameters()} == {torch.float32}


@pytest.mark.parametrize(("held", "classes"), [("bert_tiny", 5), ("words", 3)])
def test_a_new_classifier_begins_on_the_body_of_a_folder(folders, held, classes):
    made = classifier(path=str(folders / held), new_classifier=True, **{**TAKES, "classes": classes})
    body = load_file(folders / held / "model.safetensors")
    assert torch.equal(made.bert.encoder.layer[1].output.dense.weight, body["bert.encoder.layer.1.output.dense.weight"])
    assert logits_of(ask(made, text(5))).shape == (1, classes)


def test_a_folder_that_does_not_fit_is_refused_in_a_line(folders):
    one, words, gpt = (str(folders / name) for name in ("bert_tiny", "words", "gpt_tiny"))
    assert refused(path=None) == "path is not set; expected the path of a folder with config.json and model.safetensors"
    assert refused(path="/nowhere").startswith("path=/nowhere: there is no such folder; expected the path of a folder")
    assert refused(path=one, classes=4) == (
        f"path={one} has 3 classes, but the data has 4; for a new classifier on it set new_classifier=true"
    )
    assert refused(path=one, vocabulary=99) == (
        f"path={one} knows 100 tokens, but the data has 99; expected a folder and data of one tokenizer"
    )
    assert refused(path=one, length=17) == f"path={one} reads 16 tokens at most; type data.length=16"
    assert "holds a BertForMaskedLM, not a sequence classifier; for a new one on it set" in refused(path=words)
    assert "holds a GPT2LMHeadModel, not a sequence classifier" in refused(path=gpt)
    assert "holds a BertForSequenceClassification, not a causal language model" in refused(causal, CAUSAL, path=one)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; save the model there with"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors; save the model there with"),
        (lambda folder: (folder / "config.json").write_text("{"), "its config.json is damaged: "),
        (lambda folder: (folder / "config.json").write_text("[1]"), "its config.json holds no settings"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter; merge it into its model"),
        (lambda folder: changed(folder, model_type="nope"), "transformers knows no model_type nope"),
        (lambda folder: changed(folder, model_type="vit"), "transformers has no sequence classifier of model_type vit"),
        (lambda folder: changed(folder, num_hidden_layers=3), "its weights have no bert.encoder.layer.2."),
        (lambda folder: changed(folder, hidden_size="x"), "its config.json makes no bert: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "its weights cannot be read: "),
        (lambda folder: changed(folder, intermediate_size=8), "its weights cannot be read: "),
        (lambda folder: changed(folder, auto_map={"AutoConfig": "evil.Config"}), "its config.json has auto_map, which"),
        (lambda folder: changed(folder, quantization_config={}), "its config.json has quantization_config, which "),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_in_a_line(folder, damage, said):
    damage(folder)
    assert refused(path=str(folder)).startswith(f"path={folder}: {said}")


def test_weights_that_are_not_finite_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state["classifier.bias"][1] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert refused(path=str(folder)).startswith(f"path={folder}: classifier.bias holds NaN or infinity")


def test_no_pickle_and_no_code_of_a_folder_is_read(folder, monkeypatch):
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a pickle was read"))
    shutil.move(folder / "model.safetensors", folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "evil.py").write_text("raise SystemExit")
    assert "its weights cannot be read" in refused(path=str(folder))


def test_an_attention_that_would_be_fetched_is_not(folder):
    changed(folder, _attn_implementation="someone/kernel", attn_implementation="someone/kernel")
    assert classifier(path=str(folder), **TAKES).config._attn_implementation == "sdpa"


def test_a_run_names_the_key_and_builds_it_without_weights_to_measure_it(folders, monkeypatch):
    path = str(folders / "bert_tiny")
    composed = compose(
        ["model=pretrained_classifier", "teacher=pretrained_classifier", f"teacher.model.path={path}", *DATA]
    )
    with pytest.raises(UsageError, match=r"^model: path is not set; expected the path of a folder"):
        make_network(composed.model)
    assert make_network(composed.teacher.model, "teacher.model").num_labels == 3
    with torch.device("meta"):
        assert next(classifier(path=path, **TAKES).parameters()).device.type == "meta"
    monkeypatch.setattr("os.sysconf", lambda _: 1000)
    with pytest.raises(UsageError, match=r"^teacher.model takes 0 GiB, and this machine has 0 GiB of memory"):
        make_network(composed.teacher.model, "teacher.model")


def test_a_student_that_began_in_a_folder_is_loaded_without_it(folder, tmp_path):
    config = compose(["model=pretrained_classifier", f"model.path={folder}", *DATA])
    model, input = make_network(config.model).eval(), text(6, 2)
    nn.init.normal_(model.classifier.weight)
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    write_student(tmp_path, Described(), portable(config.model))
    shutil.rmtree(folder)
    assert torch.equal(kdlab.load_student(tmp_path)(**input).logits, model(**input).logits)


def test_what_names_no_folder_is_portable_as_it_is():
    config = compose(["model=lora", "model.base=bert_tiny", *DATA]).model
    assert portable(config) == config


@pytest.mark.parametrize("base", ["bert_tiny", "gpt_tiny", "llama_tiny"])
def test_low_rank_updates_and_the_classifier_are_all_that_trains(base):
    pytest.importorskip("peft")
    own, input = network(base), text(6, 2)
    made = network("lora", f"model.base={base}", "model.rank=4")
    torch.testing.assert_close(logits_of(ask(made, input)), logits_of(ask(own, input)))
    trained = {name for name, value in made.named_parameters() if value.requires_grad}
    low = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    assert trained - low == ({"classifier.weight", "classifier.bias"} if base == "bert_tiny" else set())
    assert {4} == {value.shape[0] for name, value in made.named_parameters() if "lora_A" in name}
    logits_of(ask(made.train(), input)).square().sum().backward()
    assert all(value.grad is not None for name, value in made.named_parameters() if name in trained)


def test_low_rank_updates_of_a_folder_are_loaded_without_it(folder, tmp_path):
    pytest.importorskip("peft")
    config = compose(["model=lora", f"model.base.path={folder}", *DATA])
    model, input = make_network(config.model).eval(), text(6, 2)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    write_student(tmp_path, Described(), portable(config.model))
    shutil.rmtree(folder)
    assert torch.equal(kdlab.load_student(tmp_path)(**input).logits, model(**input).logits)


def test_layers_that_peft_does_not_find_are_refused():
    pytest.importorskip("peft")
    with pytest.raises(UsageError, match=r"^model: targets=\['nope'\]: peft finds no such layers in Bert"):
        network("lora", "model.base=bert_tiny", "model.targets=[nope]")
    with pytest.raises(UsageError, match=re.escape("model: targets=None: peft finds no such layers in BiLSTM")):
        network("lora", "model.base=bilstm")
