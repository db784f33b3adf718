import pytest
import torch
from torch import nn

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields, Progress
from kdlab.heads.feature.fitnet import FitNet
from kdlab.heads.response.kd import KD
from kdlab.models.exits import UpToExit
from kdlab.models.resnet import ResNet
from kdlab.modes.byot import BYOT
from kdlab.networks.cost import multiply_accumulates
from kdlab.training.objective import Term
from support.school import Functional, batch, cast, step, taught
from support.toys import Net, Plainest


def resnet():
    return ResNet(classes=10, channels=1, width=0.5, depth=8, filters=[16, 16, 32, 64])


def test_the_loss_is_that_of_the_paper():
    mode = BYOT(cast(resnet), exit_task=0.7)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 0.3 / 9), Term("fitnet", lambda: FitNet(-1), 0.03))
    given = batch(6)
    deepest, *exits = mode(given, Progress())
    z, y = deepest.learner.logits.detach(), given["target"]
    task = torch.nn.functional.cross_entropy(z, y)
    soft = torch.zeros(())
    for lesson in exits:
        s = lesson.learner.logits.detach()
        task = task + 0.7 * torch.nn.functional.cross_entropy(s, y)
        kl = torch.nn.functional.kl_div((s / 3).log_softmax(1), (z / 3).softmax(1), reduction="batchmean")
        soft = soft + 9 * kl
    loss, terms = step(mode, objective, given, Progress(), rate=0.0)
    torch.testing.assert_close(terms[:2], torch.stack((task, soft)))
    torch.testing.assert_close(loss, task + 0.3 * soft / 9 + 0.03 * terms[2])
    assert all(not teacher.logits.requires_grad for lesson in exits for teacher in lesson.teachers)


def test_all_exits_read_one_forward_pass():
    mode = BYOT(cast(resnet), exit_task=0.7)
    taught(mode, Term("kd", lambda: KD(3.0), 1.0), Term("fitnet", lambda: FitNet(-1), 1.0))
    runs = []
    hook = mode.learners[0].register_forward_hook(lambda *_: runs.append(1))
    mode(batch(), Progress())
    hook.remove()
    assert len(runs) == 1


def test_an_exit_knows_what_a_network_knows():
    mode = BYOT(cast(resnet), exit_task=0.7)
    whole = Fields(
        embedding=True, stages="all", preactivations="all", classifier=True, normalisations=True, final_map=True
    )
    mode.listen(dict.fromkeys(mode.edges, (whole, whole)))
    for place, edge in enumerate(mode.edges, start=1):
        assert mode.offers(edge)[0] == whole
        exit, student = mode.examples(edge, batch(2))
        assert len(exit.knowledge.stages) == place + 1 == len(exit.normalisations) == len(exit.layers)
        for ours, theirs in zip(exit.knowledge.stages[:place], student.knowledge.stages, strict=False):
            assert torch.equal(ours, theirs)
        assert exit.knowledge.stage(-1).shape == student.knowledge.stage(-1).shape
        assert torch.equal(exit.knowledge.stage(-1), exit.knowledge.preactivation(-1).relu())
        torch.testing.assert_close(exit.classifier(exit.knowledge.vector()), exit.knowledge.logits)


def test_the_network_hears_what_is_asked_of_it_for_its_exits_and_no_more():
    mode = BYOT(cast(resnet), exit_task=0.7)
    taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    deepest, first, second = mode(batch(), Progress())
    assert [stage is not None for stage in deepest.learner.stages] == [True, True, False]
    assert [stage is not None for stage in first.learner.stages] == [True, True]
    assert [stage is not None for stage in second.learner.stages] == [True, True, True]


@pytest.mark.parametrize("make", [resnet, Net], ids=["resnet", "toy"])
def test_an_exit_stands_alone_with_the_part_of_the_network_that_it_needs(make):
    mode = BYOT(cast(make), exit_task=0.7)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    step(mode, objective, batch(), Progress())
    mode.eval()
    input = batch()["input"]
    said = [lesson.learner.logits for lesson in mode(batch(), Progress())]
    names = [f"exit{place}" for place in range(1, len(said))]
    sizes, costs = [], []
    for name, logits in zip(("student", *names), said, strict=True):
        network = mode.students()[name].eval()
        assert torch.equal(network(input), logits), name
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        costs.append(multiply_accumulates(network, input[:1]))
    assert sizes[1:] == sorted(sizes[1:])
    assert costs[1:] == sorted(costs[1:])
    assert costs[-1] < costs[0]
    for name in names:
        described = dict(mode.describe(name, {"student": {"taps": None}}))
        assert described.pop("_target_") == "kdlab.models.exits.UpToExit"
        rebuilt = UpToExit(**{**described, "network": make()})
        rebuilt.load_state_dict(mode.students()[name].state_dict())
        assert torch.equal(rebuilt.eval()(input), mode.students()[name](input))


def test_a_transformers_exits_work_on_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 16, 8))
            self.embed = nn.Conv2d(1, 8, 2, 2)
            layers = [nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(4)]
            self.blocks = nn.Sequential(*layers)
            self.head = nn.Linear(8, 10)

        def forward(self, input):
            tokens = self.embed(input).flatten(2).transpose(1, 2) + self.position
            return self.head(self.blocks(tokens).mean(1))

    mode = BYOT(cast(Tokens), exit_task=0.7)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    step(mode, objective, batch(), Progress())
    mode.eval()
    said = [lesson.learner.logits for lesson in mode(batch(), Progress())]
    assert len(said) == 4
    for name, logits in zip(("student", "exit1", "exit2", "exit3"), said, strict=True):
        torch.testing.assert_close(mode.students()[name].eval()(batch()["input"]), logits)


def test_a_network_of_one_stage_has_no_exits():
    with pytest.raises(UsageError, match=r"^mode=byot needs a network of two stages or more, but student has 1$"):
        BYOT(cast(Plainest), exit_task=0.7)


def test_of_all_preactivations_those_are_read_that_there_are():
    mode = BYOT(cast(Functional), exit_task=0.7)
    whole = Fields(stages="all", preactivations="all")
    assert mode.observed[0].offers.preactivations == (1,)
    mode.listen(dict.fromkeys(mode.edges, (whole, whole)))
    lessons = mode(batch(), Progress())
    assert [map is not None for map in lessons[0].learner.preactivations] == [False, True]
    assert [map is not None for map in lessons[1].learner.preactivations] == [False, True]
