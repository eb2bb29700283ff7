"""The rows of data, and that they are the published networks."""

from dataclasses import FrozenInstanceError

import pytest
from golden import load

from pyconv import get_model, list_models
from pyconv.architectures import ARCHITECTURES


def test_the_zoo_is_what_is_published_and_the_sample() -> None:
    assert set(list_models()) == {*load("state_dict_manifest"), "pyconvresnet_tiny"}


@pytest.mark.parametrize("name", load("state_dict_manifest"))
def test_state_dict_is_the_published_one_in_order(name: str) -> None:
    state = get_model(name).state_dict()
    layout = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()]
    assert layout == load("state_dict_manifest")[name]


def test_rows_are_data_that_nobody_changes_by_accident() -> None:
    row = ARCHITECTURES["pyconvresnet50"]
    with pytest.raises(FrozenInstanceError):
        row.expansion = 2  # type: ignore[misc]
    assert hash(row) != hash(ARCHITECTURES["resnet50"])


def test_every_stage_has_as_many_groups_as_kernels() -> None:
    for name, row in ARCHITECTURES.items():
        assert len(row.stages) == 4, name
        for stage in row.stages:
            assert len(stage.kernels) == len(stage.groups), name
