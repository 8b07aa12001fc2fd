// Keys work from anywhere in the document, unless something is being written or chosen there.

let active = null // the stage that the keys are for: the one mounted or touched last

const MOVES = {
  ArrowLeft: (stage, back) => stage.step(-1),
  ArrowRight: (stage) => stage.step(1),
  PageUp: (stage) => stage.step(-WINDOW),
  PageDown: (stage) => stage.step(WINDOW),
  Home: (stage) => stage.go(0),
  End: (stage) => stage.go(stage.model.passes - 1),
  ArrowUp: (stage) => stage.stepExpert(-1),
  ArrowDown: (stage) => stage.stepExpert(1),
  ".": (stage) => stage.stepLayer(1),
  ",": (stage) => stage.stepLayer(-1),
  " ": (stage) => stage.toggle(),
  n: (stage, back) => stage.jump("miss", back),
  e: (stage, back) => stage.jump("eviction", back),
  d: (stage, back) => stage.jump("difference", back),
  g: (stage, back) => stage.jump("regret", back),
  b: (stage) => stage.otherBoard(),
  p: (stage) => stage.present(),
  "+": (stage) => stage.zoom(1.5),
  "=": (stage) => stage.zoom(1.5),
  "-": (stage) => stage.zoom(1 / 1.5),
  0: (stage) => stage.look(null),
  "?": (stage) => stage.help(),
  Escape: (stage) => stage.letGo(),
}

function listen(stage) {
  active = stage
  const touched = () => {
    active = stage
    window.focus() // in a notebook's frame: from now on keys come here
  }
  const pressed = (event) => active === stage && stage.root.isConnected && press(stage, event)
  stage.root.addEventListener("pointerdown", touched)
  // before the host's own shortcuts: Streamlit runs the script again on R
  window.addEventListener("keydown", pressed, true)
  return () => {
    window.removeEventListener("keydown", pressed, true)
    if (active === stage) active = null
  }
}

function press(stage, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return
  const target = event.composedPath()[0]
  const editing = target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName ?? "")
  if (editing && target.type !== "button") return
  if (/^(BUTTON|A|SUMMARY)$/.test(target.tagName ?? "") && (event.key === " " || event.key === "Enter"))
    return
  if (event.key === "Escape" && target.getAttribute?.("aria-expanded") === "true") return // of a menu
  if (target.closest?.("[role=listbox], [role=menu], [role=dialog], [role=tablist], [role=grid]")) return
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
  const action = stage.model.payload.actions.find((one) => one.key && one.key.toLowerCase() === key)
  if (action) stage.emit({ kind: action.id })
  else if (MOVES[key]) MOVES[key](stage, event.shiftKey ? -1 : 1)
  else return
  event.preventDefault()
  event.stopImmediatePropagation()
}
