"""Matrix products by oneDNN: the same numbers, and the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from torch import nn

from alignbench.models.onednn import use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_as_near_to_fp64_as_torchs_own(bias):
    torch.manual_seed(0)
    layer = nn.Linear(576, 300, bias=bias)
    rows = torch.randn(2, 50, 576)
    exact = layer.double()(rows.double()).detach()
    layer.float()
    with torch.inference_mode():
        own = layer(rows)
        assert use_onednn(layer)
        found = layer(rows)
    assert found.shape == own.shape
    assert float((found - exact).abs().mean()) < 3 * float((own - exact).abs().mean())


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt"])
def test_a_models_log_probabilities_stay_what_they_were(architecture):
    model = tiny_model(architecture, tiny_tokenizer())
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = torch.log_softmax(model(tokens).logits, -1)
        assert use_onednn(model)
        after = torch.log_softmax(model(tokens).logits, -1)
    assert torch.allclose(before, after, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_formats_are_left_alone(dtype):
    layer = nn.Linear(8, 8).to(dtype)
    assert not use_onednn(layer)
    assert "forward" not in vars(layer)


def layers(bias=True):
    """A linear layer as torch has it, and the same by oneDNN."""
    torch.manual_seed(0)
    own = nn.Linear(48, 30, bias=bias)
    ours = copy.deepcopy(own)
    assert use_onednn(ours)
    return own, ours


@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (1, 1, 48)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("input",), ("bias",), ("weight", "bias")])
def test_gradients_are_those_of_torchs_own_product(shape, bias, frozen):
    found = []
    start, slope = torch.randn(shape), torch.randn(*shape[:-1], 30)
    for layer in layers(bias):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name not in frozen)
        rows = start.clone().requires_grad_("input" not in frozen)
        product = layer(rows)
        assert product.shape == slope.shape
        (product * slope).sum().backward()
        found.append({"product": product, "input": rows.grad} | {n: p.grad for n, p in layer.named_parameters()})
    for name, expected in found[0].items():
        assert (found[1][name] is None) == (expected is None) == (name in frozen), name
        if expected is not None:
            assert torch.allclose(found[1][name], expected, rtol=1e-5, atol=1e-5), name


def test_gradients_of_turned_and_repeated_rows_are_those_of_torchs_own_product():
    turned, repeated = torch.randn(48, 9).t(), torch.randn(1, 48).expand(6, 48)
    for rows in (turned, repeated):
        grads = []
        for layer in layers():
            layer(rows).t().cumsum(0).sum().backward()  # the gradient that comes back is turned as well
            layer(rows).sum().backward()  # and here it is one number, repeated
            grads.append(layer.weight.grad)
        assert torch.allclose(grads[1], grads[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_models_gradients_stay_what_they_were(architecture):
    grads = []
    for by_onednn in (False, True):
        model = tiny_model(architecture, tiny_tokenizer())
        assert not by_onednn or use_onednn(model)
        torch.log_softmax(model(torch.arange(3, 40)[None]).logits, -1)[0, :, 5].sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in grads[0].items():
        assert torch.allclose(grads[1][name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())), name


def test_it_steps_aside_under_autocast():
    own, ours = layers()
    rows = torch.randn(4, 48)
    products = []
    with torch.autocast("cpu", torch.bfloat16):
        for layer in (own, ours):
            products.append(layer(rows))
            products[-1].float().sum().backward()
    assert products[1].dtype == torch.bfloat16
    assert torch.equal(products[1], products[0])
    assert torch.equal(ours.weight.grad, own.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_steps_aside_once_the_layer_has_another_format(dtype):
    own, ours = (layer.to(dtype) for layer in layers())
    rows = torch.randn(4, 48, dtype=dtype)
    assert torch.equal(ours(rows), own(rows))


def test_it_steps_aside_once_the_layer_has_left_the_cpu(monkeypatch):
    """As every model does that is loaded before it goes to the GPU."""

    def never(*arguments):
        raise AssertionError("a CPU's product for another device")

    _, ours = layers()
    monkeypatch.setattr("alignbench.models.onednn._multiply", never)
    with pytest.raises(AssertionError, match="another device"):
        ours(torch.randn(4, 48))
    assert ours.to("meta")(torch.randn(4, 48, device="meta")).shape == (4, 30)


def test_a_gradient_of_a_gradient_raises():
    _, ours = layers()
    rows = torch.randn(4, 48, requires_grad=True)
    (slope,) = torch.autograd.grad((ours(rows) ** 2).sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
