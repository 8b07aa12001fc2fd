// A canvas that knows its size, its colours and its type, and remembers which texts it could not fit.

const COLOURS = [
  "paper",
  "panel",
  "ink",
  "muted",
  "line",
  "a",
  "b",
  "a-mark",
  "b-mark",
  "resident",
  "resident-fill",
  "hit",
  "late",
  "miss",
  "ahead",
  "victim",
  "glyph",
  "wait",
  "link-fill",
  "ahead-fill",
  "other",
]

// Colours and type of an element as its style sheet has them now.
function themeOf(element) {
  const style = getComputedStyle(element)
  const theme = { font: style.fontFamily, size: parseFloat(style.getPropertyValue("--size")) || 14 }
  for (const name of COLOURS) theme[name] = style.getPropertyValue(`--${name}`).trim()
  theme.bits = {} // colours as bytes, for pictures of one pixel a cell
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  for (const name of COLOURS) {
    probe.clearRect(0, 0, 1, 1)
    probe.fillStyle = theme[name]
    probe.fillRect(0, 0, 1, 1)
    theme.bits[name] = new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0]
  }
  return theme
}

// Of texts that were measured, by font and text, until another font has been loaded: a picture measures most
// of them again.
const WIDTHS = new Map()
document.fonts?.addEventListener("loadingdone", () => WIDTHS.clear())

class Sheet {
  constructor(canvas) {
    this.canvas = canvas
    this.context = canvas.getContext("2d")
    this.width = this.height = 0
    this.cut = [] // texts that were shortened in the last picture
    this.least = Infinity // the smallest type of the last picture, px
  }

  // Takes the size that the layout gave the canvas.
  fit(theme) {
    this.theme = theme
    this.width = this.canvas.clientWidth
    this.height = this.canvas.clientHeight
    const ratio = window.devicePixelRatio || 1
    const width = Math.round(this.width * ratio),
      height = Math.round(this.height * ratio)
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width
      this.canvas.height = height
    }
    this.ratio = ratio
  }

  // Takes the size of another sheet, as one that is not shown.
  like({ theme, width, height, ratio, canvas }) {
    Object.assign(this, { theme, width, height, ratio })
    this.canvas.width = canvas.width
    this.canvas.height = canvas.height
  }

  // Draws another sheet of the same size on this one.
  cover({ canvas, cut, least }) {
    this.context.setTransform(1, 0, 0, 1, 0, 0)
    if (canvas.width && canvas.height) this.context.drawImage(canvas, 0, 0)
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
    this.cut.push(...cut)
    this.least = Math.min(this.least, least)
  }

  // All of it, or what is left of `right` and above `bottom`.
  clear(right = this.width, bottom = this.height) {
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
    this.context.clearRect(0, 0, right, bottom)
    this.context.textBaseline = "alphabetic"
    this.cut = []
    this.least = Infinity
  }

  type(size, weight = 400) {
    this.context.font = `${weight} ${size}px ${this.theme.font}`
    this.least = Math.min(this.least, size)
  }

  wide(text, size, weight = 400) {
    const font = `${weight} ${size}px ${this.theme.font}`
    const known = WIDTHS.get(`${font} ${text}`)
    if (known !== undefined) return known
    this.context.font = font
    const wide = this.context.measureText(text).width
    if (WIDTHS.size > 5000) WIDTHS.clear()
    WIDTHS.set(`${font} ${text}`, wide)
    return wide
  }

  // Draws a line of text; where it is wider than `room` it is shortened, and remembered as cut.
  text(
    text,
    x,
    y,
    {
      size = this.theme.size,
      weight = 400,
      colour = "ink",
      align = "left",
      room = Infinity,
      halo = false,
    } = {},
  ) {
    const c = this.context
    this.type(size, weight)
    let shown = text
    if (c.measureText(shown).width > room) {
      this.cut.push(text)
      while (shown.length > 1 && c.measureText(shown + "…").width > room) shown = shown.slice(0, -1)
      shown += "…"
    }
    c.textAlign = align
    if (halo) {
      c.strokeStyle = this.theme.panel
      c.lineWidth = 4
      c.lineJoin = "round"
      c.strokeText(shown, x, y)
    }
    c.fillStyle = this.theme[colour] || colour
    c.fillText(shown, x, y)
  }

  line(x1, y1, x2, y2, colour, width = 1, dash = []) {
    const c = this.context
    c.strokeStyle = this.theme[colour] || colour
    c.lineWidth = width
    c.setLineDash(dash)
    c.beginPath()
    c.moveTo(x1, y1)
    c.lineTo(x2, y2)
    c.stroke()
    c.setLineDash([])
  }
}

// A tooltip: what is said, and what the glossary's terms in it mean.
function tip(element, payload, terms, ...said) {
  const told = terms.map((term) => `${term}: ${payload.glossary[term]}`)
  const text = [...said.filter(Boolean), ...told].join("\n")
  if (element.title !== text) element.title = text
}

function element(name, className = "", text = "") {
  const made = document.createElement(name)
  if (className) made.className = className
  if (text) made.textContent = text
  return made
}
