"""Matrix products by oneDNN: the same values and the same gradients."""

import copy

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from torch import nn

from alignbench.models.onednn import choose_products, fastest_products, products_of, use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


def layers(bias=True):
    """A linear layer of torch, and a copy that uses oneDNN."""
    torch.manual_seed(0)
    own = nn.Linear(48, 30, bias=bias)
    ours = copy.deepcopy(own)
    assert use_onednn(ours)
    return own, ours


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt"])
def test_log_probabilities_and_gradients_of_a_model_are_those_of_fp64(architecture):
    found = []
    for dtype in (torch.float64, torch.float32):
        model = tiny_model(architecture, tiny_tokenizer(), dtype=dtype)
        assert use_onednn(model) == (dtype == torch.float32)
        logprobs = torch.log_softmax(model(torch.arange(3, 40)[None]).logits, -1)
        logprobs[0, :, 5].sum().backward()
        found.append((logprobs.double(), {name: p.grad.double() for name, p in model.named_parameters()}))
    (logprobs, expected), (ours, grads) = found
    assert torch.allclose(ours, logprobs, rtol=0, atol=1e-4)
    largest = max(float(grad.abs().max()) for grad in expected.values())  # the exact gradient of some biases is 0
    for name, grad in expected.items():
        assert torch.allclose(grads[name], grad, rtol=1e-3, atol=1e-6 * largest), name


# the last ones are not contiguous
@pytest.mark.parametrize(
    "start", [torch.randn(7, 48), torch.randn(2, 5, 48), torch.randn(48, 9).t(), torch.randn(1, 48).expand(6, 48)]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("input",), ("bias",), ("weight", "bias")])
def test_gradients_are_those_of_torchs_own_product(start, bias, frozen):
    found = []
    for layer in layers(bias):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name not in frozen)
        rows = start.detach().requires_grad_("input" not in frozen)
        product = layer(rows)
        product.transpose(0, -1).cumsum(0).sum().backward()  # a transposed gradient
        layer(rows).sum().backward()  # a gradient that is one number, repeated
        found.append({"product": product, "input": rows.grad} | {n: p.grad for n, p in layer.named_parameters()})
    for name, expected in found[0].items():
        assert (found[1][name] is None) == (expected is None) == (name in frozen), name
        if expected is not None:
            assert found[1][name].shape == expected.shape
            assert torch.allclose(found[1][name], expected, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_autocast_other_dtypes_and_other_devices_use_torchs_own_product(dtype, monkeypatch):
    layer = nn.Linear(8, 8).to(dtype)
    assert (use_onednn(layer), "forward" in vars(layer)) == (False, False)
    own, ours = (layer.to(dtype) for layer in layers())
    rows = torch.randn(4, 48, dtype=dtype)
    assert torch.equal(ours(rows), own(rows))
    own, ours = layers()
    with torch.autocast("cpu", torch.bfloat16):
        products = [layer(rows.float()) for layer in (own, ours)]
        for product in products:
            product.float().sum().backward()
    assert products[1].dtype == torch.bfloat16
    assert torch.equal(products[1], products[0])
    assert torch.equal(ours.weight.grad, own.weight.grad)
    # as every model is that is loaded before it is moved to a GPU
    monkeypatch.setattr("alignbench.models.onednn._multiply", lambda *_: pytest.fail("a CPU's product"))
    with pytest.raises(pytest.fail.Exception):
        ours(torch.randn(4, 48))
    assert ours.to("meta")(torch.randn(4, 48, device="meta")).shape == (4, 30)


def test_the_faster_products_are_measured_once_for_a_machine_and_may_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fastest_products.cache_clear()
    found = fastest_products()
    (file,) = (tmp_path / "alignbench").iterdir()
    assert file.read_text() == found in ("onednn", "torch")
    model = tiny_model("llama", tiny_tokenizer())
    for kept in ("torch", "onednn"):
        file.write_text(kept)
        fastest_products.cache_clear()
        choose_products(model)
        assert products_of(model) == kept
    choose_products(model, "torch")  # as the run to resume
    assert products_of(model) == "torch"
    half = tiny_model("llama", tiny_tokenizer(), dtype=torch.bfloat16)
    choose_products(half, "onednn")
    assert products_of(half) == "torch"
    fastest_products.cache_clear()
