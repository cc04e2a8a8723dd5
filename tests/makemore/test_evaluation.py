import pytest
import torch
import torch.nn.functional as F

from makemore_ext import reference
from makemore_ext.makemore import MLP, calibrate, evaluation, loss


@pytest.fixture(params=[1, 7, 4096])
def chunk(request, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibrate_sets_the_mean_and_the_unbiased_variance_of_the_set(dtype, dataset):
    model, x = MLP.init(hidden=16, dtype=dtype), dataset.test[0][:200]
    hprebn = model.hprebn(x).double()
    calibrate(model, x)
    assert model.bnmean.dtype == model.bnvar.dtype == dtype
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    expected_var, expected_mean = torch.var_mean(hprebn, 0, correction=1)
    torch.testing.assert_close(model.bnmean.double(), expected_mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(model.bnvar.double(), expected_var, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("chunk")
def test_loss_is_the_mean_cross_entropy_of_the_whole_set(dataset):
    model, (x, y) = MLP.init(hidden=16, dtype=torch.float64), dataset.test
    x, y = x[:200], y[:200]
    calibrate(model, x)
    expected = reference.forward(model.parameters(), x, y)["loss"].item()
    assert loss(model, x, y) == pytest.approx(expected, rel=1e-12)
    assert loss(model, x, y) == pytest.approx(F.cross_entropy(model.logits(x), y).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model, x, y: calibrate(model, x[:1]), ValueError, "at least 2 windows"),
        (lambda model, x, y: loss(model, x[:0], y[:0]), ValueError, "at least 1 window"),
        (loss, RuntimeError, "call calibrate first"),
    ],
)
def test_rejects(call, error, message, dataset):
    with pytest.raises(error, match=message):
        call(MLP.init(hidden=4), *dataset.test)
