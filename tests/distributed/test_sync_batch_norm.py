"""Batch norm of a batch that is spread over ranks is that of the whole batch."""

import pytest
import torch
from batch_norm_cases import (
    DTYPES,
    Case,
    check_roundings,
    step_by_step,
)
from ranks import ranks_fixture
from support import ND_LAYOUTS
from sync_calls import (
    call,
    copied_layer,
    ddp_steps,
    fsdp_steps,
    in_group_of,
    messages,
    of_part,
    second_derivative,
    steps_of_layer,
    trained,
    under_autocast,
    under_compile,
    without_the_first,
)
from torch import nn

import makemore_ext as mx

SIZES = {"even": [6, 6], "uneven": [1, 11], "none on one": [5, 0, 7]}
SHAPES = {
    "rows": (12, 7),
    "lines": (12, 4, 9),
    "images": (12, 6, 4, 5),
    "volumes": (12, 3, 2, 3, 4),
}
OPTIONS = {
    "plain": {},
    "tanh": {"activation": "tanh"},
    "relu": {"activation": "relu"},
    "correction": {"correction": 1, "activation": "tanh"},
    "momentum": {"momentum": 0.7, "eps": 0.1},
}
EXACTLY = {"rtol": 0, "atol": 0, "equal_nan": True}


ranks = ranks_fixture(SIZES)


def wide(dtype):
    """Of parameters, whose gradients each rank rounds to it before they are added up."""
    return torch.promote_types(dtype, torch.float32)


def together(answers):
    """The results of all ranks as `Case.run` has those of one process."""
    for name in ("running_mean", "running_var"):
        for answer in answers:
            torch.testing.assert_close(answer[name], answers[0][name], **EXACTLY)
    rows = [torch.cat([answer[name] for answer in answers]) for name in ("output", "input")]
    affine = [
        sum(answer[name].double() for answer in answers).to(answers[0][name].dtype)
        for name in ("weight", "bias")
    ]
    return [*rows, *affine, answers[0]["running_mean"], answers[0]["running_var"]]


def check(ranks, case, options):
    if options.get("activation") == "relu":
        case.leave_out_kinks(True)
    results = together(ranks.results(of_part, case, ranks.sizes, options))
    assert [result.dtype for result in results] == [
        *[case.input.dtype] * 2,
        *[case.weight.dtype] * 4,
    ]
    truths = case.double().contiguous().run(step_by_step, True, **options)
    is_rounded = options.get("activation") == "tanh" and wide(case.input.dtype) != case.input.dtype
    if is_rounded or "momentum" in options:  # the bounds are not made for a gradient from these
        eps = 4 * torch.finfo(case.input.dtype).eps
        for result, truth in zip(results, truths, strict=True):
            torch.testing.assert_close(
                result.double(), truth, rtol=eps, atol=eps * truth.abs().max()
            )
    else:
        check_roundings(results, truths, case, True, options.get("correction", 0))
    if case.input.dtype == torch.float64:
        torch.testing.assert_close(results, truths, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_of_the_whole_batch(ranks, options, shape, dtype):
    check(ranks, Case(shape, dtype, parameter_dtype=wide(dtype)), options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
def test_layouts(ranks, layout, dtype):
    case = Case(SHAPES["images"], dtype, parameter_dtype=wide(dtype))
    case.input, case.grad_output = layout(case.input), layout(case.grad_output)
    check(ranks, case, {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_parameters(ranks, dtype):
    case = Case(SHAPES["images"], dtype)
    answers = ranks.results(of_part, case, ranks.sizes, {})
    assert {answers[0][name].dtype for name in ("weight", "bias", "running_mean")} == {dtype}
    truths = case.double().run(step_by_step, True)
    eps = len(answers) * torch.finfo(dtype).eps
    for result, truth in zip(together(answers), truths, strict=True):
        torch.testing.assert_close(result.double(), truth, rtol=eps, atol=eps * truth.abs().max())


@pytest.mark.parametrize(
    ("training", "differentiated", "expected"),
    [
        (True, True, [{"all_reduce": 1}, {"all_reduce": 1}]),
        (True, False, [{"all_reduce": 1}, {}]),
        (False, True, [{}, {}]),
    ],
)
def test_one_message_each_way(ranks, training, differentiated, expected):
    case = Case((12, 2048), torch.float32)
    for answer in ranks.results(messages, case, ranks.sizes, training, differentiated):
        assert answer == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e2, -1e3])
def test_far_from_zero_the_squares_are_summed_again(ranks, offset, dtype):
    case = Case((12, 6, 4, 5), dtype, offset=offset)
    answers = ranks.results(of_part, case, ranks.sizes, {})
    if dtype == torch.float64:  # there it is the truth that lacks digits
        one_process = case.run(mx.batch_norm, True)
        torch.testing.assert_close(together(answers), one_process, rtol=1e-12, atol=1e-12)
    else:
        truths = case.double().run(step_by_step, True)
        check_roundings(together(answers), truths, case, True)
    assert answers[0]["forward"] == {"all_reduce": 2}
    assert answers[0]["backward"] == {"all_reduce": 1}


def test_more_channels_than_the_first_message_has(ranks):
    case = Case((12, 2100), torch.float32)
    answers = ranks.results(of_part, case, ranks.sizes, {})
    check_roundings(together(answers), case.double().run(step_by_step, True), case, True)
    assert answers[0]["forward"] == {"all_reduce": 2}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_takes_its_channel_on_every_rank(ranks, value):
    case = Case((12, 6, 4, 5), torch.float32)
    case.input[0, 2, 1, 1] = value
    for answer in ranks.results(of_part, case, ranks.sizes, {}):
        lost = answer["output"].isnan().flatten(2).all(2)
        assert lost[:, 2].all()
        assert not lost[:, [0, 1, 3, 4, 5]].any()
        assert answer["running_mean"].isfinite().tolist() == [True, True, False, True, True, True]


def test_values_whose_squares_do_not_fit_a_float(ranks):
    case = Case((12, 5), torch.float32)
    case.input *= 1e25
    answers = ranks.results(of_part, case, ranks.sizes, {})
    truth = case.double().run(step_by_step, True)
    torch.testing.assert_close(together(answers)[0].double(), truth[0], rtol=1e-6, atol=1e-6)


LAYERS = {
    "plain": {},
    "mean of all batches": {"momentum": None},
    "without running statistics": {"track_running_stats": False},
    "without parameters": {"affine": False},
    "ours": {"activation": "tanh", "correction": 1},
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_layer(ranks, options):
    batches = [Case((12, 6, 4, 5), torch.float32, seed=seed).input for seed in range(4)]
    answers = ranks.results(steps_of_layer, mx.SyncBatchNorm(6, **options), batches, ranks.sizes)
    layer = mx.BatchNorm2d(6, **options)
    *outputs, evaluated = batches
    outputs = [layer(batch) for batch in outputs]
    layer.eval()
    if options.get("track_running_stats", True):
        outputs.append(layer(evaluated))
    else:  # each rank by itself, as in torch
        outputs.append(torch.cat([layer(b) if len(b) else b for b in evaluated.split(ranks.sizes)]))
    for i, output in enumerate(outputs):
        ours = torch.cat([answer[0][i] for answer in answers])
        torch.testing.assert_close(ours, output)
    for answer in answers:
        torch.testing.assert_close(answer[1], layer.state_dict())


ROWS = torch.arange(12.0).view(4, 3)
WRONG = {
    "other channels": (
        [ROWS, ROWS[:, :2], ROWS],
        [{}] * 3,
        "the channels of input, .* must be the same on every rank, got [23], ",
    ),
    "other eps": ([ROWS] * 3, [{}, {"eps": 1e-3}, {}], "eps and activation must be the same"),
    "other correction": ([ROWS] * 3, [{"correction": 1}, {}, {}], "must be the same"),
    "other activation": ([ROWS] * 3, [{}, {"activation": "relu"}, {}], "must be the same"),
    "other dtype": ([ROWS, ROWS.double(), ROWS], [{}] * 3, "got 3, torch.float"),
    "a gradient on one": (
        [ROWS.clone().requires_grad_(), ROWS, ROWS],
        [{}] * 3,
        "whether it needs a gradient, .* must be the same",
    ),
    "one value in all": (
        [ROWS[:1], ROWS[:0], ROWS[:0]],
        [{}] * 3,
        "input must have more than 1 value per channel on all ranks, got 1",
    ),
}


@pytest.mark.parametrize(("inputs", "options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_told_on_every_rank(ranks, inputs, options, message):
    for answer in ranks.run(call, inputs, options):
        with pytest.raises(ValueError, match=message):
            raise answer


def test_one_value_on_each_rank(ranks):
    values = [row[None] for row in ROWS]
    answers = ranks.results(call, values, [{}] * 3)
    truth = mx.batch_norm(ROWS[: len(answers)], None, None, training=True)
    torch.testing.assert_close(torch.cat(answers), truth)


def test_nothing_at_all(ranks):
    for answer in ranks.results(call, [ROWS[:0]] * 3, [{}] * 3):
        assert answer.shape == (0, 3)


def test_what_batch_norm_refuses_is_refused_before_a_message(ranks):
    for answer in ranks.run(call, [ROWS.int()] * 3, [{}] * 3):
        assert isinstance(answer, (NotImplementedError, RuntimeError))
    for answer in ranks.run(call, [ROWS] * 3, [{"correction": 2}] * 3):
        with pytest.raises(ValueError, match="correction must be 0 or 1, got 2"):
            raise answer


def test_a_rank_that_does_not_come_ends_in_an_error(ranks):
    answers = ranks.run(without_the_first)
    assert answers[0] is None
    assert all(isinstance(answer, RuntimeError) for answer in answers[1:])


def test_second_derivatives_are_refused(ranks):
    for answer in ranks.run(second_derivative, ROWS):
        with pytest.raises(RuntimeError, match="create_graph must be False"):
            raise answer


@pytest.mark.parametrize("ranks", ["even"], indirect=True)
def test_under_torch_compile_the_graph_breaks(ranks):
    for plain, compiled in ranks.results(under_compile, torch.randn(12, 3), ranks.sizes):
        torch.testing.assert_close(compiled, plain)


def test_under_autocast(ranks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))
    batch = Case((12, 7), torch.float32).input
    output = torch.cat(ranks.results(under_autocast, model, batch, ranks.sizes))
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(batch)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)


def test_a_layer_of_all_ranks_can_be_copied(ranks):
    assert ranks.results(copied_layer) == [None] * len(ranks.sizes)


def test_a_group_of_some(ranks):
    inside, *others = ranks.run(in_group_of, [0], ROWS)
    torch.testing.assert_close(inside, mx.batch_norm(ROWS, None, None, training=True))
    for answer in others:
        with pytest.raises(RuntimeError, match="group must have this process in it"):
            raise answer


def test_without_torch_distributed():
    with pytest.raises(RuntimeError, match="init_process_group has not been called"):
        mx.sync_batch_norm(ROWS, None, None, training=True)
    layer, alone = mx.SyncBatchNorm(3), mx.BatchNorm1d(3)
    assert torch.equal(layer(ROWS), alone(ROWS))
    torch.testing.assert_close(layer.state_dict(), alone.state_dict(), **EXACTLY)
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        layer(ROWS[0])


@pytest.mark.parametrize("ranks", ["even"], indirect=True)
@pytest.mark.parametrize(
    "way",
    [(ddp_steps, {}), (ddp_steps, {"broadcast_buffers": False}), (fsdp_steps,)],
    ids=["DDP", "DDP, buffers as they are", "FSDP2"],
)
def test_a_model_that_is_trained_data_parallel(ranks, way):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    batches = [Case((12, 3, 8, 8), torch.float32, seed=seed).input for seed in range(8)]
    function, *options = way
    answers = ranks.results(function, model, batches, *options)
    whole = trained(model, batches)
    losses = torch.tensor([answer["losses"] for answer in answers]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(whole["losses"]))
    for answer in answers:
        torch.testing.assert_close(answer["state"], whole["state"], rtol=1e-5, atol=1e-6)
