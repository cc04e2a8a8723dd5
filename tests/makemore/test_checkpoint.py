import re

import pytest
import torch

from makemore_ext.makemore import BACKENDS, CheckpointError, Dataset, calibrate, checkpoint


@pytest.fixture
def saved(tmp_path, make_trainer, dataset):
    """The path of a good checkpoint."""
    path = tmp_path / "model.pt"
    trainer = make_trainer()
    trainer.train(2)
    checkpoint.save(path, trainer, dataset)
    return path


def alter(path, **changes):
    """Write the checkpoint anew with other content; `None` removes an entry."""
    content = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_resumed_training_gives_the_same_bits(backend, dtype, tmp_path, make_trainer, dataset):
    options = {"dtype": dtype, "batch_size": 9, "lr": 0.2, "decay_step": 40, "decay": 0.3}
    whole, first = (make_trainer(backend, **options) for _ in range(2))
    whole.train(60)
    first.train(30)
    checkpoint.save(tmp_path / "model.pt", first, dataset)
    resumed = checkpoint.load(tmp_path / "model.pt").resume(dataset)
    resumed.train(30)
    assert resumed.losses == whole.losses
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


def test_load_gives_what_was_saved(tmp_path, make_trainer, dataset):
    trainer = make_trainer(lr=0.3)
    trainer.train(3)
    calibrate(trainer.model, dataset.test[0])
    checkpoint.save(tmp_path / "model.pt", trainer, dataset)
    loaded = checkpoint.load(tmp_path / "model.pt")
    assert (loaded.step, loaded.losses) == (3, trainer.losses)
    assert (loaded.vocabulary, loaded.seed) == (dataset.vocabulary, dataset.seed)
    assert (loaded.fingerprint, loaded.hyperparameters["lr"]) == (dataset.fingerprint, 0.3)
    x = dataset.validation[0]
    assert torch.equal(loaded.model.logits(x), trainer.model.logits(x))


def test_resume_leaves_the_checkpoint_as_it_was(saved, dataset):
    loaded = checkpoint.load(saved)
    runs = [loaded.resume(dataset), loaded.resume(dataset)]
    for run in runs:
        run.train(5)
    assert runs[0].losses == runs[1].losses
    assert loaded.step == 2


def test_resume_takes_changed_hyperparameters(saved, dataset):
    trainer = checkpoint.load(saved).resume(dataset, backend="vectorized", lr=0.05)
    assert (trainer.backend, trainer.lr, trainer.batch_size) == ("vectorized", 0.05, 32)


@pytest.mark.parametrize(
    ("names", "seed", "message"),
    [
        (None, 7, "of seed 42, got 7"),
        ("abcdefg", 42, "of vocabulary "),
        ("abcdefghijklmnopqrstuvwxyz", 42, "of fingerprint "),
    ],
)
def test_resume_rejects_other_data(names, seed, message, saved, tmp_path):
    path = None
    if names:
        path = tmp_path / "names.txt"
        path.write_text("\n".join(names))
    with pytest.raises(
        CheckpointError, match=f"^dataset must be the one that {saved} was trained on, {message}"
    ):
        checkpoint.load(saved).resume(Dataset.load(path, seed=seed))


DAMAGED = " must be a checkpoint of this package, got a damaged one: "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), ": No such file or directory"),
        (lambda path: (path.unlink(), path.mkdir()), ": Is a directory"),
        (lambda path: path.write_bytes(b""), " must be a checkpoint of this package, got another"),
        (lambda path: path.write_bytes(b"emma\n" * 99), " must be a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), " must be a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), " must be a checkpoint"),
        (lambda path: torch.save({"model": 1}, path), " must be a checkpoint"),
        (lambda path: torch.save(torch.zeros(3), path), " must be a checkpoint"),
        (lambda path: torch.save(re.compile("code"), path), " must be a checkpoint"),
        (lambda path: alter(path, version=2), " must be of format version 1, got 2"),
        (lambda path: alter(path, version=None), " must be of format version 1, got None"),
        (lambda path: alter(path, losses=None), DAMAGED + "'losses'"),
        (lambda path: alter(path, hyperparameters={}), DAMAGED + "'backend'"),
        (lambda path: alter(path, model={}), DAMAGED + "state must hold"),
        (lambda path: alter(path, vocabulary=".ab"), DAMAGED + "vocabulary must be of the"),
        (lambda path: alter(path, vocabulary="ab"), DAMAGED + "characters must begin with"),
        (lambda path: alter(path, generator=torch.zeros(3, dtype=torch.uint8)), DAMAGED),
    ],
)
def test_load_rejects_in_one_line_that_names_the_file(damage, message, saved):
    damage(saved)
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{saved}{message}')}.*$"):
        checkpoint.load(saved)


def test_load_rejects_weights_of_other_shapes(saved):
    model = torch.load(saved, weights_only=True)["model"]
    alter(saved, model=model | {"W2": torch.zeros(16, 26)})
    with pytest.raises(CheckpointError, match=re.escape("W2 must be of shape [16, 27]")):
        checkpoint.load(saved)


def test_load_notices_one_changed_byte_of_the_weights(saved):
    content = bytearray(saved.read_bytes())
    weights = bytes(checkpoint.load(saved).model.W1.data.view(torch.uint8).flatten().tolist())
    content[content.index(weights) + 5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match="got another file or a damaged one"):
        checkpoint.load(saved)


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_keeps_the_file_and_leaves_no_other(
    stage, error, saved, make_trainer, dataset, monkeypatch
):
    def fail(*_):
        raise error

    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync" if stage == "fsync" else "pathlib.Path.replace", fail)
        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            checkpoint.save(saved, make_trainer(), dataset)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_save_writes_through_a_link(saved, make_trainer, dataset):
    link = saved.with_name("link.pt")
    link.symlink_to(saved.name)
    checkpoint.save(link, make_trainer(), dataset)
    assert link.is_symlink()
    assert checkpoint.load(saved).step == 0


@pytest.mark.parametrize("name", ["new.pt", "model.pt"])
def test_ensure_writable_changes_nothing(name, saved):
    before = saved.read_bytes()
    checkpoint.ensure_writable(saved.with_name(name))
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", " must be a regular file or new, got another kind of file"),
        ("/dev/null", " must be a regular file or new, got another kind of file"),
        ("missing/model.pt", ": cannot be written: No such file or directory"),
        ("model.pt/model.pt", ": cannot be written: Not a directory"),
    ],
)
def test_ensure_writable_rejects(path, message, saved):
    path = saved.parent / path
    with pytest.raises(CheckpointError, match=f"^{path}{message}$"):
        checkpoint.ensure_writable(path)
