"""Typed model of the table of published weights (``configs/released.yaml``). No torch."""

from typing import Any

from pydantic import Field

from pcsr.config.base import Below, Config, Name
from pcsr.config.models import OTHER_URLS


class ReleasedFile(Config):
    """A published file."""

    path: Below = Field(description="path below `released` in PCSR_MIRROR or data/raw")
    url: str | None = Field(default=None, description="download address, if there is one")
    other_urls: tuple[str, ...] = Field(default=(), description=OTHER_URLS)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    git_blob: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{40}$",
        description="the file's id in its git repository, where no sha256 is known",
        exclude_if=lambda blob: blob is None,  # the identity of other files stays what it was
    )


class ReleasedWeights(Config):
    """Weights that the authors of a paper published."""

    files: tuple[ReleasedFile, ...] = Field(
        min_length=1, description="the checkpoint, and any files needed beside it"
    )
    get: str = Field(default="", description="where the user gets files without a url")

    def identity(self) -> dict[str, Any]:
        """Return what the weights depend on: everything but where they come from."""
        origin = {"url", "other_urls"}
        return self.model_dump(mode="json", exclude={"get": True, "files": {"__all__": origin}})


class ReleasedConfig(Config):
    """The table of published weights, by experiment."""

    released: dict[Name, ReleasedWeights]
