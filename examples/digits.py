"""Learn to read handwritten digits: softmax regression and a two-layer network, in NumPy.

The loss and its gradient with respect to the logits come from one call of fastsoftmax; all else is
a few matrix products. The data are scikit-learn's 1797 real digits of 8x8 pixels. Accuracy is
measured on images that the model was not fitted to: each fifth is the test set once, while the
model learns from the other four.

    python examples/digits.py
    python examples/digits.py --class-weights balanced --label-smoothing 0.1
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

import fastsoftmax

CLASSES = 10
FOLDS = 5
BATCH = 32
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How a model is built and fitted."""

    name: str
    hidden: tuple[int, ...]  # the widths of the layers between pixels and classes
    epochs: int
    rate: float  # of the first step; it falls linearly to zero


RECIPES = (
    Recipe("softmax regression", (), epochs=60, rate=0.3),
    Recipe("two-layer network", (64,), epochs=20, rate=0.1),
)


class Network:
    """Linear layers with rectifiers between them; without a hidden layer, softmax regression."""

    def __init__(self, widths: list[int], rng: np.random.Generator) -> None:
        self.weights = [
            rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32)  # He et al., arXiv:1502.01852
            for inputs, outputs in pairwise(widths)
        ]
        self.biases = [np.zeros(outputs, np.float32) for outputs in widths[1:]]

    @property
    def parameters(self) -> list[np.ndarray]:
        return [*self.weights, *self.biases]

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Give what enters each layer, and the logits."""
        inputs = [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
        return inputs, inputs[-1] @ self.weights[-1] + self.biases[-1]

    def backward(self, inputs: list[np.ndarray], grad: np.ndarray) -> list[np.ndarray]:
        """Turn the gradient of the logits into those of the parameters, in their order."""
        weights, biases = [], []
        for layer in reversed(range(len(self.weights))):
            weights.append(inputs[layer].T @ grad)
            biases.append(grad.sum(axis=0))
            if layer:
                grad = (grad @ self.weights[layer].T) * (inputs[layer] > 0)
        return [*reversed(weights), *reversed(biases)]


def fit(
    recipe: Recipe,
    x: np.ndarray,
    y: np.ndarray,
    class_weights: np.ndarray | None,
    label_smoothing: float,
    rng: np.random.Generator,
) -> Network:
    """Descend along the gradient of batches in random order, with momentum."""
    network = Network([x.shape[1], *recipe.hidden, CLASSES], rng)
    velocities = [np.zeros_like(parameter) for parameter in network.parameters]
    for epoch in range(recipe.epochs):
        rate = recipe.rate * (1 - epoch / recipe.epochs)
        order = rng.permutation(len(y))
        for start in range(0, len(y), BATCH):
            batch = order[start : start + BATCH]
            inputs, logits = network.forward(x[batch])
            # In place: the logits are not needed any more.
            _, grad = fastsoftmax.cross_entropy_with_grad(
                logits, y[batch], weight=class_weights, label_smoothing=label_smoothing, out=logits
            )
            gradients = network.backward(inputs, grad)
            for parameter, velocity, gradient in zip(network.parameters, velocities, gradients, strict=True):
                velocity *= MOMENTUM
                velocity -= rate * gradient
                parameter += velocity
    return network


def balanced(y: np.ndarray) -> np.ndarray:
    """Weigh each class by the inverse of its frequency, so that all of them count the same."""
    return len(y) / (CLASSES * np.bincount(y, minlength=CLASSES))


def cross_validate(recipe: Recipe, x: np.ndarray, y: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Give for every image the logits of the model that was fitted without it."""
    rng = np.random.default_rng(options.seed)
    logits = np.empty((len(y), CLASSES), x.dtype)
    folds = np.array_split(rng.permutation(len(y)), FOLDS)
    for number, test in enumerate(folds):
        train = np.concatenate(folds[:number] + folds[number + 1 :])
        weights = balanced(y[train]) if options.class_weights == "balanced" else None
        network = fit(recipe, x[train], y[train], weights, options.label_smoothing, rng)
        logits[test] = network.forward(x[test])[1]
    return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--class-weights", choices=["none", "balanced"], default="none", help="weigh rare digits more")
    parser.add_argument("--label-smoothing", type=float, default=0.0, metavar="EPS", help="from 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    pixels, y = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32)
    print(f"{len(y)} digits, {FOLDS}-fold cross-validation:")
    for recipe in RECIPES:
        logits = cross_validate(recipe, x, y, options)
        loss = fastsoftmax.cross_entropy(logits, y)
        accuracy = np.mean(logits.argmax(axis=1) == y)
        print(f"{recipe.name}: test accuracy {accuracy:.4f}, test loss {loss:.4f}")


if __name__ == "__main__":
    main()
