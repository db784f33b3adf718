import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Knowledge
from kdlab.heads.feature.srrl import SRRL, srrl_loss
from support.feature_examples import LESSON, PROGRESS, example, fill, wave

CONTEXT = Context(classes=5, samples=10)


def teacher(embedding: Tensor) -> Example:
    """A teacher by its embedding, with a classifier made of waves."""
    classifier = nn.Linear(embedding.shape[1], 5).double()
    fill(classifier)
    return Example(Knowledge(classifier(embedding).detach(), embedding), classifier, name="teacher")


def pair() -> tuple[Example, Example]:
    return example(wave(4, 3, 8, 8), name="student"), teacher(wave(4, 6, 4, 4, step=0.91).mean((2, 3)))


def built(ours: Example, theirs: Example, matching: float = 1.0, regression: float = 1.0) -> SRRL:
    head = SRRL(matching_weight=matching, regression_weight=regression)
    head.build(ours, theirs, CONTEXT)
    fill(head.double())
    return head


def ask(head: SRRL, ours: Example, theirs: Example) -> Tensor:
    return head(ours.knowledge, theirs.knowledge, LESSON, PROGRESS)


@pytest.mark.parametrize(
    ("batch", "features", "classes", "biased"), [(3, 4, 5, True), (1, 6, 2, False), (2, 1, 3, True)]
)
def test_the_loss_is_the_equation_written_out(batch: int, features: int, classes: int, biased: bool) -> None:
    mapped, embedding = wave(batch, features), wave(batch, features, step=0.91)
    logits, weight = wave(batch, classes, phase=1), wave(classes, features, step=0.73)
    bias = wave(classes, phase=2) if biased else None
    matching = regression = 0.0
    for n in range(batch):
        matching += sum(float(mapped[n, d] - embedding[n, d]) ** 2 for d in range(features)) / (batch * features)
        for c in range(classes):
            answer = sum(float(weight[c, d] * mapped[n, d]) for d in range(features)) + (
                float(bias[c]) if biased else 0
            )
            regression += (answer - float(logits[n, c])) ** 2 / (batch * classes)
    value = srrl_loss(mapped, embedding, logits, weight, bias, matching_weight=2.0, regression_weight=0.5)
    assert value.item() == pytest.approx(2 * matching + 0.5 * regression, rel=1e-12)


@pytest.mark.parametrize(
    ("matching", "regression", "value"),
    [(1.0, 0.0, 0.02530725506137686), (0.0, 1.0, 0.0032515600823555513), (1.0, 1.0, 0.02855881514373241)],
)
def test_the_head_gives_what_the_authors_code_gives(matching: float, regression: float, value: float) -> None:
    # jingyang2017/KD_SRRL, commit e3ca8ca4: transfer_conv and statm_loss of distiller_zoo/AIN.py, then the pooling
    # and fc of models/official_resnet.py and a mean squared error, as in train_imagenet_distillation.py.
    ours, theirs = pair()
    assert ask(built(ours, theirs, matching, regression), ours, theirs).item() == pytest.approx(value, rel=1e-9)


def test_features_that_are_the_teachers_cost_nothing() -> None:
    theirs = teacher(wave(4, 6))
    loss = srrl_loss(
        theirs.knowledge.vector(),
        theirs.knowledge.vector(),
        theirs.knowledge.logits,
        theirs.classifier.weight,
        theirs.classifier.bias,
        matching_weight=1.0,
        regression_weight=1.0,
    )
    assert loss.item() == pytest.approx(0, abs=1e-30)


def test_the_teachers_classifier_is_read_as_it_stands_and_never_learns() -> None:
    ours, theirs = pair()
    head = built(ours, theirs)
    before = ask(head, ours, theirs)
    before.backward()
    assert theirs.classifier.weight.grad is None
    with torch.no_grad():
        theirs.classifier.weight.mul_(2)  # a peer that goes on training
    assert ask(head, ours, theirs).item() != pytest.approx(before.item())


def test_the_connector_alone_is_saved_and_trained() -> None:
    head = built(*pair())
    assert {name for name, _ in head.named_parameters()} == {
        "connector.conv.weight",
        "connector.norm.weight",
        "connector.norm.bias",
    }
    assert all(name.startswith("connector.") for name in head.state_dict())


def test_a_teacher_without_a_bias_is_read() -> None:
    ours, theirs = pair()
    plain = nn.Linear(6, 5, bias=False).double()
    plain.weight.data.copy_(theirs.classifier.weight)
    logits = theirs.knowledge.logits - theirs.classifier.bias.detach()
    bare = Example(Knowledge(logits, theirs.knowledge.embedding), plain)
    value = ask(built(ours, theirs), ours, theirs).item()  # both sides lose the same bias
    assert ask(built(ours, bare), ours, bare).item() == pytest.approx(value, rel=1e-12)


def test_embeddings_that_are_not_one_per_sample_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"student layer1 gives \(4, 3, 8, 8\), and teacher the embedding \(12, 6\)"):
        built(example(wave(4, 3, 8, 8), name="student"), teacher(wave(12, 6)))
