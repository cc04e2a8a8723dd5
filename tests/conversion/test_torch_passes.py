"""What torch makes of a converted model: the same as of its own layers, or a clear error."""

import copy

import pytest
import torch
from conversion_models import is_fused, pair, rows, small_resnet
from support import seeded
from torch import Tensor, nn
from torch.nn.utils import fusion

import makemore_ext as mx

# Python's autograd Functions refuse functionalize.
needs_native = pytest.mark.skipif(
    mx.build_info()["autograd"] != "native", reason="native autograd alone has it"
)


def converted(model: nn.Module) -> nn.Module:
    return mx.convert(model, fuse_activations=True)


def conv_pair() -> nn.Sequential:
    torch.manual_seed(seeded().initial_seed())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 6, 6, generator=seeded(4))


# ---- SyncBatchNorm ----


def test_sync_batch_norm_keeps_the_activation():
    model, expected = (
        nn.SyncBatchNorm.convert_sync_batchnorm(m.eval()) for m in (converted(pair()), pair())
    )
    assert type(model[1]) is nn.SyncBatchNorm
    torch.testing.assert_close(model(rows()), expected(rows()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"correction": 1}, r"correction: that of BatchNorm1d 0\.1 must be 0, got 1"),
        ({"activation": "tanh"}, r"activation: that of BatchNorm1d 0\.1 must be None, got 'tanh'"),
    ],
)
def test_sync_batch_norm_refuses_what_it_has_not(options, words):
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4), mx.BatchNorm1d(4, **options)))
    with pytest.raises(ValueError, match=words):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(layer) for layer in model[0]] == [nn.BatchNorm1d, mx.BatchNorm1d]


# ---- a batch norm folded into the layer before it ----

FOLDS = {
    "conv": (fusion.fuse_conv_bn_eval, conv_pair, images),
    "conv, by torch.nn.utils": (torch.nn.utils.fuse_conv_bn_eval, conv_pair, images),
    "linear": (fusion.fuse_linear_bn_eval, pair, rows),
}
folds = pytest.mark.parametrize(("fold", "build", "draw"), FOLDS.values(), ids=FOLDS)


@folds
@pytest.mark.parametrize("correction", [0, 1])
def test_folding_gives_torchs_numbers(fold, build, draw, correction):
    """In evaluation `correction` has no effect."""
    expected = build().eval()
    model = converted(build()).eval()
    model[1].correction = correction
    folded = fold(model[0], model[1])
    torch.testing.assert_close(model[2](folded(draw())), expected(draw()))


@folds
def test_folding_keeps_the_activation(fold, build, draw):
    """The layer folded and torch.nn.Identity in its place, as is usual."""
    expected = build().eval()
    model = converted(build()).eval()
    model[0], model[1] = fold(model[0], model[1]), nn.Identity()
    torch.testing.assert_close(model(draw()), expected(draw()))


@folds
def test_folding_refuses_to_lose_an_activation(fold, build, draw):
    model = converted(build()).eval()
    model[1].activation = "relu"
    with pytest.raises(ValueError, match=r"\(the module itself\) must be None, got 'relu'"):
        fold(model[0], bn=model[1])


# ---- torch.fx ----


def nodes(traced: torch.fx.GraphModule) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in traced.graph.nodes]


@pytest.mark.parametrize("build", [pair, small_resnet], ids=["pair", "ResNet"])
def test_the_graph_of_a_symbolic_trace_is_torchs(build):
    expected = torch.fx.symbolic_trace(build())
    traced = torch.fx.symbolic_trace(converted(build()))
    assert nodes(traced) == nodes(expected)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_traced_model_trains_and_evaluates(momentum):
    """The mode and the count of batches are no constants of the graph."""
    results = []
    for convert in (False, True):
        model = pair()
        model[1].momentum = momentum
        traced = torch.fx.symbolic_trace(converted(model) if convert else model)
        outputs = [traced(rows(seed=seed)) for seed in range(3)]
        traced.eval()
        results.append([*outputs, traced(rows(seed=3)), traced.state_dict()])
    torch.testing.assert_close(results[1][:-1], results[0][:-1])
    torch.testing.assert_close(dict(results[1][-1]), dict(results[0][-1]))


def test_a_layer_with_keywords_is_traced_as_a_layer():
    layer = mx.BatchNorm1d(4, correction=1, activation="tanh")
    model = nn.Sequential(layer)
    traced = torch.fx.symbolic_trace(model)
    assert traced.get_submodule("0") is layer
    torch.testing.assert_close(traced(rows()), model(rows()))


def test_a_loss_is_traced_as_a_layer():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss(torch.ones(4))

        def forward(self, input, target):
            return self.loss(input, target)

    expected = torch.fx.symbolic_trace(Model())
    traced = torch.fx.symbolic_trace(mx.convert(Model()))
    assert nodes(traced) == nodes(expected)
    target = torch.arange(6) % 4
    torch.testing.assert_close(traced(rows(), target), expected(rows(), target))


def test_a_batch_norm_alone_is_not_traced_as_torchs_is_not():
    for layer in (nn.BatchNorm1d(4), mx.BatchNorm1d(4)):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(layer)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("build", [conv_pair, small_resnet], ids=["pair", "ResNet"])
def test_fuse_of_torch_fx(build):
    from torch.fx.experimental import optimization

    model = build().eval()
    expected = optimization.fuse(copy.deepcopy(model))
    fused = optimization.fuse(converted(model))
    torch.testing.assert_close(fused(images()), expected(images()), rtol=1e-4, atol=1e-5)


# ---- eager quantization ----


def quantizable() -> nn.Module:
    model = nn.Sequential(
        torch.ao.quantization.QuantStub(), *conv_pair(), torch.ao.quantization.DeQuantStub()
    )
    model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    return model


quantization = pytest.mark.filterwarnings("ignore")  # torch's own, deprecations among them


@quantization
def test_fuse_modules_refuses_what_it_does_not_know():
    model = converted(quantizable()).eval()
    with pytest.raises(AssertionError, match=r"did not find .*makemore_ext.*BatchNorm2d"):
        torch.ao.quantization.fuse_modules(model, ["1", "2", "3"])
    fused = torch.ao.quantization.fuse_modules(mx.revert(model), ["1", "2", "3"])
    assert isinstance(fused[2], nn.Identity)


@quantization
def test_eager_quantization():
    """A batch norm of ours in the quantized part is an error when it runs, as nothing serves it."""
    model = torch.ao.quantization.prepare(converted(quantizable()).eval())
    model(images())
    quantized = torch.ao.quantization.convert(model)
    with pytest.raises(
        NotImplementedError,
        match=r"input must not be quantized, got torch\.quint8: makemore_ext\.revert\(\) makes",
    ):
        quantized(images())


@quantization
def test_eager_quantization_after_revert():
    results = []
    for convert in (False, True):
        model = quantizable().eval()
        if convert:
            mx.revert(converted(model))
        model = torch.ao.quantization.fuse_modules(model, ["1", "2", "3"])
        model = torch.ao.quantization.prepare(model)
        model(images())
        results.append(torch.ao.quantization.convert(model)(images()))
    assert torch.equal(*results)


@quantization
def test_fx_quantization():
    """Within a twentieth of the range of the float model's output."""
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    mapping = get_default_qconfig_mapping("fbgemm")
    model, expected = converted(conv_pair()).eval(), conv_pair().eval()(images())
    prepared = quantize_fx.prepare_fx(model, mapping, (images(),))
    torch.testing.assert_close(prepared(images()), expected)
    quantized = quantize_fx.convert_fx(prepared)(images())
    torch.testing.assert_close(quantized, expected, rtol=0, atol=expected.max().item() / 20)


# ---- other ways through a model ----


@pytest.mark.filterwarnings("ignore:.* should not be instantiated", "ignore::FutureWarning")
@pytest.mark.parametrize("strict", [True, False])
def test_export(strict):
    model, expected = converted(conv_pair()).eval(), conv_pair().eval()
    program = torch.export.export(model, (images(),), strict=strict)
    torch.testing.assert_close(program.module()(images()), expected(images()))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("training", [True, False])
def test_jit_trace(training):
    model = converted(conv_pair()).train(training)
    expected = conv_pair().train(training)
    traced = torch.jit.trace(model, images(), check_trace=False)
    model.load_state_dict(conv_pair().state_dict())
    torch.testing.assert_close(traced(images()), expected(images()))
    torch.testing.assert_close(dict(traced.state_dict()), dict(expected.state_dict()))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_jit_trace_of_a_loss():
    results = []
    for loss in (nn.CrossEntropyLoss(), mx.convert(nn.CrossEntropyLoss())):
        input, target = rows().requires_grad_(), torch.arange(6) % 4
        traced = torch.jit.trace(loss, (rows(seed=2), target), check_trace=False)
        output = traced(input, target)
        output.backward()
        results.append((output, input.grad))
    torch.testing.assert_close(*results)


@needs_native
@pytest.mark.parametrize("training", [True, False])
def test_functionalize(training):
    model, expected = converted(conv_pair()).train(training), conv_pair().train(training)
    results = (torch.func.functionalize(lambda x, m=m: m(x))(images()) for m in (model, expected))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()))


@pytest.mark.parametrize("training", [True, False])
def test_functional_call(training):
    model, expected = converted(pair()).train(training), pair().train(training)
    parameters = {name: value * 2 for name, value in expected.named_parameters()}
    results = (torch.func.functional_call(m, parameters, (rows(),)) for m in (model, expected))
    torch.testing.assert_close(*results)
    assert is_fused(model, rows())
