from dataclasses import replace

from ferbal.plan import Strategy


def tempered(temperature: float = 2.0) -> Strategy:
    """Divide the logits by a temperature in the loss (Guo et al. 2017, arXiv:1706.04599).

    Formula: loss at z -> z / temperature
    Example: tempered(temperature=2)
    """
    return lambda plan: plan.each_stage(
        lambda stage: replace(stage, loss=lambda z, t: stage.loss(z / temperature, t))
    ).noted(f"tempered: logits / {temperature:g}")
