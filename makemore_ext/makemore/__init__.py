"""The notebook's network: names, model, training, evaluation, sampling."""

from . import checkpoint
from .backends import BACKENDS
from .checkpoint import Checkpoint, CheckpointError
from .data import DataError, Dataset
from .evaluation import calibrate, loss
from .model import MLP
from .sampling import sample
from .training import Trainer, learning_rate
from .vocabulary import Vocabulary

__all__ = [
    "BACKENDS",
    "MLP",
    "Checkpoint",
    "CheckpointError",
    "DataError",
    "Dataset",
    "Trainer",
    "Vocabulary",
    "calibrate",
    "checkpoint",
    "learning_rate",
    "loss",
    "sample",
]
