from typing import Any

import pytest

from spangym.attention import SpanConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"win_size": 0}, "win_size must be"),
        ({"max_span": 100}, "max_span .* win_size, got 100, win_size=256"),
        ({"max_dist": 100}, "max_dist .* win_size, got 100, win_size=256"),
        ({"temp_scale": -1.0}, "temp_scale .* -1.0"),
        ({"temp_scale": float("inf")}, "temp_scale .* inf"),
        ({"soft_edge_width": 0}, "soft_edge_width"),
        ({"num_refinement_steps": 0}, "num_refinement_steps .* 0"),
        ({"num_refinement_steps": 1.5}, "num_refinement_steps .* integer, got 1.5"),
        ({"temperature_law": "legcy"}, "temperature_law .* 'legacy'"),
        ({"temperature_law": 3}, "temperature_law .* string, got 3"),
        ({"action_scale": "relativ"}, "action_scale .* 'relative'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        SpanConfig(**options)
