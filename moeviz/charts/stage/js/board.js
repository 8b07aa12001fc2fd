// One board: experts x layers of one run at the cursor, with its name, its settings, its hits so far, and its link below.

const GLYPHS = { [HIT]: "●", [LATE]: "◐", [MISS]: "✕", [PREFETCHED]: "▸" }
const FILLS = { [RESIDENT]: "resident-fill", [HIT]: "hit", [LATE]: "late", [MISS]: "miss", [PREFETCHED]: "ahead-fill" }
const FLAT = { [RESIDENT]: "resident", [HIT]: "hit", [LATE]: "late", [MISS]: "miss", [PREFETCHED]: "ahead" }
const WORST = [0, 1, 3, 4, 5, 2] // of states, for cells that show several: a miss hides a hit, a hit hides who is only there
const LEAST = 3.4 // px; cells that would be smaller are pooled

class Board {
  constructor(stage, number) {
    this.stage = stage
    this.number = number
    this.root = element("section", `board ${number ? "b" : "a"}`)
    this.head = element("div", "head")
    this.name = element("h2", "name")
    this.menus = element("div", "menus")
    this.counts = element("div", "counts")
    this.ratio = element("div", "ratio")
    this.head.append(this.name, this.menus, this.counts, this.ratio)
    this.canvas = element("canvas", "cells")
    this.canvas.setAttribute("role", "img")
    this.note = element("div", "note")
    this.root.append(this.head, this.canvas, this.note)
    this.sheet = new Sheet(this.canvas)
    this.link = new Link(this)
    this.pass = 0
    this.t = 1
    this.pointer()
  }

  take(run) {
    this.run = run
    const { model } = run
    this.states = new Uint8Array(model.cells)
    this.shownAt = ""
    this.root.setAttribute("aria-label", run.about.label)
    this.pass = Math.min(this.pass, model.passes - 1)
    this.stage.transport.menus(this)
    this.numbers()
  }

  fit(theme) {
    this.theme = theme
    this.sheet.fit(theme)
    const { layers, experts } = this.run.model
    const size = theme.size
    this.linkHeight = this.link.height(theme)
    const left = Math.ceil(Math.max(this.sheet.wide("expert", size), this.sheet.wide(String(Math.max(layers, experts)), size))) + 8
    const room = { width: this.sheet.width - left - 2, height: this.sheet.height - this.linkHeight - size - 12 }
    // layers run across unless cells come out squarer with the experts across
    const upright = Math.min(room.width / layers, room.height / experts)
    const lying = Math.min(room.width / experts, room.height / layers)
    this.across = lying > upright ? "expert" : "layer"
    this.columns = this.across === "layer" ? layers : experts
    this.rows = this.across === "layer" ? experts : layers
    this.left = left
    const view = this.stage.view ?? { x: 0, y: 0, zoom: 1 }
    const seenX = Math.min(this.columns, Math.max(4, Math.ceil(this.columns / view.zoom)))
    const seenY = Math.min(this.rows, Math.max(4, Math.ceil(this.rows / view.zoom)))
    this.x0 = clamp(Math.round(view.x * this.columns - seenX / 2), 0, this.columns - seenX)
    this.y0 = clamp(Math.round(view.y * this.rows - seenY / 2), 0, this.rows - seenY)
    // where a column is narrower than its name, the name takes a line of its own
    const names = this.across === "layer" ? ["layer", "expert"] : ["expert", "layer"]
    ;[this.columnName, this.rowName] = names
    this.ownLine = room.width / seenX < this.sheet.wide(`${this.columnName} 0`, size)
    if (this.ownLine) room.height -= Math.ceil(size * 1.1)
    this.top = this.sheet.height - this.linkHeight - 2 - room.height
    this.room = room
    this.poolX = Math.ceil(seenX / Math.max(1, Math.floor(room.width / LEAST)))
    this.poolY = Math.ceil(seenY / Math.max(1, Math.floor(room.height / LEAST)))
    this.nx = Math.ceil(seenX / this.poolX)
    this.ny = Math.ceil(seenY / this.poolY)
    this.w = room.width / this.nx
    this.h = room.height / this.ny
    this.small = Math.min(this.w, this.h) < 7
    this.sayView()
    this.shownAt = ""
  }

  sayView() {
    const { phrases } = this.run.model.payload
    const view = this.stage.view
    let text = ""
    if (this.poolX * this.poolY > 1) {
      const parts = []
      if (this.poolX > 1) parts.push(`${this.poolX} ${this.across}s`)
      if (this.poolY > 1) parts.push(`${this.poolY} ${this.across === "layer" ? "experts" : "layers"}`)
      text = say(phrases.pooled, { n: parts.join(" × ") })
    } else if (view && view.zoom > 1) {
      const x = [this.x0, this.x0 + this.nx - 1], y = [this.y0, this.y0 + this.ny - 1]
      const [layers, experts] = this.across === "layer" ? [x, y] : [y, x]
      text = say(phrases.zoomed, { a: layers[0], b: layers[1], c: experts[0], d: experts[1] })
    }
    this.note.textContent = text
    this.note.hidden = !text
  }

  cellAt(column, row) {
    const { experts } = this.run.model
    return this.across === "layer" ? column * experts + row : row * experts + column
  }

  // Middle of a cell on the canvas; null where it is out of view.
  place(cell) {
    const { experts } = this.run.model
    const layer = Math.floor(cell / experts), expert = cell % experts
    const [column, row] = this.across === "layer" ? [layer, expert] : [expert, layer]
    const x = Math.floor((column - this.x0) / this.poolX), y = Math.floor((row - this.y0) / this.poolY)
    if (x < 0 || y < 0 || x >= this.nx || y >= this.ny) return null
    return { x: this.left + (x + 0.5) * this.w, y: this.top + (y + 0.5) * this.h }
  }

  // States at the cursor, walked only when it moved.
  picture() {
    const { stage, run } = this
    const layer = stage.apart ? null : stage.layer
    const at = `${this.pass} ${layer}`
    if (this.shownAt === at) return
    this.shownAt = at
    if (layer === null) run.frame(this.pass, this.states)
    else run.moment(this.pass * run.model.layers + layer, this.states)
    this.crossing = run.clock.crossings(this.pass)
  }

  // The state that a place on the grid shows: of several cells the one that matters most.
  stateAt(x, y) {
    if (this.poolX * this.poolY === 1) return this.states[this.cellAt(this.x0 + x, this.y0 + y)]
    let worst = EMPTY
    const right = Math.min(this.x0 + (x + 1) * this.poolX, this.columns), bottom = Math.min(this.y0 + (y + 1) * this.poolY, this.rows)
    for (let column = this.x0 + x * this.poolX; column < right; column++) {
      for (let row = this.y0 + y * this.poolY; row < bottom; row++) {
        const state = this.states[this.cellAt(column, row)]
        if (WORST[state] > WORST[worst]) worst = state
      }
    }
    return worst
  }

  draw() {
    this.picture()
    this.sheet.clear()
    this.axes()
    if (this.small) this.drawSmall()
    else this.drawCells()
    this.drawSelected()
    this.link.draw()
    this.numbers()
  }

  axes() {
    const { sheet, theme } = this
    const size = theme.size
    const everyX = Math.ceil((sheet.wide("000", size) + 6) / (this.w / this.poolX)), everyY = Math.ceil((size * 1.15) / (this.h / this.poolY))
    const now = this.stage.layer
    const base = this.top - 9
    if (this.ownLine) sheet.text(`${this.columnName}s`, this.left + 2, base - size * 1.1, { colour: "muted" })
    for (let column = this.x0; column < this.x0 + this.nx * this.poolX && column < this.columns; column += everyX) {
      const label = column === this.x0 && !this.ownLine ? `${this.columnName} ${column}` : String(column)
      const x = this.left + ((column - this.x0 + 0.5) / this.poolX) * this.w
      const bold = this.across === "layer" && column === now
      sheet.text(label, Math.min(x, sheet.width - sheet.wide(label, size) / 2), base, {
        align: "center", colour: bold ? "ink" : "muted", weight: bold ? 700 : 400,
      })
    }
    sheet.text(this.rowName, 0, base, { colour: "muted" })
    for (let row = this.y0; row < this.y0 + this.ny * this.poolY && row < this.rows; row += everyY) {
      const y = this.top + ((row - this.y0) / this.poolY + 0.5 / this.poolY) * this.h
      const bold = this.across === "expert" && row === now
      sheet.text(String(row), this.left - 8, y + size * 0.36, {
        align: "right", colour: bold ? "ink" : "muted", weight: bold ? 700 : 400,
      })
    }
  }

  // How far a missing expert has come while its pass is played: 0 to 1.
  arrived(cell) {
    if (this.t >= 1 || this.stage.still) return 1
    const one = this.crossing.get(cell)
    return one ? clamp((this.t - one.start) / Math.max(one.end - one.start, 1e-6), 0, 1) : 1
  }

  drawCells() {
    const { sheet, theme } = this
    const c = sheet.context
    const gap = Math.min(this.w, this.h) > 16 ? 2 : 1
    const w = this.w - 2 * gap, h = this.h - 2 * gap
    const round = Math.min(5, w / 4, h / 4)
    const glyph = Math.min(w, h) >= 10
    const size = Math.min(h * 0.62, w * 0.62, theme.size * 1.6)
    const box = (x, y) => {
      c.beginPath()
      c.roundRect(this.left + x * this.w + gap, this.top + y * this.h + gap, w, h, round)
    }
    const outline = Math.min(w, h) > 14 ? 2 : 1
    c.lineWidth = outline
    for (let y = 0; y < this.ny; y++) {
      for (let x = 0; x < this.nx; x++) {
        const state = this.stateAt(x, y)
        box(x, y)
        if (state === EMPTY) {
          c.fillStyle = theme.paper
          c.fill()
          c.strokeStyle = theme.line
          c.lineWidth = 1
          c.stroke()
          c.lineWidth = outline
          continue
        }
        const part = state === MISS ? this.arrived(this.cellAt(this.x0 + x, this.y0 + y)) : 1
        if (part < 1) {
          c.fillStyle = theme.paper
          c.fill()
          c.save()
          c.clip()
          c.fillStyle = theme.miss
          c.fillRect(this.left + x * this.w + gap, this.top + y * this.h + gap + h * (1 - part), w, h * part)
          c.restore()
          c.strokeStyle = theme.miss
        } else {
          c.fillStyle = theme[FILLS[state]]
          c.fill()
          c.strokeStyle = theme[state === MISS ? "miss" : state === LATE ? "late" : state === PREFETCHED ? "ahead" : "resident"]
        }
        c.stroke()
        if (glyph && GLYPHS[state]) {
          const colour = state === PREFETCHED ? "ahead" : part < 0.6 ? "miss" : "glyph"
          this.glyph(state, this.left + (x + 0.5) * this.w, this.top + (y + 0.5) * this.h, size, colour)
        }
      }
    }
    if (this.poolX * this.poolY === 1) this.drawDifferences(gap, w, h)
  }

  // Drawn, not written: fonts differ in where they put these signs.
  glyph(state, x, y, size, colour) {
    const c = this.sheet.context
    const r = size * 0.36
    c.fillStyle = c.strokeStyle = this.theme[colour]
    c.lineWidth = Math.max(1.5, size * 0.15)
    c.lineCap = "round"
    c.beginPath()
    if (state === HIT) {
      c.arc(x, y, r * 0.8, 0, 2 * Math.PI)
      c.fill()
    } else if (state === MISS) {
      c.moveTo(x - r * 0.75, y - r * 0.75)
      c.lineTo(x + r * 0.75, y + r * 0.75)
      c.moveTo(x + r * 0.75, y - r * 0.75)
      c.lineTo(x - r * 0.75, y + r * 0.75)
      c.stroke()
    } else if (state === LATE) {
      c.arc(x, y, r * 0.85, 0, 2 * Math.PI)
      c.stroke()
      c.beginPath()
      c.arc(x, y, r * 0.85, Math.PI / 2, (3 * Math.PI) / 2)
      c.fill()
    } else {
      c.moveTo(x - r * 0.6, y - r * 0.8)
      c.lineTo(x + r * 0.8, y)
      c.lineTo(x - r * 0.6, y + r * 0.8)
      c.fill()
    }
    c.lineCap = "butt"
  }

  // A dark corner where one board finds an expert that the other does not.
  drawDifferences(gap, w, h) {
    const other = this.stage.boards[1 - this.number]
    if (!other || this.stage.apart) return
    other.picture()
    const c = this.sheet.context
    c.fillStyle = this.theme.ink
    const side = Math.min(w, h) * (Math.min(w, h) > 14 ? 0.3 : 0.45)
    for (let y = 0; y < this.ny; y++) {
      for (let x = 0; x < this.nx; x++) {
        const cell = this.cellAt(this.x0 + x, this.y0 + y)
        const mine = this.states[cell], theirs = other.states[cell]
        if (!differ(mine, theirs)) continue
        const right = this.left + (x + 1) * this.w - gap, top = this.top + y * this.h + gap
        c.beginPath()
        c.moveTo(right - side, top)
        c.lineTo(right, top)
        c.lineTo(right, top + side)
        c.fill()
      }
    }
  }

  // Cells too small for outlines: a picture of one pixel a cell, enlarged.
  drawSmall() {
    const { theme, nx, ny } = this
    if (!this.tiny || this.tiny.width !== nx || this.tiny.height !== ny) {
      this.tiny = element("canvas")
      this.tiny.width = nx
      this.tiny.height = ny
      this.tinyContext = this.tiny.getContext("2d")
      this.tinyImage = this.tinyContext.createImageData(nx, ny)
      this.tinyBits = new Uint32Array(this.tinyImage.data.buffer)
    }
    const bits = [theme.bits.paper, 0, 0, 0, 0, 0]
    for (const state of [RESIDENT, HIT, LATE, MISS, PREFETCHED]) bits[state] = theme.bits[FLAT[state]]
    bits[RESIDENT] = theme.bits["resident-fill"]
    for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++) this.tinyBits[y * nx + x] = bits[this.stateAt(x, y)]
    this.tinyContext.putImageData(this.tinyImage, 0, 0)
    const c = this.sheet.context
    c.imageSmoothingEnabled = false
    c.drawImage(this.tiny, this.left, this.top, this.room.width, this.room.height)
    c.strokeStyle = theme.line
    c.lineWidth = 1
    c.strokeRect(this.left - 0.5, this.top - 0.5, this.room.width + 1, this.room.height + 1)
  }

  // The selected expert, who leaves and who comes for it, and an arrow from one to the other.
  drawSelected() {
    const { stage } = this
    const facts = stage.facts && stage.selected.board === this.number ? stage.facts : null
    if (!stage.selected || stage.playing) return
    const { experts } = this.run.model
    this.frame(stage.selected.layer * experts + stage.selected.expert, "ink", facts ? 3.5 : 1.5, [])
    if (!facts || facts.victim < 0) return
    const from = this.place(facts.newcomer), to = this.place(facts.victim)
    this.frame(facts.victim, "victim", 3, [5, 3])
    if (facts.newcomer !== facts.cell) this.frame(facts.newcomer, "victim", 2, [])
    if (!from || !to || this.small) return
    const c = this.sheet.context
    const bend = this.across === "layer" ? { x: -this.w * 0.62, y: 0 } : { x: 0, y: -this.h * 0.62 }
    const start = { x: from.x + bend.x * 0.5, y: from.y + bend.y * 0.5 }, end = { x: to.x + bend.x * 0.5, y: to.y + bend.y * 0.5 }
    c.strokeStyle = c.fillStyle = this.theme.victim
    c.lineWidth = 2
    c.beginPath()
    c.moveTo(start.x, start.y)
    c.quadraticCurveTo((start.x + end.x) / 2 + bend.x * 0.5, (start.y + end.y) / 2 + bend.y * 0.5, end.x, end.y)
    c.stroke()
    const angle = Math.atan2(end.y - start.y, end.x - start.x)
    c.beginPath()
    c.moveTo(end.x, end.y)
    c.lineTo(end.x - 9 * Math.cos(angle - 0.45), end.y - 9 * Math.sin(angle - 0.45))
    c.lineTo(end.x - 9 * Math.cos(angle + 0.45), end.y - 9 * Math.sin(angle + 0.45))
    c.fill()
  }

  frame(cell, colour, width, dash) {
    const at = this.place(cell)
    if (!at) return
    const c = this.sheet.context
    const w = Math.max(this.w, 6), h = Math.max(this.h, 6)
    for (const [stroke, wide, pattern] of [["panel", width + 2.5, []], [colour, width, dash]]) {
      c.strokeStyle = this.theme[stroke]
      c.lineWidth = wide
      c.setLineDash(pattern)
      c.beginPath()
      c.roundRect(at.x - w / 2 + 0.5, at.y - h / 2 + 0.5, w - 1, h - 1, Math.min(6, w / 4))
      c.stroke()
    }
    c.setLineDash([])
  }

  numbers() {
    const { run, pass } = this
    const needs = run.soFar
    const hits = needs.hits[pass + 1], late = needs.late[pass + 1], misses = needs.misses[pass + 1]
    const ratio = `${Math.round((100 * hits) / (hits + late + misses || 1))}%`
    const lateText = late ? `${late.toLocaleString("en")} late, ` : ""
    const counts = `${hits.toLocaleString("en")} hit, ${lateText}${misses.toLocaleString("en")} missed`
    if (this.ratio.textContent !== ratio) this.ratio.textContent = ratio
    if (this.said !== counts) {
      this.said = counts
      this.counts.replaceChildren(element("span", "", counts), element("span", "memory", this.memory()))
    }
  }

  memory() {
    const { memory, slots, scope } = this.run.about
    if (!memory) return `${slots} slots ${scope === "model" ? "in all" : "a layer"}`
    return `holds ${bytes(memory[0])} of ${bytes(memory[1])}`
  }

  // What the picture shows, for who does not see it.
  describe() {
    const { hits, misses, late } = this.run
    const { name } = this.run.about
    const text = `${name}: ${hits[this.pass]} there, ${late[this.pass]} late, ${misses[this.pass]} missing.`
    this.canvas.setAttribute("aria-label", text)
  }

  pointer() {
    let from = null
    const canvas = this.canvas
    canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.offsetX, y: event.offsetY, view: { ...(this.stage.view ?? { x: 0.5, y: 0.5, zoom: 1 }) }, moved: false }
      canvas.setPointerCapture(event.pointerId)
    })
    canvas.addEventListener("pointermove", (event) => {
      const under = this.under(event)
      canvas.title = under ? this.hint(under) : ""
      if (!from || from.view.zoom <= 1) return
      const dx = event.offsetX - from.x, dy = event.offsetY - from.y
      if (Math.abs(dx) + Math.abs(dy) > 4) from.moved = true
      if (from.moved) {
        this.stage.look({
          x: from.view.x - dx / this.w / this.columns, y: from.view.y - dy / this.h / this.rows, zoom: from.view.zoom,
        })
      }
    })
    canvas.addEventListener("pointerup", (event) => {
      const under = from && !from.moved && this.under(event)
      from = null
      if (under) this.stage.select({ board: this.number, ...under, kept: true })
    })
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return // the page scrolls; a pinch or Ctrl zooms
      event.preventDefault()
      this.stage.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.fraction(event))
    }, { passive: false })
    canvas.addEventListener("dblclick", (event) => this.stage.zoom(2, this.fraction(event)))
  }

  fraction(event) {
    return {
      x: (this.x0 + ((event.offsetX - this.left) / this.w) * this.poolX) / this.columns,
      y: (this.y0 + ((event.offsetY - this.top) / this.h) * this.poolY) / this.rows,
    }
  }

  under(event) {
    const x = Math.floor((event.offsetX - this.left) / this.w), y = Math.floor((event.offsetY - this.top) / this.h)
    if (x < 0 || y < 0 || x >= this.nx || y >= this.ny) return null
    let column = this.x0 + x * this.poolX, row = this.y0 + y * this.poolY
    if (this.poolX * this.poolY > 1) [column, row] = this.worstIn(x, y)
    return this.across === "layer" ? { layer: column, expert: row } : { layer: row, expert: column }
  }

  worstIn(x, y) {
    let found = [this.x0 + x * this.poolX, this.y0 + y * this.poolY]
    const right = Math.min(found[0] + this.poolX, this.columns), bottom = Math.min(found[1] + this.poolY, this.rows)
    for (let column = found[0]; column < right; column++) {
      for (let row = this.y0 + y * this.poolY; row < bottom; row++) {
        if (WORST[this.states[this.cellAt(column, row)]] > WORST[this.states[this.cellAt(...found)]]) found = [column, row]
      }
    }
    return found
  }

  hint({ layer, expert }) {
    const { payload, experts } = this.run.model
    const words = { [RESIDENT]: "resident", [HIT]: "hit", [LATE]: "late", [MISS]: "miss", [PREFETCHED]: "prefetched" }
    const state = words[this.states[layer * experts + expert]]
    return `layer ${layer}, expert ${expert}${state ? `: ${payload.legend[state]}` : ""}`
  }
}

const needed = (state) => state === HIT || state === LATE || state === MISS
const differ = (mine, theirs) => needed(mine) && needed(theirs) && (mine === MISS) !== (theirs === MISS)

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"]
  let unit = 0
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000
    unit++
  }
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`
}
