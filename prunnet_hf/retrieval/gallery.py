"""A gallery: images that were embedded once, and an index over them that knows the space of its embeddings.

Any network of that space searches it: the dense one, and every subnetwork. A network of another space is refused,
because its embeddings would give results that mean nothing, even where dimensions agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow.compute as pc
from PIL import Image

from ..image_colours import to_rgb
from ..image_files import open_image
from ..modeling_prunnet import PrunNetModel
from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.masking import format_capacity
from .contact_sheet import save_picture
from .embedding_table import LABEL, PATH, Embeddings, read_embeddings
from .foreign_encoders import ForeignEncoder
from .found import Found
from .gallery_changes import Added, add_images, remove_images
from .gallery_files import About, read_gallery, read_vectors, write_gallery
from .gallery_images import (
    DIGEST,
    Candidates,
    Embedding,
    candidates_of,
    digest_of,
    embedded_dataset,
    embedded_folder,
    images_of,
)
from .gallery_index import AUTO, build_index, check_factory, choose_factory, default_parameters, set_parameters
from .gallery_picture import draw_found, network_name
from .gallery_queries import check_k, query_vectors
from .gallery_rows import Rows
from .search import normalize
from .spaces import check_compatible, check_known_space


class Gallery:
    """Images and an index over their embeddings.

    Make one by `from_folder`, `from_dataset` or `from_embeddings`, or `load` one that was saved.

    Attributes:
        about: Its space, and what else there is to say about it.
        model: The network that embeds images which are added; None after loading.
        open_picture: Opens the picture of an image by its path, for `show`.
    """

    def __init__(self, about: About, rows: Rows) -> None:
        self.about = about
        self.model: PrunNetModel | ForeignEncoder | None = None
        self.open_picture: Callable[[str], Image.Image] = open_image
        self._rows = rows
        self._place: tuple[Path, str] | None = None
        """Where it is saved, and the state in which it is there."""

    @classmethod
    def from_folder(
        cls,
        model: PrunNetModel | ForeignEncoder,
        folder: str | os.PathLike[str],
        factory: str = AUTO,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        skip_corrupt_images: bool = False,
        progress: bool | None = None,
    ) -> Self:
        """Embed a folder of images, and of folders inside it, and index it.

        Args:
            model: A trained network, usually the dense one, or a foreign encoder, on the device to use.
            folder: An image's label is the folder inside it that it lies in, or inside its `train/` or `test/`.
            factory: faiss's factory string, such as `"Flat"` (exact), `"HNSW32"`, `"IVF4096,PQ32"`; `"auto"` chooses
                by the number of images and the machine's memory.
            batch_size: Number of images in a forward pass.
            num_workers: Number of processes that read images.
            skip_corrupt_images: Leave out images that can't be decoded, with a warning.
            progress: Whether to show a bar; by default on a terminal, if it takes some seconds.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it has no images, one can't be decoded, the model has no embedding space, or faiss doesn't
                know the factory string or needs more images for it.
        """
        check_factory(factory, model.config.embedding_dim, lambda: len(images_of(folder)))
        embeddings = embedded_folder(
            model,
            folder,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_corrupt_images=skip_corrupt_images,
            progress=progress,
        )
        gallery = cls.from_embeddings(embeddings, factory)
        gallery.model = model
        return gallery

    @classmethod
    def from_embeddings(cls, embeddings: Embeddings | str | os.PathLike[str], factory: str = AUTO) -> Self:
        """Index embeddings that exist already.

        Args:
            embeddings: `Embeddings` with paths, or the Parquet file of such.
            factory: As in `from_folder`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, two images have the same path, an embedding is zero or not finite, or
                as in `from_folder`.
        """
        if not isinstance(embeddings, Embeddings):
            embeddings = read_embeddings(embeddings)
        return cls._made(candidates_of(embeddings, None), factory)

    @classmethod
    def from_dataset(
        cls,
        model: PrunNetModel | ForeignEncoder,
        dataset: Any,
        factory: str = AUTO,
        *,
        image_column: str = "image",
        label_column: str | None = None,
        path_column: str | None = None,
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> Self:
        """Embed the images of a data set of the `datasets` library, and index them.

        Args:
            model: As in `from_folder`.
            dataset: Any split; its images are read one batch at a time.
            factory: As in `from_folder`.
            image_column: Name of the column with the images.
            label_column: Name of the column with labels, if there is one; class labels become their names.
            path_column: Name of the column with a text that names each image; by default it is `row-<number>`.
            batch_size: Number of images in a forward pass.
            progress: Whether to show a bar; by default on a terminal, if it takes some seconds.

        Raises:
            ValueError: If a column is missing, or as in `from_folder`.
        """
        check_factory(factory, model.config.embedding_dim, lambda: len(dataset))
        images = embedded_dataset(
            model,
            dataset,
            image_column=image_column,
            label_column=label_column,
            path_column=path_column,
            batch_size=batch_size,
            progress=progress,
        )
        gallery = cls._made(images, factory)
        gallery.model = model
        places = {path: place for place, path in enumerate(images.paths)}
        gallery.open_picture = lambda path: (
            to_rgb(dataset[places[path]][image_column]) if path in places else open_image(path)
        )
        return gallery

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, mmap: bool = False) -> Self:
        """Load a gallery that `save` wrote.

        Args:
            folder: Its folder.
            mmap: Leave the index on disk and read what a search needs, where faiss can; for large galleries that many
                processes share. The index file's contents aren't checked then, and the gallery can't change.

        Raises:
            FileNotFoundError: If there is no gallery.
            ValueError: If it is damaged, or of a newer version.
        """
        place = Path(folder).absolute()
        stored = read_gallery(Path(folder), mmap=mmap)
        about = stored.about
        set_parameters(stored.index, about.parameters)
        vectors = partial(read_vectors, place, about, stored.state)
        gallery = cls(about, Rows(stored.index, stored.images, vectors, mapped=mmap))
        gallery._place = place, stored.state
        return gallery

    def save(self, folder: str | os.PathLike[str], *, with_embeddings: bool = True) -> None:
        """Save into a folder, in place of a gallery that is there; whole or not at all.

        Args:
            folder: Created if necessary.
            with_embeddings: Also store the embeddings, from which the index can be made again. Without them images
                can't be removed from all kinds of index.

        Raises:
            FileExistsError: If the folder holds something else, or this gallery was loaded from there, and another
                process has saved there since.
            OSError: If a file can't be written, for instance because the disk is full.
        """
        place = Path(folder).absolute()
        replaces = self._place[1] if self._place is not None and self._place[0] == place else None
        vectors = self._rows.vectors()
        written = vectors if with_embeddings else None
        state = write_gallery(Path(folder), self.about, self._rows.index, self._rows.images, written, replaces)
        if replaces is not None:  # the file that they may be read from has been replaced
            self._rows.hold(partial(read_vectors, place, self.about, state) if with_embeddings else lambda: vectors)
        self._place = place, state

    @property
    def embedding_space(self) -> str:
        """Id of the space of its embeddings."""
        return self.about.embedding_space

    @property
    def paths(self) -> list[str]:
        """The paths of all images, in the order of their rows."""
        paths: list[str] = self._rows.images.column(PATH).to_pylist()
        return paths

    @property
    def labels(self) -> list[str | None]:
        """The labels of all images, in the order of their rows."""
        labels: list[str | None] = self._rows.images.column(LABEL).to_pylist()
        return labels

    def __len__(self) -> int:
        return self.about.num_images

    def __repr__(self) -> str:
        about = self.about
        return (
            f"Gallery({about.num_images:,} images, factory={about.factory!r}, embedding_space="
            f"{about.embedding_space!r},\n  embedded by {about.model or 'a model without a name'} at capacity "
            f"{format_capacity(about.capacity)}, {about.embedding_dim} dimensions)"
        )

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        model: PrunNetPreTrainedModel | ForeignEncoder | None = None,
        embedding_space: str | None = None,
    ) -> Found:
        """Find the most similar images of the gallery for each query.

        Args:
            queries: Images, as `model.encode` takes them; or `Embeddings`; or an array `(num_queries, dim)` with its
                `embedding_space`.
            k: How many images to find for each query.
            model: The network that embeds images: any of the gallery's space, such as a subnetwork; or one whose
                queries were trained for this very index.
            embedding_space: Id of the space of an array.

        Raises:
            TypeError: If images have no `model`, or an array has no `embedding_space`.
            ValueError: If the queries are of another space, have another dimension or aren't finite, `k` is out of
                range, or the gallery is empty.
        """
        array = query_vectors(self.about, self._rows.index, queries, model, embedding_space)
        check_k(k, len(self))
        scores, rows = self._rows.index.search(array, int(k))
        return Found(rows, scores, self._rows.images)

    def show(
        self,
        queries: Any,
        models: Sequence[PrunNetPreTrainedModel | ForeignEncoder],
        k: int = 5,
        *,
        labels: Sequence[str | None] | None = None,
        output: str | os.PathLike[str] | None = None,
    ) -> Image.Image:
        """Draw what networks find for each query: a contact sheet, with a row for each network.

        Args:
            queries: Paths or images; a query that lies in the gallery doesn't find itself.
            models: Networks of the gallery's space, such as the dense one and a subnetwork.
            k: How many images to show for each query.
            labels: One for each query, so that what is right is framed; by default those that the gallery has.
            output: A PNG file to write the picture to as well.

        Returns:
            The picture. A grey square stands for an image whose file is missing or damaged, and is logged.

        Raises:
            FileNotFoundError: If a query is missing, or none of the images that were found is at its path any more.
            TypeError: As in `search`.
            ValueError: As in `search`.
        """
        each = [queries] if isinstance(queries, str | os.PathLike | Image.Image) else list(queries)
        if not each or not models:
            raise ValueError(f"queries and models must each hold at least one; got {len(each)} and {len(models)}.")
        check_k(k, len(self))
        own = [self._row_of(query) for query in each]
        if labels is None:
            labels = [None if row is None else self._rows.images.column(LABEL)[row].as_py() for row in own]
        wanted = min(k + 1, len(self))  # one may be the query itself
        found = {network_name(model): self.search(each, wanted, model=model) for model in models}
        picture = draw_found(each, own, labels, found, k, self.open_picture)
        if output is not None:
            save_picture(picture, Path(output))
        return picture

    def _row_of(self, query: Any) -> int | None:
        """Where a query image lies in the gallery, by its content; None if it doesn't."""
        row = pc.index(self._rows.images.column(DIGEST), digest_of(query)).as_py()
        return None if row < 0 else int(row)

    def add(
        self,
        images: Any,
        *,
        model: PrunNetModel | ForeignEncoder | None = None,
        labels: Sequence[str | None] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        skip_corrupt_images: bool = False,
        progress: bool | None = None,
    ) -> Added:
        """Add images that aren't there yet, by path and content.

        Args:
            images: A folder, images as `model.encode` takes them, or `Embeddings` with paths.
            model: The network that embeds them, of the gallery's space; by default the one that made the gallery.
            labels: One for each image, None for one without; of a folder they are its folders.
            batch_size: Number of images in a forward pass.
            num_workers: Number of processes that read images, if these are a folder or paths.
            skip_corrupt_images: Leave out files that can't be decoded, with a warning.
            progress: Whether to show a bar; by default on a terminal, if it takes some seconds.

        Returns:
            How many images were new, changed or known. The gallery is as before if anything goes wrong.

        Raises:
            TypeError: If there is no model for images.
            ValueError: If the model or the embeddings are of another space, or as in `from_folder`.
        """
        model = model or self.model
        if not isinstance(images, Embeddings):
            if model is None:
                raise TypeError("model must be the network that embeds the images, of the gallery's space; got None.")
            check_compatible(self, model)
        options = Embedding(batch_size, num_workers, skip_corrupt_images, progress)
        added = add_images(self._rows, self.about, candidates_of(images, labels), model, options)
        self._count()
        return added

    def remove(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Remove images. An index that can't do that, such as HNSW, is made again from the stored embeddings.

        Args:
            paths: Of images that are in the gallery.

        Raises:
            ValueError: If there is no image of such a path, or the index would have to be made again, and the
                embeddings weren't stored.
        """
        remove_images(self._rows, self.about, paths)
        self._count()

    def _count(self) -> None:
        self.about = replace(self.about, num_images=len(self._rows))

    @classmethod
    def _made(cls, images: Candidates, factory: str) -> Self:
        """A new gallery of these images, which are embedded already."""
        embeddings = images.embeddings()
        vectors = normalize(embeddings.embeddings)
        count, dim = vectors.shape
        chosen = choose_factory(count, dim) if factory == AUTO else factory
        index = build_index(vectors, chosen)
        about = About(
            embedding_space=check_known_space(embeddings.embedding_space),
            embedding_dim=dim,
            num_images=count,
            capacity=embeddings.capacity,
            model=embeddings.model,
            factory=chosen,
            parameters=default_parameters(index),
        )
        return cls(about, Rows(index, images.table(), lambda: vectors))
