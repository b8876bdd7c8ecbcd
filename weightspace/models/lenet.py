"""LeNet-300-100 and LeNet-5 (LeCun et al. 1998), for 28 x 28 grey images."""

from torch import nn

from weightspace.models.mlp import MLP
from weightspace.models.sizes import check_sizes


class LeNet300(MLP):
    """LeNet-300-100: 784-300-100-outputs; 266,610 parameters for 10 classes.

    Args:
        outputs: Number of classes.
    """

    def __init__(self, outputs: int = 10) -> None:
        check_sizes(outputs=outputs)
        super().__init__((784, 300, 100, outputs))
        self.input_shape = (1, 28, 28)


class LeNet5(nn.Sequential):
    """LeNet-5 with ReLU and max pooling; 61,706 parameters for 10 classes.

    Args:
        outputs: Number of classes.
    """

    def __init__(self, outputs: int = 10) -> None:
        check_sizes(outputs=outputs)
        super().__init__(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, outputs),
        )
        self.input_shape = (1, 28, 28)
