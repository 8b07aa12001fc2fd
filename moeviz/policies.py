"""What a policy or a predictor of your own imports; see `moeviz.core.policies`."""

from moeviz.core.policies import Lists, Moment, Use, policy
from moeviz.core.predictors import predictor

__all__ = ["Lists", "Moment", "Use", "policy", "predictor"]
