"""What a policy or a predictor of your own imports; see `moeviz.core.policies`."""

from moeviz.core.policies import Moment, Use, policy
from moeviz.core.predictors import predictor

__all__ = ["Moment", "Use", "policy", "predictor"]
