"""Interventions. Importing this package registers every published method."""

import importlib
import pkgutil

from plasticity.interventions import methods

for _module in pkgutil.iter_modules(methods.__path__):
    importlib.import_module(f"{methods.__name__}.{_module.name}")
