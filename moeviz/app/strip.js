// Tokens with a cursor in them, each marked by its kind. data: { of, at, texts, kinds, titles }; kinds are
// class names of strip.css. The cursor goes where the data say when they say something new, and tells Python
// where its user moved it; and which place of a chart beside it was clicked, where the chart says what its
// places are.

const strips = new WeakMap()
const ANSWERED = 3_000 // ms after which no answer to a move comes any more
const MARK = 3 // px of the line under a token, as in strip.css
const MOVES = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }

function typing(event) {
  const target = event.composedPath()[0]
  const role = target.getAttribute?.("role") || ""
  const field = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)
  return target.isContentEditable || field || /^(combobox|slider|radio|tab|option)$/.test(role)
}

// Forward pass, MoE layer and expert of a point, where its chart says them: of each point, or the pass for
// all whose x and y are the rest.
function place({ customdata, data, x, y }) {
  if (typeof data.meta?.pass === "number") return [data.meta.pass, x, y]
  return customdata?.length === 3 && typeof customdata !== "string" ? [...customdata] : null
}

class Strip {
  constructor(parent) {
    this.root = parent.querySelector(".strip")
    this.heard = new WeakSet() // charts
    this.listen = (event) => this.key(event)
    document.addEventListener("keydown", this.listen)
    this.hear = (event) => this.chart(event.target.closest?.(".js-plotly-plot"))
    document.addEventListener("pointerdown", this.hear, true)
    this.sizes = new ResizeObserver(() => this.scroll(true))
    this.sizes.observe(this.root)
  }

  // A chart tells of clicks who asks before the first.
  chart(plot) {
    if (!plot?.on || this.heard.has(plot)) return
    this.heard.add(plot)
    plot.on("plotly_click", ({ points }) => {
      const at = points.map(place).find(Boolean)
      if (at) this.tell("clicked", { at, now: Date.now() })
    })
  }

  close() {
    clearTimeout(this.timer)
    this.sizes.disconnect()
    document.removeEventListener("keydown", this.listen)
    document.removeEventListener("pointerdown", this.hear, true)
    this.tell = () => {}
  }

  take(data, tell) {
    this.tell = tell
    if (this.of !== data.of) {
      this.of = data.of
      this.told = null // pass that the data said last
      this.sent = null // pass that the user moved to, until that is answered
      this.root.replaceChildren(...data.texts.map((text, index) => {
        const element = document.createElement("span")
        element.textContent = text.replaceAll("\n", "⏎\n") || "␣"
        element.setAttribute("role", "option")
        element.onclick = () => this.go(index)
        return element
      }))
    }
    data.kinds.forEach((kind, index) => {
      this.root.children[index].className = kind
      this.root.children[index].title = data.titles[index]
    })
    // while a move of the user's own is on its way, what comes answers an earlier one
    if (data.at === this.sent || Date.now() - this.sentAt > ANSWERED) this.sent = null
    if (this.told !== data.at && !this.timer && this.sent === null) this.at = data.at
    this.told = data.at
    this.mark()
    const left = window.moevizLeft // by the stage, while it played
    window.moevizLeft = null
    if (left?.of === data.of) this.go(left.to)
  }

  go(index) {
    this.at = Math.max(0, Math.min(index, this.root.children.length - 1))
    this.mark()
    clearTimeout(this.timer)
    this.timer = setTimeout(() => { // one message for a key held down
      this.timer = null
      this.sent = this.at
      this.sentAt = Date.now()
      this.tell("moved", { of: this.of, to: this.at, now: this.sentAt })
    }, 150)
  }

  mark() {
    for (const element of this.root.querySelectorAll(".current")) {
      element.classList.remove("current")
      element.setAttribute("aria-selected", "false")
    }
    const element = this.root.children[this.at]
    if (!element) return
    element.classList.add("current")
    element.setAttribute("aria-selected", "true")
    this.root.dataset.step = this.at
    this.scroll(false)
  }

  // Shows whole lines, the first of them the one before the cursor's. Where the cursor is in sight they stay,
  // unless they have just changed: larger text breaks elsewhere.
  scroll(changed) {
    const element = this.root.children[this.at]
    if (!element) return
    const above = element.offsetTop - this.root.scrollTop
    if (!changed && above >= 0 && above <= this.root.clientHeight - 24) return
    const { lineHeight, paddingTop } = getComputedStyle(this.root)
    const line = parseFloat(lineHeight), before = Math.round(element.offsetTop / line) - 1
    this.root.scrollTop = before > 0 ? before * line + parseFloat(paddingTop) + MARK : 0
  }

  key(event) {
    if (!(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey || typing(event)) return
    this.go(this.at + MOVES[event.key])
    event.preventDefault()
  }
}

export default function (component) {
  const { data, parentElement, setStateValue } = component
  let strip = strips.get(parentElement)
  if (!strip) {
    strip = new Strip(parentElement)
    strips.set(parentElement, strip)
  }
  strip.take(data, setStateValue)
  return mounting(parentElement, () => {
    strip.close()
    strips.delete(parentElement)
  })
}
