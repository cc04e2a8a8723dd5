"""The notebook's network: names, model, training, evaluation, sampling."""

from makemore_ext.makemore import checkpoint
from makemore_ext.makemore.backends import BACKENDS
from makemore_ext.makemore.checkpoint import Checkpoint, CheckpointError
from makemore_ext.makemore.data import DataError, Dataset
from makemore_ext.makemore.evaluation import calibrate, loss
from makemore_ext.makemore.model import MLP
from makemore_ext.makemore.sampling import sample
from makemore_ext.makemore.training import Trainer, learning_rate
from makemore_ext.makemore.vocabulary import Vocabulary

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
