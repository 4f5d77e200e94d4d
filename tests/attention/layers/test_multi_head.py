import torch
from torch import Tensor

from spangym.attention import MultiHeadAttention


def test_causal_path_equals_a_triangular_mask(x: Tensor):
    torch.manual_seed(0)
    causal, plain = MultiHeadAttention(32, 4, causal=True), MultiHeadAttention(32, 4)
    plain.load_state_dict(causal.state_dict())
    mask = torch.ones(70, 70, dtype=torch.bool).tril()
    torch.testing.assert_close(causal(x), plain(x, mask=mask))
    torch.testing.assert_close(causal(x, key_lengths=torch.full((3,), 70)), causal(x))


def test_gradient_is_right(generator: torch.Generator):
    attention = MultiHeadAttention(8, 2, causal=True).double()
    x = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 6, 6, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: attention(x), (x,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, mask=mask), (x,), fast_mode=True)
