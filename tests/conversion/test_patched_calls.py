"""What runs where patch() has put this package's functions: ours, or torch's where ours cannot."""

import pytest
import torch
from conversion_models import LanguageModel, names_network, rows, runs_ours, windows
from support import seeded
from torch import Tensor, nn
from torch.nn import functional as F

import makemore_ext as mx

LAYERS = {
    "CrossEntropyLoss": (nn.CrossEntropyLoss, lambda: (rows(), torch.tensor([0, 1, 2, 3, 0, 1]))),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda: (rows(),)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), lambda: (rows().reshape(3, 2, 2, 2),)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), lambda: (rows().reshape(3, 2, 2, 2, 1),)),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4).eval(), lambda: (rows(),)),
    "Embedding": (lambda: nn.Embedding(7, 3, padding_idx=2), lambda: (torch.tensor([[0, 2, 6]]),)),
}

SCRIPTED = {name: layer for name, layer in LAYERS.items() if name != "SyncBatchNorm"}


@pytest.mark.parametrize(("build", "draw"), LAYERS.values(), ids=LAYERS)
def test_torchs_layers_call_ours(build, draw):
    torch.manual_seed(seeded().initial_seed())
    layer = build()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    inputs = [value.requires_grad_(value.is_floating_point()) for value in draw()]
    expected = layer(*inputs)
    after = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(state)
    with mx.patch():
        torch.testing.assert_close(layer(*inputs), expected)
        torch.testing.assert_close(dict(layer.state_dict()), after)
        assert runs_ours(layer, *inputs)
    assert not runs_ours(layer, *inputs)


def test_a_model_whose_loss_is_a_function():
    model = LanguageModel()
    index = torch.tensor([[0, 1, 2], [3, 4, 5]])
    expected = model(index, index)
    with mx.patch():
        torch.testing.assert_close(model(index, index), expected)
        assert runs_ours(model, index, index)


def test_training_gives_the_same_losses():
    def losses() -> list[float]:
        model, generator = names_network(), seeded(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(20):
            input, target = windows(generator)
            loss = F.cross_entropy(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses()
    with mx.patch():
        torch.testing.assert_close(losses(), expected, rtol=1e-4, atol=1e-4)


class Marked(Tensor):
    pass


class ByDispatch(Tensor):
    """What torch.distributed's are: only operators that they have a rule for run."""

    @staticmethod
    def __new__(cls, inside: Tensor) -> Tensor:
        return Tensor._make_wrapper_subclass(cls, inside.shape, dtype=inside.dtype)

    def __init__(self, inside: Tensor) -> None:
        self.inside = inside

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        assert function.namespace == "aten"
        inside = [x.inside if isinstance(x, cls) else x for x in arguments]
        return function(*inside, **(options or {}))


def classes(count: int = 6) -> Tensor:
    return torch.arange(count) % 4


# Calls that no kernel of ours serves: torch's result is expected, to the bit.
LEFT_TO_TORCH = {
    "CE, subclass": lambda: F.cross_entropy(Marked(rows()), classes()),
    "CE, subclass that dispatches": lambda: F.cross_entropy(ByDispatch(rows()), classes()),
    "CE, target [1] for one row": lambda: F.cross_entropy(rows()[0], torch.tensor([1])),
    "CE, no class": lambda: F.cross_entropy(torch.zeros(2, 0), torch.zeros(2, 0), reduction="sum"),
    "BN, subclass": lambda: F.batch_norm(Marked(rows()), None, None, training=True),
    "BN, momentum is a tensor": lambda: F.batch_norm(
        *(rows(), torch.zeros(4), torch.ones(4)), training=True, momentum=torch.tensor(0.5)
    ),
    "embedding, max_norm": lambda: F.embedding(classes(), rows().clone(), max_norm=0.5),
    "embedding, by frequency": lambda: F.embedding(classes(), rows(), scale_grad_by_freq=True),
    "embedding, complex": lambda: F.embedding(classes(), rows().to(torch.complex64)),
    "embedding, integers": lambda: F.embedding(classes(), rows().long()),
    "embedding, subclass": lambda: F.embedding(classes(), Marked(rows())),
}


@pytest.mark.parametrize("call", LEFT_TO_TORCH.values(), ids=LEFT_TO_TORCH)
def test_what_ours_do_not_serve_is_torchs(call):
    expected = call()
    with mx.patch():
        result = call()
    assert type(result) is type(expected)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_a_sparse_gradient_is_torchs():
    weight = rows().requires_grad_()
    with mx.patch():
        F.embedding(classes(), weight, sparse=True).sum().backward()
    assert weight.grad.is_sparse


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
def test_deprecated_arguments_are_torchs():
    with mx.patch(), pytest.warns(UserWarning, match="deprecated"):
        loss = F.cross_entropy(rows(), classes(), size_average=False)
    torch.testing.assert_close(loss, F.cross_entropy(rows(), classes(), reduction="sum"))


def test_running_statistics_are_updated_once():
    """By torch's function alone, where the call is left to it."""
    norm = nn.BatchNorm1d(4)
    with mx.patch():
        norm(Marked(rows()))
    expected = nn.BatchNorm1d(4)
    expected(rows())
    assert torch.equal(norm.running_mean, expected.running_mean)


class Recorder(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.called = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        self.called.append(function)
        return function(*arguments, **(options or {}))


def test_a_mode_sees_the_function_and_lets_it_run():
    recorder = Recorder()
    input, target = rows().requires_grad_(), classes()
    with mx.patch(), recorder:
        assert runs_ours(F.cross_entropy, input, target)
        assert recorder.called[0] is F.cross_entropy


# What torch refuses, it refuses in its words, whoever put our function there.
WRONG = {
    "CE, sizes": lambda f: f.cross_entropy(rows(), classes(5)),
    "CE, dtype": lambda f: f.cross_entropy(rows().long(), classes()),
    "CE, weight": lambda f: f.cross_entropy(rows(), classes(), weight=torch.ones(3)),
    "CE, reduction": lambda f: f.cross_entropy(rows(), classes(), reduction="median"),
    "CE, smoothing": lambda f: f.cross_entropy(rows(), classes(), label_smoothing=2.0),
    "CE, type": lambda f: f.cross_entropy([1.0], classes()),
    "BN, no statistics": lambda f: f.batch_norm(rows(), None, None),
    "BN, sizes": lambda f: f.batch_norm(rows(), torch.zeros(3), torch.ones(3)),
    "BN, one value": lambda f: f.batch_norm(rows()[:1], None, None, training=True),
    "BN, eps": lambda f: f.batch_norm(rows(), None, None, training=True, eps=-1.0),
    "BN, dtype": lambda f: f.batch_norm(rows().long(), None, None, training=True),
    "BN, type": lambda f: f.batch_norm([1.0], None, None, training=True),
}
WRONG_EMBEDDING = {
    "embedding, padding": lambda f: f.embedding(classes(), rows(), padding_idx=9),
    "embedding, dimensions": lambda f: f.embedding(classes(), rows()[0], max_norm=1.0),
    "embedding, dtype": lambda f: f.embedding(rows(), rows()),
    "embedding, index": lambda f: f.embedding(classes() + 9, rows()),
}


def error_of(call, functions) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever torch raises
        call(functions)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("call", (WRONG | WRONG_EMBEDDING).values(), ids=WRONG | WRONG_EMBEDDING)
def test_wrong_input_raises_torchs_error_while_patched(call):
    kind, words = error_of(call, F)
    with mx.patch():
        patched_kind, patched_words = error_of(call, F)
    assert patched_kind is kind
    if kind is not IndexError:  # which ours says in more detail
        assert patched_words == words


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_input_raises_torchs_error_where_ours_were_put_by_hand(call):
    expected = error_of(call, F)
    F.cross_entropy, F.batch_norm, F.embedding = mx.cross_entropy, mx.batch_norm, mx.embedding
    assert error_of(call, F) == expected


def test_symbolic_tracing():
    model = LanguageModel()
    index = torch.tensor([[0, 1, 2], [3, 4, 5]])
    expected = model(index, index)
    with mx.patch():
        traced = torch.fx.symbolic_trace(model)
        torch.testing.assert_close(traced(index, index), expected)
    torch.testing.assert_close(traced(index, index), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(("build", "draw"), SCRIPTED.values(), ids=SCRIPTED)
def test_torchs_layers_can_be_scripted(build, draw):
    layer = build().eval()
    with mx.patch():
        scripted = torch.jit.script(layer)
        torch.testing.assert_close(scripted(*draw()), layer(*draw()))


@pytest.mark.filterwarnings("ignore:.* should not be instantiated")
def test_compile():
    model, (input, target) = names_network(), windows(seeded(1))

    def loss() -> Tensor:
        return F.cross_entropy(model(input), target)

    expected = loss()
    with mx.patch():
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(), expected)
    torch.testing.assert_close(compiled(), expected)


def sum_of_ours(input: Tensor) -> Tensor:
    """All three functions of one input [6, 4]."""
    normed = F.batch_norm(input, None, None, training=True)
    rows = F.embedding(torch.tensor([0, 2, 5]), normed)
    return F.cross_entropy(normed, classes()) + rows.square().sum()


def jvp_of_jvp(_, input: Tensor) -> Tensor:
    """Of one function alone: torch's batch norm is wrong here."""

    def along(input: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: F.cross_entropy(x, classes()), (input,), (input,))[1]

    return torch.func.jvp(along, (input,), (input,))[1]


# Python's autograd Functions refuse some of these, where torch's functions then serve.
AROUND = {
    "functionalize": lambda f, x: torch.func.functionalize(f)(x),
    "jvp of jvp": jvp_of_jvp,
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    "jit.trace": lambda f, x: torch.jit.trace(f, x, check_trace=False)(x),
}


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_may_be_at_work_around_a_call(around):
    expected = around(sum_of_ours, rows())
    with mx.patch():
        torch.testing.assert_close(around(sum_of_ours, rows()), expected, rtol=1e-4, atol=1e-4)
