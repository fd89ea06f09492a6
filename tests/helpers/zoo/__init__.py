"""Public models' shapes of computation, written anew and small: what is right about each is listed by hand."""

from tests.helpers.zoo import attention, experts, graphs, libraries, others, recurrent, states, transformers, vision
from tests.helpers.zoo.model import Model
from tests.helpers.zoo.parts import normal

__all__ = ["FAMILIES", "ZOO", "Model", "normal"]

FAMILIES = {
    "Transformers": transformers.MODELS,
    "Attention": attention.MODELS,
    "Pictures": vision.MODELS,
    "Time": recurrent.MODELS,
    "State spaces": states.MODELS,
    "Sets and graphs": graphs.MODELS,
    "Experts, adapters, codes": experts.MODELS,
    "Others": others.MODELS,
    "By libraries": libraries.MODELS,
}
ZOO: dict[str, Model] = {name: model for family in FAMILIES.values() for name, model in family.items()}
