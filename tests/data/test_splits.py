from __future__ import annotations

import logging
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from prunnet_hf.data.splits import RetrievalSplits, hold_out_classes, listed, select_classes
from prunnet_hf.data.streams import as_stream


def labelled(names: str, labels: list[int]) -> Dataset:
    """Rows whose image path says which row it was."""
    columns = {"image": [f"{row}.png" for row in range(len(labels))], "label": labels}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=list(names))}))


def class_of_rows(images: Dataset) -> dict[str, str]:
    """The class name of each image path."""
    paths = [stored["path"] for stored in images.cast_column("image", Image(decode=False))["image"]]
    return dict(zip(paths, images.features["label"].int2str(images["label"][:]), strict=True))


def test_splits_know_their_classes():
    test = labelled("xy", [0, 0, 1, 1])
    splits = RetrievalSplits(labelled("abc", [0, 1, 2]), test, test, "leave_one_out")
    assert splits.num_classes == 3
    assert splits.query is splits.gallery


def test_class_with_one_test_image_is_named():
    test = labelled("xyz", [0, 0, 1, 2, 2])
    with pytest.raises(ValueError, match=r"1 test classes.*one image.*: y\. Add images"):
        RetrievalSplits(labelled("ab", [0, 1]), test, test, "leave_one_out")


def test_class_with_one_image_is_allowed_where_a_gallery_has_its_matches():
    splits = RetrievalSplits(labelled("ab", [0, 1]), labelled("xy", [0, 1]), labelled("xy", [0, 1]), "query_gallery")
    assert splits.protocol == "query_gallery"


def test_test_class_that_was_trained_on_is_named_in_a_warning(caplog):
    test = labelled("bx", [0, 0, 1, 1])
    with caplog.at_level(logging.WARNING):
        RetrievalSplits(labelled("ab", [0, 1]), test, test, "leave_one_out")
    assert "1 test classes are also training classes: b." in caplog.text


def test_shared_name_without_training_images_is_no_training_class(caplog):
    test = labelled("bx", [0, 0, 1, 1])
    with caplog.at_level(logging.WARNING):
        RetrievalSplits(labelled("abc", [0, 2]), test, test, "leave_one_out")
    assert caplog.text == ""


def test_shared_class_name_that_no_image_has_does_not_count():
    test = labelled("abxy", [2, 2, 3, 3])
    assert RetrievalSplits(labelled("abxy", [0, 1]), test, test, "leave_one_out").query is test


def test_shared_classes_are_counted_where_labels_are_known():
    train, query, gallery = labelled("abz", [0, 1]), labelled("bcxz", [0, 0, 2, 3]), labelled("axc", [0, 1, 2])
    # b is a query's, a only the gallery's; no training image shows z, and c is no training class.
    assert RetrievalSplits(train, query, gallery, "in_shop").num_shared_classes == 2
    assert RetrievalSplits(labelled("de", [0, 1]), query, gallery, "in_shop").num_shared_classes == 0
    assert RetrievalSplits(None, query, gallery, "in_shop").num_shared_classes is None
    unlabelled = gallery.remove_columns("label")
    assert RetrievalSplits(train, query, unlabelled, "gldv2").num_shared_classes is None


def test_shared_classes_of_streams_are_known_only_if_they_declare_none():
    train, test = as_stream(labelled("ab", [0, 1])), as_stream(labelled("xy", [0, 1]))
    assert RetrievalSplits(train, test, test, "in_shop").num_shared_classes == 0
    assert RetrievalSplits(train, train, test, "in_shop").num_shared_classes is None


@pytest.mark.parametrize("role", ["train", "query", "gallery"])
def test_empty_split_is_named(role):
    parts = {name: labelled("ab", [0, 0]) for name in ("train", "query", "gallery")}
    parts[role] = labelled("ab", [])
    with pytest.raises(ValueError, match=rf"^{role} .*no images"):
        RetrievalSplits(**parts, protocol="query_gallery")


@pytest.mark.parametrize("role", ["train", "query", "gallery"])
def test_images_of_another_type_are_refused(role):
    parts = {name: labelled("a", [0, 0]) for name in ("train", "query", "gallery")}
    features = Features({"image": Value("string"), "label": ClassLabel(names=["a"])})
    parts[role] = Dataset.from_dict({"image": ["0.png"], "label": [0]}, features=features)
    with pytest.raises(ValueError, match=rf"{role}.*columns image \(datasets.Image\)"):
        RetrievalSplits(**parts, protocol="gldv2")


def test_labels_of_another_type_are_refused_where_the_rule_needs_them():
    features = Features({"image": Image(), "label": Value("int64")})
    numbered = Dataset.from_dict({"image": ["0.png", "1.png"], "label": [0, 0]}, features=features)
    right = labelled("ab", [0, 1])
    with pytest.raises(ValueError, match=r"train.*columns.*label \(datasets.ClassLabel\)"):
        RetrievalSplits(numbered, right, right, "gldv2")
    with pytest.raises(ValueError, match=r"query.*columns.*label \(datasets.ClassLabel\)"):
        RetrievalSplits(right, numbered, numbered, "leave_one_out")
    assert RetrievalSplits(right, numbered, numbered, "gldv2").num_classes == 2


@pytest.mark.parametrize("role", ["train", "gallery"])
@pytest.mark.parametrize("protocol", ["leave_one_out", "in_shop"])
@pytest.mark.parametrize("make", [lambda images: images, as_stream], ids=["data_set", "stream"])
def test_one_class_is_refused(role, protocol, make):
    parts = {"train": labelled("ab", [0, 1]), "gallery": labelled("xy", [0, 0, 1, 1])}
    parts[role] = labelled("a", [0, 0])
    with pytest.raises(ValueError, match=rf"{role} must.* 2 classes; it has 1: a\..*Add"):
        RetrievalSplits(make(parts["train"]), make(parts["gallery"]), make(parts["gallery"]), protocol)


def test_classes_without_images_do_not_count():
    test = labelled("xy", [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"train must.*2 classes; it has 1: b\."):
        RetrievalSplits(labelled("abc", [1, 1]), test, test, "leave_one_out")


def test_classes_that_print_alike_are_refused():
    features = Features({"image": Image(), "label": ClassLabel(names=["caf\u00e9", "cafe\u0301"])})
    train = Dataset.from_dict({"image": ["0.png", "1.png"], "label": [0, 1]}, features=features)
    test = labelled("xy", [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"train has two.*alike, 'cafe\\u0301' and 'caf\\xe9'.*Rename"):
        RetrievalSplits(train, test, test, "leave_one_out")


def test_set_for_evaluation_only_and_streams():
    images = labelled("ab", [0, 0, 1, 1])
    assert RetrievalSplits(None, images, images, "leave_one_out").num_classes == 0
    stream = as_stream(images, 2)
    assert RetrievalSplits(stream, stream, stream, "leave_one_out").num_classes == 2


def test_selected_classes_are_renumbered_in_the_order_given():
    selected = select_classes(labelled("abcd", [3, 0, 1, 3, 2]), [3, 1])
    assert selected.features["label"].names == ["d", "b"]
    assert selected["label"][:] == [0, 1, 0]
    assert class_of_rows(selected) == {"0.png": "d", "2.png": "b", "3.png": "d"}


def test_selecting_from_a_selection_keeps_images_with_their_labels():
    part = labelled("abc", [0, 1, 2, 1]).select([3, 2, 1])
    assert class_of_rows(select_classes(part, [1])) == {"3.png": "b", "1.png": "b"}


@settings(max_examples=25)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=20).map(lambda more: [0, 1, 2, 3, 4, 5] * 2 + more),
    share=st.sampled_from([1 / 3, 0.5, 2 / 3]),
    seed=st.integers(0, 99),
)
def test_held_out_and_remaining_classes_partition_the_images(labels, share, seed):
    train = labelled("abcdef", labels)
    remaining, held_out = hold_out_classes(train, share, seed)
    assert {**class_of_rows(remaining), **class_of_rows(held_out)} == class_of_rows(train)
    assert len(remaining) + len(held_out) == len(train)
    assert held_out.features["label"].num_classes == round(6 * share)
    for part in (remaining, held_out):
        assert set(part["label"]) == set(range(part.features["label"].num_classes))
    assert set(remaining.features["label"].names).isdisjoint(held_out.features["label"].names)


def test_same_seed_holds_out_the_same_classes_and_seeds_differ():
    train = labelled("abcdefgh", list(range(8)) * 2)
    chosen = [tuple(hold_out_classes(train, 0.25, seed)[1].features["label"].names) for seed in [*range(20), 0]]
    assert chosen[0] == chosen[-1]
    assert len(set(chosen)) > 1


def test_only_classes_with_two_images_are_held_out():
    train = labelled("abcdef", [0, 1, 2, 2, 3, 4, 4, 5])
    remaining, held_out = hold_out_classes(train, 1 / 3, seed=0)
    assert held_out.features["label"].names == ["c", "e"]
    assert Counter(held_out["label"]) == {0: 2, 1: 2}
    assert remaining.features["label"].names == ["a", "b", "d", "f"]
    with pytest.raises(ValueError, match=r"validation_share=0.5.*out 3 training classes.*2"):
        hold_out_classes(train, 0.5, seed=0)


@pytest.mark.parametrize(("share", "num_held_out"), [(0.1, 0), (0.25, 1), (0.8, 3), (-1.0, -4)])
def test_share_that_leaves_too_few_classes_is_refused(share, num_held_out):
    with pytest.raises(ValueError, match=rf"validation_share={share}.*out {num_held_out}.*4 training classes"):
        hold_out_classes(labelled("abcd", [0, 1, 2, 3] * 2), share, seed=0)


def test_long_lists_are_cut_after_five_names():
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
