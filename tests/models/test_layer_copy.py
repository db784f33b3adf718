"""A student that starts from some of its teacher's layers."""

import pytest
import torch
from torch import nn

from kdlab.core.errors import UsageError
from kdlab.core.reading import ask, logits_of
from kdlab.models.layer_copy import copy_layers
from support.text_models import network, text

pytest.importorskip("transformers")


def teacher(option="bert_tiny", layers=6):
    made = network(option, f"model.layers={layers}")
    for value in made.parameters():
        nn.init.normal_(value, std=0.1)
    return made


def test_a_student_has_the_chosen_blocks_and_all_that_is_outside_them():
    taught, student = teacher(), network("bert_tiny", "model.layers=3")
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    copy_layers(student, taught, [0, 2, 5])
    assert torch.equal(student.classifier.weight, taught.classifier.weight)
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, taught.bert.embeddings.word_embeddings.weight)
    for place, layer in enumerate([0, 2, 5]):
        ours, theirs = student.bert.encoder.layer[place], taught.bert.encoder.layer[layer]
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())
    assert student.classifier.weight.data_ptr() != taught.classifier.weight.data_ptr()


@pytest.mark.parametrize("option", ["bert_tiny", "gpt_tiny", "llama_tiny"])
def test_a_student_of_all_layers_is_its_teacher(option):
    taught, student, input = teacher(option, 3), network(option, "model.layers=3"), text(6, 3)
    assert not torch.allclose(logits_of(ask(student, input)), logits_of(ask(taught, input)))
    copy_layers(student, taught, [0, 1, 2])
    assert torch.equal(logits_of(ask(student, input)), logits_of(ask(taught, input)))


@pytest.mark.parametrize("option", ["bert_tiny", "gpt_tiny"])
def test_a_student_of_shorter_texts_takes_the_first_positions(option):
    taught, input = network(option, "model.length=40", "model.layers=3"), text(6, 3)
    student = network(option, "model.layers=3")
    nn.init.normal_(next(value for name, value in taught.named_parameters() if "position" in name or "wpe" in name))
    copy_layers(student, taught, [0, 1, 2])
    assert torch.equal(logits_of(ask(student, input)), logits_of(ask(taught, input)))
    with pytest.raises(UsageError, match=r"is \[40, .*, but the teacher's .* is \[16, .*; expected the same shape"):
        copy_layers(taught, student, [0, 1, 2])


def test_a_teacher_without_its_last_layers_is_a_student_of_its_first():
    taught, student, input = teacher("gpt_tiny", 3), network("gpt_tiny", "model.layers=2"), text(6, 3)
    copy_layers(student, taught, [0, 2])
    del taught.transformer.h[1]
    assert torch.equal(logits_of(ask(student, input)), logits_of(ask(taught, input)))


@pytest.mark.parametrize(
    ("option", "overrides", "layers", "said"),
    [
        ("bert_tiny", (), [0], "from_teacher=[0]: expected 2 layers, one for each of the student's, from 0 to 5"),
        ("bert_tiny", (), [0, 6], "from_teacher=[0, 6]: expected 2 layers, one for each of the student's, from 0 to 5"),
        ("bert_tiny", (), [-1, 0], "from_teacher=[-1, 0]: expected 2 layers"),
        ("bert_tiny", (), [True, 0], "from_teacher=[True, 0]: expected 2 layers"),
        ("bert_tiny", ("model.width=0.5",), [0, 1],
         "from_teacher=[0, 1]: bert.embeddings.word_embeddings.weight is [100, 64], but the teacher's "
         "bert.embeddings.word_embeddings.weight is [100, 128]; expected the same shape"),
        ("bert_tiny", ("data.classes=4",), [0, 1],
         "from_teacher=[0, 1]: classifier.weight is [4, 128], but the teacher's classifier.weight is [3, 128]; "),
        ("gpt_tiny", (), [0, 1],
         "from_teacher=[0, 1]: the student's blocks are GPT2Block, the teacher's BertLayer; expected networks of one "),
        ("bag", (), [0, 1], "from_teacher: the student, BagOfEmbeddings, has no list of blocks of one class"),
    ],
)  # fmt: skip
def test_a_student_that_cannot_have_the_layers_is_refused(option, overrides, layers, said):
    student = network(option, *overrides)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(UsageError) as found:
        copy_layers(student, teacher(), layers)
    assert str(found.value).startswith(said)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
