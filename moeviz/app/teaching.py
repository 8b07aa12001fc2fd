"""What the lessons' page is made of: reading and predicting on the left, a picture or the stage on the right.

The prediction lives in the session; what was right stays in the link as well. The game and the made-up texts
are in `playing` and `making`.

    one = teaching.choose()
    given = teaching.predict(one)
"""

from __future__ import annotations

import streamlit as st

from moeviz.app import components, first_visit, kept, lectern, links, show, traces
from moeviz.app.room import HALL
from moeviz.app.stage import stage
from moeviz.charts.stage import all_timed, stage_payload
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.lessons import (
    Answer,
    Choice,
    Guess,
    Lab,
    Lesson,
    Picture,
    Shown,
    lessons,
    sheet,
)
from moeviz.lessons.progress import Progress, parse, record
from moeviz.words import hit_verdict

# Text and buttons take the height that the window has. A long text moves by itself and fades where it goes
# on; the stage beside it stays, and the buttons under it, where there are some.
STYLE = """<style>
@media (min-width: 900px) {
  .stVerticalBlock:has(> * > .st-key-lesson-text) {
    max-height: calc(100vh - var(--title, 7.25rem) - 12px - var(--above, 4.25rem)); /* less two rows for it */
  }
  :has(> .st-key-lesson-text) { flex: 0 1 auto; min-height: 0; }
  .st-key-lesson-text { overflow-y: auto; padding-bottom: 1rem; gap: 0.5rem; }
  .st-key-lesson-text p { line-height: 1.45; }
  .st-key-lesson-text { mask-image: linear-gradient(to top, transparent, #000 0.75rem); }
  .st-key-lesson-text > *, :has(> .st-key-lesson-onward) { flex-shrink: 0; }
}
.st-key-lesson-title [data-testid=stMarkdownContainer] { margin: 0; } /* in the middle of its row */
.st-key-lesson-title h1 { padding: 0; }
.st-key-lesson-text [data-testid=stAlertContainer] { padding: 0.45rem 0.9rem; }
.st-key-lesson-text [class*=st-key-again] button { min-height: 1.6rem; padding: 0; }
/* a projector of 720 lines holds every sentence, and the picture where it is asked for */
@media (min-width: 900px) and (max-height: 950px) {
  .st-key-lesson-text { gap: 0.25rem; }
  .st-key-lesson-text p { font-size: 0.92rem; }
}
@media (min-width: 900px) and (max-height: 850px) { :has(> .st-key-lesson-answer) { display: none; } }
@media (max-width: 1400px) { .stMainBlockContainer h1 { font-size: 1.3rem; } }
@media (max-width: 640px) { .st-key-lesson button { min-width: 2.4rem; padding-inline: 0.2rem; } }
</style>"""
BELOW = 14  # px left free under the stage: the page's own margin, so that nothing scrolls
LINK = "progress"  # its name in the link
SEEN = "?"  # a prediction that a link remembers only as right or wrong


def _load(name: str) -> tuple[Trace, Run | None]:
    return traces.load(f"sample: {name}")


LAB = Lab(_load, kept.replayed)


@st.cache_resource(show_spinner="Computing the answer", max_entries=32)
def answered(number: int) -> Answer:
    """A lesson's answer, computed once for every session."""
    return lessons()[number].answer(LAB)


@st.cache_resource(show_spinner="Drawing", max_entries=32)
def pictured(number: int) -> tuple[Picture, ...]:
    """A lesson's pictures, drawn once for every session."""
    return lessons()[number].pictures(LAB)


def progress() -> Progress:
    """What the link says of the lessons so far; nothing where it is no progress."""
    found = parse(links.get(LINK), len(lessons()))
    if found is None:
        st.toast("The link's progress is none of these lessons'. It begins anew.")
        links.put(LINK, "")
    return found or Progress()


def choose() -> Lesson:
    """Draws the lesson's title, the choice of another, and the score."""
    state, found, several = st.session_state, progress(), lessons()
    linked = links.get("lesson")
    if state.get("lesson") not in range(len(several)):
        known = linked in map(str, range(len(several)))
        if linked and not known:
            st.toast(
                show.plain(f"The link names lesson {linked[:40]}, which there is not. The first is shown.")
            )
        state.lesson = int(linked) if known else 0
    marks = {None: "", True: " ✓", False: " ✗"}
    with st.container(horizontal=True, vertical_alignment="center"):
        number = st.segmented_control(
            "Lesson",
            [one.number for one in several],
            format_func=lambda number: f"{number}{marks[found.of(number)]}",
            required=True,
            key="lesson",
            label_visibility="collapsed",
        )
        title = st.container(width="content", key="lesson-title")  # after the choice, which keeps its place
        if found.answered and not state.presenter:  # a class has its own count
            st.markdown(f"{found.right} of {found.answered} right", width="content")
        with lectern.drawer():
            if not state.presenter:
                downloads()
            lectern.control()
    one = several[int(number or 0)]
    links.put_default("lesson", str(one.number))
    st.html(STYLE)
    title.title(f"{one.number}. {one.title}", anchor=False)
    return one


def downloads() -> None:
    """Sheets for paper: questions for the class, answers for who teaches it."""
    st.markdown("**Sheets**, to print on A4 or Letter")
    show.download("Questions", lambda: sheet.students(lessons(), LAB), "moeviz-lessons.html")
    show.download(
        "Answers and a plan of 45 minutes",
        lambda: sheet.lecturer(lessons(), LAB),
        "moeviz-lessons-answers.html",
        key="answers",
    )


def predict(one: Lesson) -> float | str | None:
    """Draws the question. Gives what was predicted, or SEEN where only the link knows, a room predicted, or
    the first visit has told the answer, or None while it is open.
    """
    if (room := HALL.room) is not None:  # which another tab may close at any moment: asked for once
        return SEEN if lectern.predicted(room, one, lambda: answered(one.number).right) else None
    state = st.session_state
    said: dict[int, float] = state.setdefault("predicted", {})
    known = progress().of(one.number) is not None or first_visit.tells(one.number)
    anew = one.number in state.setdefault("anew", set())
    given = said.get(one.number, SEEN if known and not anew else None)
    for paragraph in one.read if given is None else ():
        st.markdown(show.plain(paragraph))
    st.markdown(f"**{show.plain(one.ask)}**")
    if given is not None:
        return given
    if (asked := _asked(one.predict, one.number)) is None:
        return None
    said[one.number] = asked
    after = record(progress(), one.number, one.predict.right(asked, answered(one.number).right))
    links.put(LINK, after.text)
    st.rerun()


def _asked(kind: Choice | Guess, number: int) -> float | None:
    if isinstance(kind, Choice):
        for n, option in enumerate(kind.options, start=1):
            if st.button(show.plain(f"{n}  {option}"), key=f"choice-{n}", width="stretch"):
                return float(n - 1)
        return None
    moved = f"moved-{number}"

    def move() -> None:
        st.session_state[moved] = True

    middle = (kind.least + kind.most) // 2
    given = st.slider(
        "Your prediction",
        kind.least,
        kind.most,
        middle,
        format=f"%d{kind.unit.replace('%', '%%')}",
        key=f"guess-{number}",
        label_visibility="collapsed",
        on_change=move,
    )
    open_ = moved not in st.session_state  # where the slider stands by itself nobody predicted anything
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Reveal", key="choice-1", type="primary", icon=":material/visibility:", disabled=open_):
            del st.session_state[moved]
            return float(given)
        if open_:
            st.markdown("Move the slider to your prediction.")
    return None


def explain(one: Lesson, given: float | str) -> str:
    """Draws what came out, and why; gives what is chosen to stand beside it."""
    answer = answered(one.number)
    right = f"**{show.plain(one.predict.text(answer.right))}**"
    before = progress().of(one.number) if HALL.room is None else None
    if isinstance(given, str) and before is not None:  # of what was said the link keeps that alone
        if before:
            st.success(f"You predicted right: {right}", icon=":material/check:")
        else:
            st.error(f"You predicted something else. It is: {right}", icon=":material/close:")
    elif isinstance(given, str):
        if HALL.room is None or isinstance(one.predict, Guess):  # a class's bars mark the right choice
            st.markdown(f"The answer: {right}")
    elif (told := one.predict.text(given)) == one.predict.text(answer.right):
        st.success(f"Right: {right}", icon=":material/check:")
    elif one.predict.right(given, answer.right):
        st.success(f"Close enough: you said {show.plain(told)}, it is {right}", icon=":material/check:")
    else:
        st.error(f"You said {show.plain(told)}. It is: {right}", icon=":material/close:")
    # in what moves, so that a keyboard reaches it, and at its top, where its edge cuts nothing
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Predict again",
            key=f"again-{one.number}",
            type="tertiary",
            icon=":material/replay:",
            on_click=_again,
            args=(one.number,),
        )
        beside = _view(one)
    for said in answer.why:
        if said.holds:
            st.markdown(show.plain(said.text))
    if not st.session_state.presenter and beside != "Picture":  # else it is large, on the right alone
        with st.container(key="lesson-answer"):
            picture_of_answer(one, given)
    return beside


def picture_of_answer(one: Lesson, given: float | str) -> None:
    """What the sentences speak of as a drawing, where there is one; with what was predicted, by this visitor
    or by a room's class in the middle, where the drawing has a place for it.
    """
    guess: float | str | None
    answer, guess, whose = answered(one.number), given, "your guess"
    if (room := HALL.room) is not None:
        guess, whose = room.middle(one), "the class's guess"
    found = answer.picture
    if answer.with_guess is not None and isinstance(guess, float):
        found = answer.with_guess(guess, whose)
    if found is not None:
        picture(found, f"why-{one.number}")


def before(one: Lesson) -> str:
    """What stands beside the question: "Game" or "Picture"."""
    return "Game" if one.extra == "game" else "Picture"


def _view(one: Lesson) -> str:
    """What stands beside the answer: "Game", "Stage" or "Picture", chosen where there are several."""
    game_too = ["Game"] if one.extra == "game" else []
    pictured_too = ["Picture"] if answered(one.number).picture else []
    several = [*game_too, "Stage", *pictured_too]
    if len(several) == 1:
        return "Stage"
    chosen = st.segmented_control(
        "Show",
        several,
        default="Stage",
        required=True,
        key=f"view-{one.number}",
        label_visibility="collapsed",
    )
    return str(chosen)


def onward(one: Lesson) -> None:
    """Draws where to go on."""
    with st.container(key="lesson-onward", horizontal=True, vertical_alignment="center"):
        if one.number + 1 < len(lessons()):
            st.button("Next lesson", key="next", type="primary", on_click=_next, args=(one.number + 1,))
        to = one.try_it
        st.page_link(f"pages/{to.page}.py", label=to.label, icon=":material/tune:", query_params=to.link)


def _next(number: int) -> None:
    st.session_state.lesson = number


def _again(number: int) -> None:
    """The first prediction stays the one that counts; a room's count begins anew."""
    if (room := HALL.room) is not None:
        room.ask_again(lessons()[number])
        return
    st.session_state.predicted.pop(number, None)
    st.session_state.setdefault("anew", set()).add(number)


def picture(one: Picture, key: str) -> None:
    """A drawing and its sentence."""
    components.drawing(one.svg, key)
    st.caption(show.plain(one.text))


def pictures(one: Lesson) -> None:
    """The pictures before the prediction, with steps where they are several."""
    several = pictured(one.number)
    key = f"picture-{one.number}"
    at = min(int(st.session_state.get(key, 0)), len(several) - 1)
    with st.container(key="lesson-picture"):
        if len(several) == 1:
            picture(several[0], f"before-{one.number}")
            return
        components.drawing(several[at].svg, f"before-{one.number}")
        st.markdown(show.plain(several[at].text))
        with st.container(horizontal=True, vertical_alignment="center"):
            _step("Back", key, at - 1, at > 0)
            _step("Next", key, at + 1, at < len(several) - 1)
            st.caption(f"Step {at + 1} of {len(several)}")


def _step(label: str, key: str, to: int, possible: bool) -> None:
    def move() -> None:
        st.session_state[key] = to

    st.button(label, key=f"{key}-{label}", on_click=move, disabled=not possible)


def reveal(shown: Shown) -> None:
    """The stage, with the cursor where the lesson wants it."""
    trace, two = shown.trace, shown.settings
    measured = [shown.measured] if shown.measured is not None else []
    over = (shown.link, LAB.costs(shown.link)) if shown.link else None
    runs = [kept.replayed(trace, one) for one in two]
    alike = all_timed(runs, measured)
    changes = kept.changes(trace) if shown.changes is None else list(shown.changes)
    payload = stage_payload(
        trace,
        runs,
        bound=kept.bound(trace, two),
        measured=measured,
        parts=[kept.part(trace, one, measured, over, alike) for one in two],
        changes=changes,
        title=shown.title,
        verdict=hit_verdict(trace, runs, changes),
    )
    stage(payload, "lesson-stage", seek=shown.seek(), presenter=st.session_state.presenter, below=BELOW)
