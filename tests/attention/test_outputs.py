import pytest
import torch

from spangym.attention import FocusAttention, IntegratedAttention
from spangym.attention.features import discretize, quality, token_moments, tuple_hash_id
from tests.factories import make_layer


def test_reward_and_states_are_of_the_local_path(generator: torch.Generator):
    output = make_layer().step(torch.randn(3, 70, 32, generator=generator))
    assert torch.equal(output.reward, quality(output.local_output).quality)
    for states, x in ((output.state, output.local_input), (output.next_state, output.local_output)):
        assert states == [tuple_hash_id(each) for each in discretize(token_moments(x)).tolist()]


@pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention])
def test_cache_of_another_batch_or_type_is_an_error(layer_class: type):
    layer, x = make_layer(layer_class, causal=True), torch.zeros(3, 70, 32)
    cache = layer.step(x[:1]).cache
    with pytest.raises(ValueError, match=r"cache .*\(1, 32\).*\(3, 32\)"):
        layer.step(x, cache=cache)
    with pytest.raises(ValueError, match=r"cache .* Tensor"):
        layer.step(x, cache=cache.obs_features)
