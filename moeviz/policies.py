"""What a policy or a predictor of your own imports; see `moeviz.core.policies`."""

from moeviz.core.lists import Lists
from moeviz.core.policies import policy
from moeviz.core.predictors import predictor
from moeviz.core.use import Moment, Use

__all__ = ["Lists", "Moment", "Use", "policy", "predictor"]
