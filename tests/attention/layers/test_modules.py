import numpy as np
import torch

from spangym.attention import Predictor
from spangym.attention.layers.modules import BatchInvariantSigmoid

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


def test_sigmoids_are_the_same_in_every_batch():
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([BatchInvariantSigmoid()(row) for row in x.split(1)])
    for batch in (1, 7, 31, 32, 33, 64, 200):
        assert torch.equal(BatchInvariantSigmoid()(x[:batch]), alone[:batch])
    torch.testing.assert_close(alone, torch.sigmoid(x))
