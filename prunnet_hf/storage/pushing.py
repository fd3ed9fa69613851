"""Uploads one model to the Hub for `model.push_to_hub`, with a card that says what the model is.

`push_to_hub.py` publishes a whole run with its results.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils.hub import create_and_tag_model_card, hf_api

from ..configuration_prunnet import refuse_copying_code
from .forms import MODEL_FILES

PIPELINE_TAG = "image-feature-extraction"
RELATION_OF_SUBNETWORK = "quantized"
"""The Hub knows adapter, merge, quantized and finetune; this one means smaller files of the same model."""


def push_model(
    model: Any,
    repo_id: str,
    *,
    bands: Sequence[float] | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: Sequence[str] = (),
) -> Any:
    """Upload a model in one commit, which also deletes the repository's files of another form.

    Args:
        model: A PrunNet model.
        repo_id: `org/name`; created if necessary.
        bands: See `save_pretrained`.
        commit_message: Title of the commit.
        commit_description: Its further text.
        private: Whether a new repository is private; None leaves it to the owner's settings.
        token: A token with write access; by default that of `hf auth login` or HF_TOKEN.
        revision: The branch to which to upload, created if necessary.
        create_pr: Open a pull request instead of changing the branch.
        max_shard_size: See `save_pretrained`.
        tags: Added to those of the card.

    Returns:
        The Hub client's `CommitInfo`.
    """
    refuse_copying_code(model)
    hub = hf_api()
    with tempfile.TemporaryDirectory() as folder:
        # Before there is a repository, which would stay empty if the model can't be saved.
        model.save_pretrained(folder, max_shard_size=max_shard_size, bands=bands)
        repo_id = hub.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        card = create_and_tag_model_card(repo_id, list(tags), token=token)  # type: ignore[arg-type]
        for name, value in card_facts(model, repo_id).items():
            if card.data.get(name) is None:
                card.data[name] = value
        if revision is not None and not revision.startswith("refs/pr"):
            hub.create_branch(repo_id=repo_id, branch=revision, token=token, exist_ok=True)
        card.save(Path(folder) / "README.md")
        return hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            token=token,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=list(MODEL_FILES),
        )


def card_facts(model: Any, repo_id: str) -> dict[str, str]:
    """The metadata of a model's card.

    Args:
        model: A PrunNet model.
        repo_id: Where it is uploaded. A model from another repository has that one as its base.
    """
    facts = {"library_name": "transformers", "pipeline_tag": PIPELINE_TAG}
    source = model.config.name_or_path or ""
    if model.is_from_hub and source != repo_id:
        facts["base_model"] = source
        if model.config.capacity < 1.0:
            facts["base_model_relation"] = RELATION_OF_SUBNETWORK
    return facts
