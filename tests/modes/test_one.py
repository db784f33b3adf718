import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields, Progress
from kdlab.heads.feature.fitnet import FitNet
from kdlab.heads.response.kd import KD
from kdlab.models.branches import Branches
from kdlab.models.resnet import ResNet
from kdlab.models.wrn import WideResNet
from kdlab.modes.one import ONE
from kdlab.training.objective import Term
from support.school import Functional, batch, cast, step, taught
from support.toys import Net


def resnet():
    return ResNet(classes=10, channels=1, width=0.5, depth=8, filters=[16, 16, 32, 64])


def wrn():
    return WideResNet(classes=10, channels=1, width=0.5, depth=10, widen=1)


def calls(module):
    runs = []
    module.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("make", [resnet, wrn, Net], ids=["resnet", "wrn", "toy"])
def test_branches_share_the_trunk_and_say_what_each_would_say_alone(make):
    mode = ONE(cast(make), branches=3)
    taught(mode)
    mode.eval()
    lessons = mode(batch(), Progress())
    assert len(lessons) == 4
    said = [lesson.learner.logits for lesson in lessons]
    for network, logits in zip(mode.learners, said, strict=False):
        assert torch.equal(network(batch()["input"]), logits)
    assert not torch.equal(said[0], said[1])
    ensemble = mode.students()["ensemble"].eval()
    torch.testing.assert_close(ensemble(batch()["input"]), said[3])
    shared = sum(p.numel() for p in mode.learners[0].parameters())
    whole = sum(p.numel() for p in mode.learners.parameters())
    assert whole < 3 * shared


def test_a_step_runs_the_trunk_once_and_moves_its_statistics_once():
    mode = ONE(cast(resnet), branches=3)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    network = mode.learners[0]
    convolutions = [calls(network.layer1[0].conv1), calls(network.layer2[0].conv1)]
    tails = [calls(branch.layer3[0].conv1) for branch in mode.learners]
    step(mode, objective, batch(), Progress())
    assert [len(runs) for runs in (*convolutions, *tails)] == [1, 1, 1, 1, 1]
    assert network.bn1.num_batches_tracked == 1
    assert all("forward" not in vars(module) for module in mode.modules())


def test_the_gradient_of_the_trunk_is_the_sum_over_the_branches():
    mode = ONE(cast(resnet, dtype=torch.float64), branches=2).double()
    objective = taught(mode)
    given = batch(6, dtype=torch.float64)
    loss, _ = step(mode, objective, given, Progress(), rate=0.0)
    ours = [parameter.grad.clone() for parameter in mode.learners[0].layer1.parameters()]
    alone = [branch(given["input"]) for branch in mode.learners]
    stage = torch.nn.Sequential(*[*mode.learners[0]][:5])(given["input"])
    said = [*alone, mode.gate(stage, alone)]
    total = sum(torch.nn.functional.cross_entropy(logits, given["target"]) for logits in said)
    torch.testing.assert_close(loss, total.detach())
    theirs = torch.autograd.grad(total, list(mode.learners[0].layer1.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_loss_is_that_of_the_paper():
    mode = ONE(cast(resnet), branches=3)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    given = batch(6)
    *branches, ensemble = [lesson.learner.logits.detach() for lesson in mode(given, Progress())]
    y = given["target"]
    task = sum(torch.nn.functional.cross_entropy(z, y) for z in (*branches, ensemble))
    kl = sum(
        9 * torch.nn.functional.kl_div((z / 3).log_softmax(1), (ensemble / 3).softmax(1), reduction="batchmean")
        for z in branches
    )
    _, terms = step(mode, objective, given, Progress(), rate=0.0)
    torch.testing.assert_close(terms, torch.stack((task, kl)))


def test_a_branch_knows_the_trunks_stages_and_its_own():
    mode = ONE(cast(resnet), branches=2)
    whole = Fields(embedding=True, stages="all", preactivations="all", classifier=True, normalisations=True)
    edges = [edge for edge in mode.edges if "feature" in edge.kinds]
    assert [edge.name for edge in edges] == ["student-peer1", "peer1-student"]
    mode.listen(dict.fromkeys(edges, (whole, whole)))
    lessons = mode(batch(), Progress())
    student, peer = (lesson.learner for lesson in lessons[:2])
    for place in (0, 1):
        assert torch.equal(student.stage(place), peer.stage(place))
        assert torch.equal(student.preactivation(place), peer.preactivation(place))
    assert not torch.equal(student.stage(2), peer.stage(2))
    ours, theirs = mode.examples(edges[1], batch(2))
    assert all(stage is not None for side in (ours, theirs) for stage in side.knowledge.stages)
    torch.testing.assert_close(ours.classifier(ours.knowledge.vector()), ours.knowledge.logits)


def test_response_heads_hear_the_ensemble_and_feature_heads_each_branch():
    mode = ONE(cast(resnet), branches=3)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0), Term("fitnet", lambda: FitNet(-1), 1.0))
    assert [placed.edge.name for placed in objective.placed("kd")] == [
        "student-ensemble", "peer1-ensemble", "peer2-ensemble"
    ]  # fmt: skip
    assert len(objective.placed("fitnet")) == 6
    step(mode, objective, batch(), Progress())


def test_the_ensemble_is_rebuilt_from_its_config():
    mode = ONE(cast(resnet), branches=2)
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    step(mode, objective, batch(), Progress())
    described = mode.describe("ensemble", {"student": {"taps": None}, "peer1": {}})
    assert described.pop("_target_") == "kdlab.models.branches.Branches"
    rebuilt = Branches(**{**described, "networks": [resnet(), resnet()]})
    ensemble = mode.students()["ensemble"].eval()
    rebuilt.load_state_dict(ensemble.state_dict())
    assert torch.equal(rebuilt.eval()(batch()["input"]), ensemble(batch()["input"]))


def test_one_branch_is_none():
    with pytest.raises(UsageError, match=r"^mode.branches=1: expected 2 or more, such as 3$"):
        ONE(cast(resnet), branches=1)


def test_of_all_preactivations_those_are_read_that_there_are():
    mode = ONE(cast(Functional), branches=2)
    whole = Fields(stages="all", preactivations="all")
    assert mode.observed[0].offers.preactivations == (1,)
    mode.listen(dict.fromkeys([edge for edge in mode.edges if "feature" in edge.kinds], (whole, whole)))
    lessons = mode(batch(), Progress())
    assert [map is not None for map in lessons[0].learner.preactivations] == [False, True]
    assert [map is not None for map in lessons[1].learner.preactivations] == [False, True]
