"""The main job: a prompt, a person and a reference become a picture. `python -m deepexpo_models.pipeline --help`."""

__all__ = ["Pipeline"]


def __getattr__(name: str):
    """Loaded when it is asked for: diffusers is no requirement of the rest."""
    if name in __all__:
        from . import generate

        return getattr(generate, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
