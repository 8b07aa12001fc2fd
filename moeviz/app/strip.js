// Tokens to step through, each marked by its kind. data: { of, at, texts, kinds, titles }; kinds are class names of strip.css.

const strips = new WeakMap()

class Strip {
  constructor(parent) {
    this.root = parent.querySelector(".strip-of-tokens")
    this.root.onkeydown = (event) => this.key(event)
  }

  take(data, send) {
    this.send = send
    if (this.of !== data.of) {
      this.of = data.of
      this.at = data.at
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
    this.mark()
  }

  go(index) {
    this.at = Math.max(0, Math.min(index, this.root.children.length - 1))
    this.mark()
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.send(this.at), 200) // one message for a key held down
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
    const above = element.offsetTop - this.root.scrollTop
    if (above < 0 || above > this.root.clientHeight - 40) this.root.scrollTop = element.offsetTop - this.root.clientHeight / 2
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }
    if (!(event.key in moves)) return
    this.go(this.at + moves[event.key])
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
  strip.take(data, (step) => setStateValue("step", step))
  return () => {
    clearTimeout(strip.timer)
    strips.delete(parentElement)
  }
}
