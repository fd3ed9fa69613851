"""Which embeddings may be compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from prunnet_hf.retrieval.embedding_table import Embeddings
from prunnet_hf.retrieval.spaces import check_compatible

CONFIG = SimpleNamespace(embedding_space="3f9a")
MODEL = SimpleNamespace(config=CONFIG)
EMBEDDINGS = Embeddings(np.ones((1, 2), np.float32), "3f9a", 0.2)


@pytest.mark.parametrize("a", [MODEL, CONFIG, EMBEDDINGS, "3f9a"])
@pytest.mark.parametrize("b", [MODEL, CONFIG, EMBEDDINGS, "3f9a"])
def test_one_space_is_compatible(a, b):
    assert check_compatible(a, b) is None


@pytest.mark.parametrize("other", ["77aa", SimpleNamespace(config=SimpleNamespace(embedding_space="77aa"))])
def test_two_spaces_are_refused(other):
    with pytest.raises(ValueError, match=r"space '3f9a'.*space '77aa'.*compared"):
        check_compatible(MODEL, other)


@pytest.mark.parametrize("unknown", [None, "", SimpleNamespace(embedding_space=None)])
def test_unknown_space_is_refused_even_beside_itself(unknown):
    with pytest.raises(ValueError, match=r"embedding space of b.*unknown"):
        check_compatible(MODEL, unknown)
    with pytest.raises(ValueError, match=r"embedding space of a.*unknown"):
        check_compatible(unknown, unknown)


def test_something_else_is_refused():
    with pytest.raises(TypeError, match=r"b.*PrunNet model.*config, Embeddings.*id.*float"):
        check_compatible(MODEL, 0.2)
