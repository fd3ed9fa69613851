"""What tests of compression that train share with those of training."""

from tests.training.conftest import fresh_accelerate
from tests.training.conftest import photos

__all__ = ["fresh_accelerate", "photos"]
