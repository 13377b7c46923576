"""The optional packages, by the optimizer that needs them."""

from importlib.util import find_spec

from pipelines.errors import UserError

PACKAGES = {"adamw-8bit": "bitsandbytes", "schedule-free": "schedulefree", "prodigy": "prodigyopt"}


def installed(name: str) -> bool:
    """Whether an optimizer can be used: some need a package of their own."""
    return name not in PACKAGES or find_spec(PACKAGES[name]) is not None


def require(name: str) -> None:
    """Raise a UserError if an optimizer needs a package that is not installed."""
    if name in PACKAGES:
        require_package(PACKAGES[name], f"optimizer.name is {name!r}")


def require_package(package: str, why: str) -> None:
    """Raise a UserError if a package is not installed that a setting needs.

    Args:
        why: the setting and its value.
    """
    if find_spec(package) is None:
        raise UserError(f"{why}, which needs the package {package}", f"Run: pip install {package}, or choose another")
