import numpy as np
import torch

from spangym.attention import Predictor, RefreshPredictor

from ...conftest import Golden


def test_span_predictor_reproduces_the_original(golden: Golden):
    recorded = golden("predictor")
    predictor = Predictor(24)
    predictor.linear.load_state_dict(
        {name: torch.from_numpy(recorded[name]) for name in ("weight", "bias")}
    )
    with torch.no_grad():
        scale = predictor(torch.from_numpy(recorded["x"]))
    np.testing.assert_allclose(scale, recorded["scale"], rtol=1e-5)


def test_refresh_predictor_can_be_set_to_recompute(generator: torch.Generator):
    predictor = RefreshPredictor(16)
    x = torch.randn(64, 3, 16, generator=generator) * 9
    assert not predictor(x).all()
    predictor.set_always_recompute()
    assert predictor(x).all()
