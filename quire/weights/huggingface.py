"""Downloads a repository of the Hugging Face hub through its own library and cache.

That library honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and HF_HOME, resumes downloads and
draws the progress bars.
"""

from __future__ import annotations

from pathlib import Path

from quire.errors import ModelError
from quire.weights.hub_files import PICKLED, UNUSED, USED

__all__ = ["download"]


def download(
    model: str, revision: str | None, cache_dir: Path | None, offline: bool, token: str | None
) -> Path:
    """Return the snapshot directory of a model, complete as far as Quire uses it.

    Raises ModelError with the cure.
    """
    # Imported here: 0.24 s that a model in a local directory need not wait for.
    from huggingface_hub import snapshot_download

    def snapshot(patterns: tuple[str, ...]) -> Path:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                token=token,
                allow_patterns=list(patterns),
                ignore_patterns=list(UNUSED),
                library_name="quire",
            )
        )

    try:
        directory = snapshot(USED)
        if not any(directory.glob("*.safetensors")):
            directory = snapshot((*USED, *PICKLED))
    except Exception as error:  # the library lets its HTTP client's errors through
        raise ModelError(_explain(model, revision, offline, error)) from error
    return directory


def _explain(model: str, revision: str | None, offline: bool, error: Exception) -> str:
    """Say what went wrong and what cures it."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    answer = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{model}: gated; accept its terms at {hub}/{model}, then set HF_TOKEN to a token of "
            "that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model}: has no revision {revision!r} on {hub}; see {hub}/{model}/tree/main"
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return (
            f"{model}: no such directory here, and no such model on {hub}; check the spelling "
            "(org/name), or set HF_TOKEN if it is private"
        )
    if offline or constants.HF_HUB_OFFLINE:
        return f"{model}: not in the cache, or not all of it, and offline; run once online"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{model}: {hub} answers: {answer}; try again later, or check HF_TOKEN"
    return (
        f"{model}: no such directory here, and cannot be downloaded from {hub} ({answer}); check "
        "the network and HF_ENDPOINT, then run again: what has arrived is kept"
    )
