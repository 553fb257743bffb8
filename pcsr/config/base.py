"""What all configuration models share: their base, and types of names and paths. No torch."""

from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Used in file names, in the workflow's patterns and in its commands. Lowercase only, because some
# file systems do not distinguish A from a.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Local = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$", max_length=1000)]  # a path on this machine
# A path that stays below the folder that it is relative to.
Below = Annotated[str, Field(pattern=r"^\w[\w .@+-]*(/\w[\w .@+-]*)*$", max_length=1000)]


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    # Key of an earlier release -> what to write instead, for the error message.
    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Refuse true and false where a number belongs: pydantic takes them for 1 and 0."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            if not _takes_bool(field.annotation) and _has_bool(values.get(name)):
                raise ValueError(f"{name} must not be true or false; write its value")
        return values


class Facts(Config):
    """Base of the part that is read of a larger JSON file: other keys are allowed."""

    model_config = ConfigDict(extra="ignore")


def _has_bool(value: Any) -> bool:
    """Tell whether a value is or contains a bool; whatever reads files limits their nesting."""
    if isinstance(value, (dict, list, tuple)):
        return any(map(_has_bool, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _takes_bool(annotation: Any) -> bool:
    """Tell whether a type accepts bools, or is a model, which checks its own fields."""
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation in (bool, Any) or is_model or any(map(_takes_bool, get_args(annotation)))
