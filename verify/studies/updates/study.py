"""The training behind `verify updates`: every width of one optimizer, of which the updates' sizes are kept."""

from verify.studies.exponents.judged import Result
from verify.studies.exponents.study import exponents
from verify.studies.study import Progress
from verify.studies.updates.conditions import Conditions, Updates
from verify.training.config import Config
from verify.training.data import Corpus

KEPT = ("delta_w", "operator_norm", "term_alpha", "input")


def kept(result: Result) -> Updates:
    """What is kept of a trained study."""
    sizes = {
        step: {name: {each: of[each] for each in KEPT if each in of} for name, of in result.tables[step].items()}
        for step in (min(result.tables), max(result.tables))
    }
    return Updates(result.runs[0].kinds, tuple(result.divergences), sizes)


def train(conditions: Conditions, corpus: Corpus, progress: Progress = lambda _: None) -> Updates:
    """Train every width and seed; StudyError where all of them diverge in their first step."""
    sizes = {"context": conditions.context, "hidden_layers": conditions.hidden_layers, "vocabulary": corpus.vocabulary}
    config = Config(
        conditions.prescription(), conditions.base_width, conditions.base_rate, batch=conditions.batch, sizes=sizes
    )
    seeds = range(conditions.seeds)
    result = exponents(config, conditions.widths, seeds, conditions.steps, corpus, lambda: progress(1))
    return kept(result)
