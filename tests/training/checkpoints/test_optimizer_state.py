import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lit_hour.errors import WeightsError
from lit_hour.training.checkpoints.optimizer_state import (
    allocate_state,
    flatten,
    index_by_number,
    named_state,
    restore,
    restore_groups,
    unflatten,
)


def learner(
    order: tuple[str, ...] = ("second", "first"), width: int = 3
) -> tuple[nn.ModuleDict, AdamW]:
    """Return a model of three layers and its optimizer.

    One layer is frozen. The others have a group each, in another order than in the model.
    """
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, width) for name in ("first", "frozen", "second")})
    groups = [
        {"params": list(model[name].parameters()), "lr": rate, "name": name}
        for rate, name in enumerate(order, 1)
    ]
    return model, AdamW(groups)


def learn(model: nn.ModuleDict, optimizer: AdamW, num_steps: int) -> dict[str, Tensor]:
    for number in range(num_steps):
        inputs = torch.full((2, 3), 1.0 + number)  # (2, 3)
        (model["first"](inputs) + model["second"](inputs)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_named_state_round_trips_to_pytorch_state() -> None:
    model, optimizer = learner()
    learn(model, optimizer, 2)
    state = named_state(model, optimizer)
    assert [group["params"] for group in state["param_groups"]] == [
        ["second.weight", "second.bias"],
        ["first.weight", "first.bias"],
    ]
    assert set(flatten(state)) == {
        f"{layer}.{weight}.{kind}"
        for layer in ("first", "second")
        for weight in ("weight", "bias")
        for kind in ("step", "exp_avg", "exp_avg_sq")
    }
    assert unflatten(flatten(state)) == state["state"]
    expected, found = optimizer.state_dict(), index_by_number(state)
    assert (
        found["param_groups"] == expected["param_groups"]
        and found["state"].keys() == expected["state"].keys()
    )
    for number, kinds in expected["state"].items():
        assert all(
            torch.equal(found["state"][number][kind], tensor) for kind, tensor in kinds.items()
        )


def test_restored_optimizer_continues_identically() -> None:
    model, optimizer = learner()
    weights = learn(model, optimizer, 2)
    optimizer.param_groups[0]["lr"] = 0.5  # the schedule has moved it
    named, by_number = named_state(model, optimizer), optimizer.state_dict()
    twins = [learner() for _ in range(2)]
    for (twin, _), is_named in zip(twins, (True, False), strict=True):
        twin.load_state_dict(weights)
        other = twins[0 if is_named else 1][1]
        if is_named:
            restore_groups(other, named["param_groups"])
            for key, target in allocate_state(twin, other, flatten(named)).items():
                target.copy_(flatten(named)[key])
        else:
            restore(other, by_number)
    expected = learn(model, optimizer, 2)
    for twin, other in twins:
        found = learn(twin, other, 2)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_state_of_another_optimizer_is_refused() -> None:
    model, optimizer = learner()
    learn(model, optimizer, 1)
    state, named = optimizer.state_dict(), flatten(named_state(model, optimizer))
    with pytest.raises(
        WeightsError,
        match=r"has 2 parameters of second, 2 parameters of first; this run's has 2 .*first",
    ):
        restore(learner(("first", "second"))[1], state)
    with pytest.raises(
        WeightsError,
        match=r"exp_avg of parameter 0 has the shape \(3, 3\).* instead of \(4, 3\)",
    ):
        restore(learner(width=4)[1], state)
    with pytest.raises(
        WeightsError,
        match=r"first\.weight\.exp_avg has the shape \(3, 3\).* instead of \(4, 3\)",
    ):
        allocate_state(*learner(width=4), {"first.weight.exp_avg": named["first.weight.exp_avg"]})
    with pytest.raises(
        WeightsError,
        match=r"optimizer state for frozen\.weight, which is frozen in this run",
    ):
        allocate_state(model, optimizer, {"frozen.weight.exp_avg": torch.zeros(3, 3)})
