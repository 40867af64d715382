"""Optuna's studies: a database that machines share. Optuna is optional and imported only when it is used."""

import importlib
import re
from types import ModuleType
from typing import Any

from utils.errors import UserError


def load_optuna(asked: str) -> ModuleType:
    """Optuna, silent but for warnings. asked: the flag that wants it. Raises `UserError` where it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise UserError(f"{asked}: Optuna is not installed: pip install optuna", "missing-package") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(optuna: ModuleType, storage: str, name: str, **more: Any) -> Any:
    """Create or join a study (`optuna.Study`) that maximises. more: arguments of `optuna.create_study`.

    storage: a URL (sqlite:///file.db, postgresql://...), or the path of a journal file. Raises `UserError`, without the
    password in the URL, if it cannot be opened.
    """
    shown = without_password(storage)
    try:
        place: Any = storage
        if "://" not in storage:
            backend = importlib.import_module("optuna.storages.journal").JournalFileBackend(storage)
            place = optuna.storages.JournalStorage(backend)
        return optuna.create_study(storage=place, study_name=name, direction="maximize", load_if_exists=True, **more)
    except ImportError as error:
        raise UserError(f"--storage {shown}: needs a package that is not installed: pip install "
                        f"{'psycopg2-binary' if error.name == 'psycopg2' else error.name}",
                        "missing-package") from None
    except Exception as error:  # errors of SQLAlchemy and the drivers have no common base
        cause = without_password((str(error).splitlines() or [type(error).__name__])[0])
        raise UserError(f"--storage {shown}: this study cannot be opened: {cause}", "bad-storage") from None


def without_password(text: str) -> str:
    """A text in which addresses of databases stand without user and password."""
    return re.sub(r"//[^@/]*@", "//...@", text)
