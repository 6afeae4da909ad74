"""Models, their weights and their facts: code. (The outer ``model_zoo/`` folder holds the weights and cards
themselves.)
"""

from ..facts import ModelFacts
from .importers import import_insightface
from .registry import DEFAULT_DETECTOR, get_model, list_models, model_facts

__all__ = ["DEFAULT_DETECTOR", "ModelFacts", "get_model", "import_insightface", "list_models", "model_facts"]
