"""What kinds of text the bundled model's experts are for, and what a text looks like to them.

nearest(trace, step=60).alt      # '... most like those that German uses.'
"""

from __future__ import annotations

import numpy as np

from moeviz.charts import style
from moeviz.charts.chart import Chart
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.trace import Trace
from moeviz.numbers import routing

AROUND = 32  # tokens whose experts are held against the domains


def known(trace: Trace) -> bool:
    """Only the bundled model's experts were counted on text of known domains."""
    shape = next(iter(routing.domain_use().values())).shape
    return trace.model == BUNDLED_NAME and (trace.layers, trace.num_experts) == shape


def favourites() -> Chart:
    """For each expert the domain that it favours: the one that gives it the largest share of its choices
    among all.
    """
    import pandas as pd

    use = routing.domain_use()
    names, shares = list(use), np.stack(list(use.values()))  # [domain, L, E]
    _, layers, experts = shares.shape
    favour = shares.argmax(0)
    times = shares.max(0) / np.maximum(shares.mean(0), 1e-12)  # as large as the mean domain's share
    figure = style.blank("MoE layer", "expert", 90 + 46 * experts)
    for number, name in enumerate(names):
        own = favour == number  # [L, E]
        color = style.SERIES[number % len(style.SERIES)]
        figure.add_heatmap(
            z=np.where(own, times, np.nan).T,
            zmin=0.8,
            zmax=3,
            colorscale=[[0, "#FFFFFF"], [1, style.pale(color)]],
            showscale=False,
            xgap=2,
            ygap=2,
            name=name,
            text=np.where(own, name.capitalize(), "").T,
            texttemplate="%{text}",
            textfont={"size": 14, "color": "#000"},
            customdata=shares[number].T,
            hovertemplate=(
                f"layer %{{x}}, expert %{{y}}: %{{customdata:.0%}} of its layer's choices on {name}, "
                "%{z:.1f} times the mean domain<extra></extra>"
            ),
        )
    figure.update_xaxes(dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(dtick=1, showgrid=False, zeroline=False, range=[experts - 0.5, -0.5])
    figure.update_layout(showlegend=False)
    layer, expert = np.indices((layers, experts)).reshape(2, -1)
    table = pd.DataFrame(
        {
            "MoE layer": layer,
            "expert": expert,
            "favours": [names[favour[a, b]] for a, b in zip(layer, expert, strict=True)],
            "times the mean": times.ravel(),
            **{name: values.ravel() for name, values in use.items()},
        }
    )
    best = np.unravel_index(int(times.argmax()), times.shape)
    alt = (
        f"Clearest: layer {best[0]}'s expert {best[1]} favours {names[favour[best]].capitalize()} and is "
        f"chosen there {times[best]:.1f} times as often as in the mean domain."
    )
    return Chart("Which domain each expert favours", figure, table, "recorded", alt)


def nearest(trace: Trace, step: int) -> Chart:
    """How alike the experts of the 32 tokens around each token are to each domain's; `step` is the pass under
    the cursor.
    """
    import pandas as pd

    use = routing.domain_use()
    names = list(use)
    alike = routing.likeness(trace, use, AROUND, centred=True)
    at = trace.passes()[step].stop - 1
    figure = style.blank(style.TOKENS, "likeness (cosine)", 260)
    figure.update_layout(legend_itemwidth=44)  # wide enough for the longest dash
    for number, (name, values) in enumerate(zip(names, alike, strict=True)):
        figure.add_scatter(y=values, name=name.capitalize(), mode="lines", line=style.line(number))
    figure.update_yaxes(range=[float(alike.min()) - 0.03, min(1.0, float(alike.max()) + 0.03)])
    figure.add_vline(at, line={"color": style.CURSOR, "width": 2})
    table = pd.DataFrame(alike.T, columns=names)
    table.insert(0, "token", range(trace.tokens))
    nearest = names[int(alike[:, at].argmax())].capitalize()
    alt = f"Over the {AROUND} tokens around the cursor the experts are most like those that {nearest} uses."
    return Chart("What the text is about, told from its experts alone", figure, table, "recorded", alt)
