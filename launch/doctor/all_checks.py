"""All checks, in the order in which they run: what is installed, the machine, the cards, operators, a training step."""

from launch.doctor import (
    all_reduce,
    cards,
    host_limits,
    kernel_times,
    loss_kernels,
    operators,
    optimizer_kernels,
    overflow,
    training_check,
)
from launch.doctor.check_session import Check


def checks() -> list[Check]:
    """The checks; what needs no device comes first, so that it is told also where the device hangs."""
    return [
        *cards.versions(),
        *host_limits.checks(),
        *all_reduce.checks(),
        *cards.checks(),
        *operators.checks(),
        *kernel_times.checks(),
        *loss_kernels.checks(),
        *overflow.checks(),
        *optimizer_kernels.checks(),
        *training_check.checks(),
    ]
