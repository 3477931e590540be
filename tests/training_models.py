"""Tiny classifiers, and stock models in float64, one response at a time: the reference for packed rows."""

from __future__ import annotations

import copy

import torch
import transformers
from tiny import tiny_model

from trainers.config import StageConfig
from trainers.loop import make_accelerator


def an_accelerator(tmp_path_factory):
    """An accelerator of one process on the CPU, without trackers; a module-scoped fixture of several test files."""
    return make_accelerator(StageConfig(out=str(tmp_path_factory.mktemp("trackers")), trackers=(), cpu=True))


def tiny_classifier(architecture, tokenizer, **overrides):
    """A sequence classifier with one label over the weights of `tiny_model`, with a head that is not near zero."""
    causal = tiny_model(architecture, tokenizer, **overrides)
    causal.config.num_labels = 1
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(overrides.get("seed", 0) + 1)
        model = transformers.AutoModelForSequenceClassification.from_config(causal.config)
        getattr(model, model.base_model_prefix).load_state_dict(causal.base_model.state_dict())
        torch.nn.init.normal_(model.score.weight, std=0.5)
    return model.eval()


def exact(model):
    """A copy of the model in float64."""
    return copy.deepcopy(model).double()


def logprobs_alone(model, prompt, response, temperature=1.0):
    """(tokens,) of one response after its prompt, from a stock forward of the two alone."""
    logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(response)[:, None])[:, 0]


def score_alone(classifier, prompt, response):
    """The score at the last token of prompt and response, from a stock forward of the two alone."""
    backbone = getattr(classifier, classifier.base_model_prefix)
    states = backbone(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state
    return classifier.score(states[0, -1])[0]


def gradients(module, loss):
    """Gradients of all parameters that the loss depends on, by name."""
    module.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_same_gradients(found, expected, tolerance=1e-5):
    """Each parameter's gradient is within `tolerance` of the largest entry of the expected one."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        worst = float((found[name] - gradient).abs().max())
        assert worst <= tolerance * max(1.0, float(gradient.abs().max())), name
