import numpy as np
import torch

from spangym.attention import Predictor

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
