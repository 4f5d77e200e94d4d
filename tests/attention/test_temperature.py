import pytest
import torch

from spangym.attention.temperature import TemperatureLaw, temperature


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("longer", [1.2, 1.1, 1.0]),
        ("shorter", [0.5, 0.6, 0.7]),
        ("legacy", [1.0, 0.9, 0.8]),
        ("legacy_unscaled", [1.0, 0.5, 0.01]),
        ("none", [1.0, 1.0, 1.0]),
    ],
)
def test_laws(law: TemperatureLaw, expected: list[float]):
    scale = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(temperature(scale, law, 0.2), torch.tensor(expected))


def test_a_learned_temperature_is_no_law():
    with pytest.raises(ValueError, match="learned temperature is a parameter"):
        temperature(torch.ones(2), "learned", 0.2)
