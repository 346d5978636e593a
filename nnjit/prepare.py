"""What is checked before anything expensive begins: the layers' shapes, the data, and that they fit each other.

Each check names the place in the config; nothing here computes with the data.
"""

from __future__ import annotations

from nnjit.config import LoadedConfig
from nnjit.data.dataset import Dataset, input_shape, load_dataset
from nnjit.layers.base import LayerShapeError, Shape, ShapeError, layer_shapes


def check_shapes(loaded: LoadedConfig) -> list[Shape]:
    """The shape of the input and of every layer's output; of the data, at most the head of one file is read.

    Raises ConfigError at the first layer that does not fit and when the loss cannot take the output, DataError.
    """
    config = loaded.config
    shape = config.data.shape or input_shape(config.data, loaded.base, labels=config.labels)
    try:
        shapes = layer_shapes(config.model, shape)
    except LayerShapeError as error:
        raise loaded.error(("model", error.position), str(error)) from None
    try:
        config.loss.check_output(shapes[-1])
    except ShapeError as error:
        raise loaded.error(("loss",), str(error)) from None
    return shapes


def prepare(loaded: LoadedConfig) -> Dataset:
    """The data of a config whose layers, data and targets fit each other. Raises ConfigError, DataError."""
    shapes = check_shapes(loaded)
    config = loaded.config
    dataset = load_dataset(config.data, loaded.base, labels=config.labels)
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        if split is not None and split.targets is None:
            raise loaded.error(("data", name), "expected targets beside the inputs, got inputs alone")
    samples, batch_size = len(dataset.train), config.train.batch_size
    if batch_size > samples:
        message = f"expected at most the {samples} samples of the training split, got {batch_size}"
        raise loaded.error(("train", "batch_size"), message)
    problem = misfit(shapes[-1], dataset.target_shape, dataset.classes)
    if problem:
        raise loaded.error(("model", len(config.model) - 1), problem)
    return dataset


def misfit(output: Shape, target_shape: Shape, classes: list[str] | None) -> str | None:
    """Why a network's output of that shape does not fit the targets; None if it does.

    Classes want an output each; two of them may share one, which says yes or no.
    """
    if classes is None:
        if output == target_shape:
            return None
        hint = "; if they are class labels, say how many with data.classes"
        return f"expected an output of shape {target_shape} for targets that are numbers, got {output}{hint}"
    if output == (len(classes),) or (len(classes) == 2 and output == (1,)):
        return None
    return f"expected an output of shape {(len(classes),)} for the {len(classes)} classes of the data, got {output}"
