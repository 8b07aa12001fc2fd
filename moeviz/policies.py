"""What a policy of your own imports; see `moeviz.core.policies`."""

from moeviz.core.policies import Moment, Use, policy

__all__ = ["Moment", "Use", "policy"]
